"""Pictures as other tools leave them: read as they are meant, or refused by a line that names what they are."""

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from source_parts import picture, saved, source, stored, tar

from antidote.base.errors import UserError
from antidote.data import fitted
from antidote.data.pairs import load_rows
from antidote.data.store import images
from antidote.data.store.intake import image_file
from antidote.data.store.keys import safe_key


def phone(size=40):
    """A JPEG with a second picture, as phones write it."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))
    return saved(image, "MPO", save_all=True, append_images=[image.resize((8, 8))])


def test_jpeg_of_a_phone_is_a_jpeg():
    data = phone()
    assert images.decode(data).format == "MPO"
    assert image_file(data, None) == (data, "jpg")
    smaller, extension = image_file(data, 20)
    assert extension == "jpg" and Image.open(io.BytesIO(smaller)).format == "JPEG"


@pytest.mark.parametrize(
    "kind,options,extension",
    [("WEBP", {}, "jpg"), ("WEBP", {"lossless": True}, "png"), ("AVIF", {}, "jpg"), ("JPEG2000", {}, "png"),
     ("WEBP", {"lossless": True, "icc_profile": b"x" * 99}, "png"), ("WEBP", {"icc_profile": b"x" * 99}, "jpg"),
     ("BMP", {}, "png"), ("GIF", {}, "png")],
)  # fmt: skip
def test_what_becomes_of_pictures_that_shrink(kind, options, extension):
    assert image_file(picture(size=40, kind=kind, **options), 20)[1] == extension


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_formats_of_the_web_and_of_libraries(kind):
    smooth = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))).convert("RGB")
    data = saved(smooth, kind)
    assert np.abs(images.fit(images.decode(data), 64).astype(int) - np.asarray(smooth)).max() <= 6
    same, extension = image_file(data, None)
    assert extension == "png" and np.array_equal(
        images.fit(images.decode(same), 64), images.fit(images.decode(data), 64)
    )


def test_damaged_avif_is_one_word():
    data = bytearray(picture(size=40, kind="AVIF"))
    for place in range(0, len(data), 3):
        damaged = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
        try:
            images.decode(bytes(damaged))
        except images.UnreadablePicture as error:
            assert len(str(error)) < 80


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_texts_of_a_png_are_no_damage(packed, after, monkeypatch):
    if not packed:
        monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 1000)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "x" * (2 << 20), zip=packed)
    plain = picture(size=40)
    data = picture(size=40, pnginfo=texts)
    if after:  # the texts after the pixels
        start = data.index(b"zTXt" if packed else b"tEXt") - 4
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        data = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert np.array_equal(images.fit(images.decode(data), 40), images.fit(images.decode(plain), 40))
    assert image_file(data, None) == (data, "png")
    with pytest.raises(images.UnreadablePicture, match="damaged picture"):
        images.decode(data[:-600] if not after else data[:300])


def grey(values, kind="TIFF"):
    return saved(Image.fromarray(values), kind)


RAMP = np.arange(64 * 64).reshape(64, 64)


@pytest.mark.parametrize(
    "data,reason",
    [
        (grey((RAMP % 256).astype(np.int32)), "grey values below 256"),
        (grey((RAMP % 256).astype(np.uint16), "PNG"), "grey values below 256"),
        (grey((RAMP * 100).astype(np.int32)), "beyond 16 bits"),
        (grey((RAMP - 9).astype(np.int32)), "beyond 16 bits"),
        (grey((RAMP / 4096).astype(np.float32)), "floating-point"),
        (grey((RAMP * 1.0).astype(np.float32)), "floating-point"),
        (grey(np.full((9, 9), np.nan, np.float32)), "floating-point"),
    ],
)
def test_greys_that_would_come_out_black_or_white_are_refused(data, reason):
    for read in (images.decode, lambda file: image_file(file, None)):
        with pytest.raises(images.UnreadablePicture, match=reason):
            read(data)


@pytest.mark.parametrize(
    "data",
    [
        grey((RAMP * 16).astype(np.int32)), grey((RAMP * 16).astype(np.uint16), "PNG"),
        grey((RAMP / 4095 * 255).astype(np.float32)),
    ],
)  # fmt: skip
def test_greys_of_a_known_range_span_it(data):
    fitted = images.fit(images.decode(data), 64)
    assert fitted.min() == 0 and fitted.max() == 255


def test_black_is_black():
    for values in (np.zeros((9, 9), np.int32), np.zeros((9, 9), np.float32)):
        assert images.fit(images.decode(grey(values)), 9).max() == 0


@pytest.mark.parametrize(
    "data,what",
    [
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), "HEIC"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"%PDF-1.7", "PDF"),
        (b'<svg xmlns="', "SVG"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
    ],
)
def test_files_of_another_kind_are_named(data, what):
    with pytest.raises(images.UnreadablePicture, match=f"^{what}, which is not read$"):
        images.decode(data)


def test_a_format_that_this_pillow_lacks_is_named(monkeypatch):
    data = picture(kind="AVIF")
    monkeypatch.setattr(images, "FORMATS", ("PNG",))
    monkeypatch.setattr(images.features, "check", lambda name: False)
    with pytest.raises(images.UnreadablePicture, match=r"^AVIF, which is not read$"):
        images.decode(data)


def test_orientation_of_exif_is_ignored():
    array = np.zeros((32, 32, 3), np.uint8)
    array[:16] = 255
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    data = saved(Image.fromarray(array), "PNG", exif=exif)
    assert np.array_equal(images.fit(images.decode(data), 32), array)


def test_the_endings_of_pictures_are_no_part_of_a_key():
    assert [safe_key(f"a.{ending}") for ending in ("jpg", "JFIF", "avif", "txt")] == ["a", "a", "a", "a_txt"]


def test_an_unreadable_stored_picture_is_named(tmp_path):
    """Not by its place among those that are read at once."""
    settings = source("webdataset", splits={"train": tar(tmp_path / "0.tar", [("a.png", picture()), ("a.txt", b"x")])})
    _, index = stored(tmp_path, settings)
    data = bytearray((tmp_path / "out" / "00000.tar").read_bytes())
    data[index["offset"][0] : index["offset"][0] + 8] = bytes(8)
    (tmp_path / "out" / "00000.tar").write_bytes(data)
    text = rf"{tmp_path}/out/00000\.tar: a: not a picture"
    with pytest.raises(UserError, match=text):
        load_rows(tmp_path / "out", None, 8)
    with pytest.raises(UserError, match=text):
        fitted.load(tmp_path / "out", 8, None).images[0]
