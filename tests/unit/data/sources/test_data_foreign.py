"""Pictures and pairs as other tools leave them: read as they are meant, or refused by a line that names what they are."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.data import fitted
from antidote.data.download.addresses import addresses
from antidote.data.pairs import load_rows
from antidote.data.sources.base import RawPair, Skipped, listed
from antidote.data.store import images, ingest, shards
from antidote.data.store.intake import image_file
from antidote.data.store.keys import safe_key


def picture(seed=0, size=12, kind="PNG", **options):
    array = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return saved(Image.fromarray(array), kind, **options)


def saved(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def source(kind, **values):
    return method("source", kind).read({"source": kind, **values}, "datasets.mine")


def pairs(settings, split="train"):
    return list(settings.iterate(split))


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return str(path)


def shard(tmp_path, members, **settings):
    return pairs(source("webdataset", splits={"train": tar(tmp_path / "0.tar", members)}, **settings))


def stored(tmp_path, settings):
    manifest = ingest.write(settings, "mine", "train", tmp_path / "out")
    return manifest, shards.open_index(tmp_path / "out")


# --- several captions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text,captions",
    [
        ('["a cat", "one cat"]', ["a cat", "one cat"]),
        ("['a cat', \"it's one\"]", ["a cat", "it's one"]),
        (" [] ", []),
        ("[laughs]", None), ("[1, 2]", None), ("a [cat]", None), ("[" * 5000 + "]" * 5000, None), ('["a", 1]', None),
    ],
)  # fmt: skip
def test_lists_written_as_text(text, captions):
    assert listed([text]) == ([text] if captions is None else captions, captions is not None)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("write", [json.dumps, str])
def test_table_with_lists_written_as_text(tmp_path, caplog, ending, write):
    (tmp_path / "a.png").write_bytes(picture())
    table = pd.DataFrame({"file": ["a.png"], "text": [write(["a cat", "one  cat"])]})
    getattr(table, f"to_{ending}")(tmp_path / f"t.{ending}", index=False)
    settings = source("table", splits={"train": str(tmp_path / f"t.{ending}")}, path="file", caption="text")
    manifest, index = stored(tmp_path, settings)
    assert list(index["captions"][0]) == ["a cat", "one cat"] and index["caption"][0] == "a cat"
    assert manifest["adapted"] == {"list of captions written as text, read as a list": 1}
    assert "mine/train: read otherwise than written: 1 x list of captions written as text" in caplog.text


@pytest.mark.parametrize(
    "more,settings,captions,note",
    [
        ([], {}, ["a cat", "one cat"], "per line"),
        ([("a.json", b'{"caption": "a cat\\n one cat"}')], {}, ["a cat one cat"], "as one"),
        ([("a.json", b'{"caption": "a cat\\n one cat"}')], {"lines": True}, ["a cat", "one cat"],
         "per line"),
        ([], {"lines": False}, ["a cat one cat"], "as one"),
    ],
)  # fmt: skip
def test_txt_of_several_lines(tmp_path, more, settings, captions, note):
    (got,) = shard(tmp_path, [("a.png", picture()), ("a.txt", b"a cat\n one cat\n"), *more], **settings)
    assert got.captions == captions
    assert len(got.notes) == 1 and note in got.notes[0]


def test_one_line_is_one_caption_without_a_note(tmp_path):
    (got,) = shard(tmp_path, [("a.png", picture()), ("a.txt", b"a  cat\n")])
    assert got == RawPair("a", picture(), ["a cat"], None)


def test_captions_left_out_of_several_are_said(tmp_path):
    (got,) = shard(tmp_path, [("a.png", picture()), ("a.json", b'{"captions": ["a cat", 7, {"raw": "x"}]}')])
    assert got.captions == ["a cat"] and "left out of several" in got.notes[0]


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_table_of_addresses_with_lists_written_as_text(tmp_path, caplog, ending):
    urls = [f"https://a.example/{n}.jpg" for n in range(3)]
    table = pd.DataFrame({"url": urls, "caption": ['["a cat", "one  cat"]', "[laughs]", "a dog"]})
    if ending == "json":
        table.to_json(tmp_path / "t.json", orient="records")
    else:
        getattr(table, f"to_{ending}")(tmp_path / f"t.{ending}", index=False)
    wanted = addresses(source("url_table", splits={"train": str(tmp_path / f"t.{ending}")}), "train")
    assert wanted.list["captions"].tolist() == [["a cat", "one cat"], ["[laughs]"], ["a dog"]]
    assert "read otherwise than written: 1 x list of captions" in caplog.text


# --- shards ----------------------------------------------------------------------------------------------------------


def told(tmp_path, members, **settings):
    settings = source("webdataset", splits={"train": tar(tmp_path / "0.tar", members)}, **settings)
    with pytest.raises(UserError) as error:
        ingest.write(settings, "mine", "train", tmp_path / "out")
    return str(error.value)


def test_keys_with_dots_are_named(tmp_path):
    members = [(f"img.{n:04d}.{kind}", b"x") for n in range(9) for kind in ("jpg", "txt")]
    text = told(tmp_path, members)
    assert "keys with a dot, where webdataset ends a key" in text and "img: holds 0000.jpg, 0000.txt" in text


def test_members_that_are_not_adjacent_are_named(tmp_path):
    members = [(f"{n}.{kind}", picture() if kind == "png" else b"a cat") for kind in ("png", "txt") for n in range(3)]
    assert "3 x members of a sample are not adjacent" in told(tmp_path, members)


def test_keys_of_a_json_without_captions_are_named(tmp_path):
    text = told(tmp_path, [("a.jpg", picture()), ("a.json", b'{"text": "a cat", "url": "x"}')])
    assert "json without 'caption' (setting `caption`), with text, url" in text
    (got,) = shard(tmp_path, [("a.jpg", picture()), ("a.json", b'{"text": "a cat"}')], caption="text")
    assert got.captions == ["a cat"]


def test_list_under_the_key_of_the_caption(tmp_path):
    (got,) = shard(tmp_path, [("a.jpg", picture()), ("a.json", b'{"caption": ["a cat", "one cat"]}')])
    assert got == RawPair("a", picture(), ["a cat", "one cat"], None)


def test_class_names_in_cls(tmp_path):
    members = [("a.png", picture()), ("a.cls", b"church\n"), ("b.png", picture(1)), ("b.cls", b"whale")]
    first, second = shard(tmp_path, members, classes="imagenette")
    assert first == RawPair("a", picture(), ["a photo of a church."], 4)
    assert second == Skipped("b", "class 'whale' is not in classes 'imagenette'")
    first, _ = shard(tmp_path, members)
    assert first.label is None and "class name in cls, read without a label" in first.notes[0]


def test_equal_keys_of_two_runs(tmp_path):
    for run in (0, 1):
        (tmp_path / f"run{run}").mkdir()
        tar(tmp_path / f"run{run}" / "0.tar", [("7.png", picture(run)), ("7.txt", b"a cat")])
    where = {"train": str(tmp_path / "run*" / "0.tar")}
    with pytest.raises(
        UserError, match=r"1 x duplicate key; such as 7; `prefix: true` tells pairs of different shards"
    ):
        stored(tmp_path, source("webdataset", splits=where))
    _, index = stored(tmp_path, source("webdataset", splits=where, prefix=True))
    assert index["key"].tolist() == ["run0_0_7", "run1_0_7"]
    where = {"train": str(tmp_path / "run0" / "0.tar")}
    assert stored(tmp_path, source("webdataset", splits=where, prefix=True))[1]["key"].tolist() == ["0_7"]


def test_rows_of_tables_of_one_name_are_told_apart(tmp_path):
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        pd.DataFrame({"image": [picture()], "text": [part]}).to_parquet(tmp_path / part / "train.parquet")
    where = {"train": str(tmp_path / "*" / "train.parquet")}
    got = pairs(source("table", splits=where, image="image", caption="text"))
    assert [item.key for item in got] == ["a/train-0000000", "b/train-0000000"]


@pytest.mark.parametrize(
    "data,text",
    [
        (b"\x28\xb5\x2f\xfd\x00", "is packed by zstd, which is not read"),
        (b"PK\x03\x04...", "is a zip and no tar"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"<!DOCTYPE html>", "is a page of the web"),
    ],
)
def test_files_that_are_no_tar_are_named(tmp_path, data, text):
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(UserError, match=text):
        pairs(source("webdataset", splits={"train": str(tmp_path / "0.tar")}))


def test_a_folder_is_there(tmp_path):
    tar(tmp_path / "0.tar", [("a.png", picture())])
    settings = source("webdataset", splits={"train": str(tmp_path)})
    with pytest.raises(UserError, match=r"is a folder; name the files in it, such as .*/\*\.tar$"):
        pairs(settings)
    assert "is a folder" in settings.absent("train")[0]


def test_damaged_files_name_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr("antidote.data.sources.webdataset.LARGEST", 10)
    assert "member of more than 0 MB (a.png)" in told(tmp_path, [("a.png", picture())])


# --- tables ----------------------------------------------------------------------------------------------------------


def csv(tmp_path, path):
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "0.png").write_bytes(picture())
    pd.DataFrame({"file": [path], "text": ["a cat"]}).to_csv(tmp_path / "t.csv", index=False)
    return source("table", splits={"train": str(tmp_path / "t.csv")}, path="file", caption="text")


def test_the_path_that_was_tried_is_named(tmp_path):
    (got,) = pairs(csv(tmp_path, "/media/disk4/0.png"))
    assert got.detail == "/media/disk4/0.png: No such file or directory"
    settings = csv(tmp_path, "data/0.png")
    tried = f"{tmp_path}/data/0.png: No such file or directory; 'data/0.png' is relative to the table's folder"
    assert pairs(settings)[0].detail == tried
    assert settings.absent("train") == [f"{tmp_path}/t.csv: t-0000000: picture file cannot be read ({tried})"]
    with pytest.raises(UserError) as error:
        stored(tmp_path, settings)
    assert f"1 x picture file cannot be read; such as t-0000000: {tried}" in str(error.value)


@pytest.mark.parametrize(
    "path,reason",
    [("", "row without a picture"), ("https://example.org/0.png", "an address of the web where a path is wanted")],
)
def test_rows_without_a_file_are_named(tmp_path, path, reason):
    (got,) = pairs(csv(tmp_path, path))
    assert got.reason.startswith(reason)


def test_paths_of_windows(tmp_path):
    (got,) = pairs(csv(tmp_path, "images\\0.png"))
    assert got.image == picture() and got.notes == ("path with backslashes, read as slashes",)
    (got,) = pairs(csv(tmp_path, "images\\1.png"))
    assert "images\\1.png: No such file" in got.detail


def test_paths_where_a_parquet_holds_no_bytes(tmp_path):
    (tmp_path / "0.png").write_bytes(picture())
    values = [{"bytes": None, "path": "0.png"}, {"bytes": b"", "path": str(tmp_path / "0.png")},
              {"bytes": None, "path": "gone.png"}, {"bytes": None, "path": None}]  # fmt: skip
    pd.DataFrame({"image": values, "text": ["a cat"] * 4}).to_parquet(tmp_path / "t.parquet")
    got = pairs(source("table", splits={"train": str(tmp_path / "t.parquet")}, image="image", caption="text"))
    assert [getattr(item, "image", None) for item in got] == [picture(), picture(), None, None]
    assert [item.reason for item in got[2:]] == ["picture file cannot be read", "row without a picture"]
    assert "gone.png" in got[2].detail


def test_values_of_another_kind_are_no_pictures_labels_or_names(tmp_path):
    rows = {"image": ["0.png", "1.png"], "bytes": [picture(), picture()], "text": ["a", "b"], "label": [2.0, 2.5],
            "name": [7, 8]}  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    where = {"splits": {"train": str(tmp_path / "t.parquet")}}
    got = pairs(source("table", **where, image="image", caption="text"))
    assert got[0].reason == "str where the bytes of a picture are wanted; a column of paths is named by `path`"
    got = pairs(source("table", **where, image="bytes", caption="text", label="label"))
    assert got[0].label == 2 and got[1] == Skipped("t-0000001", "label is not an integer", "2.5")
    got = pairs(source("table", **where, image="bytes", class_name="name"))
    assert got[0] == Skipped("t-0000000", "class name that is no text", "7")


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def classes(tmp_path):
    for name in ("church", "tench"):
        (tmp_path / "set" / "val" / name).mkdir(parents=True)
        for n in range(2):
            (tmp_path / "set" / "val" / name / f"{n}.png").write_bytes(picture(n))
    return source("folder", root=str(tmp_path / "set"), splits={"train": "val"}), tmp_path / "set" / "val"


OWN = ["church/0.png", "church/1.png", "tench/0.png", "tench/1.png"]


@pytest.mark.parametrize(
    "left", ["tench/.ipynb_checkpoints/0.png", "tench/._0.png", "__MACOSX/tench/0.png", "tench/a/.b/c/0.png",
             "tench/a/__MACOSX/0.png", ".git/0.png", "@eaDir/tench/0.png"],
)  # fmt: skip
def test_leftovers_are_left_out(classes, left):
    settings, root = classes
    (root / left).parent.mkdir(parents=True, exist_ok=True)
    (root / left).write_bytes(picture())
    assert [item.key for item in pairs(settings)] == OWN


def test_links_are_followed_as_torchvision_does(classes, tmp_path):
    from torchvision.datasets import ImageFolder

    settings, root = classes
    (tmp_path / "more" / "deep").mkdir(parents=True)
    (tmp_path / "more" / "deep" / "2.png").write_bytes(picture(2))
    (root / "tench" / "more").symlink_to(tmp_path / "more")
    (root / "truck").symlink_to(tmp_path / "more")
    (root / "church" / "9.png").symlink_to(root / "tench" / "0.png")
    wanted = [str(Path(path).relative_to(root)) for path, _ in ImageFolder(root).samples]
    assert sorted(item.key for item in pairs(settings)) == sorted(wanted)
    assert len(wanted) == len(OWN) + 3


def test_links_that_go_round_end(classes, tmp_path):
    settings, root = classes
    (tmp_path / "other").mkdir()
    (root / "tench" / "all").symlink_to(root)
    (root / "church" / "other").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(root / "church")
    got = {item.key: item for item in pairs(settings)}
    loops = {key: item.detail for key, item in got.items() if isinstance(item, Skipped)}
    assert set(OWN) <= set(got)
    assert loops["church/other/back"] == str(root / "church")
    assert all(got[key].reason == "link to a folder that holds it" for key in loops) and len(got) < 20


def test_files_of_other_endings_are_counted(classes, caplog):
    settings, root = classes
    (root / "tench" / "a.HEIC").write_bytes(b"x")
    (root / "tench" / "b.JFIF").write_bytes(picture(kind="JPEG"))
    assert [item.key for item in pairs(settings)] == [*OWN, "tench/b.JFIF"]
    assert "are left out: 1 x .heic" in caplog.text


def test_folders_without_class_folders_say_what_they_are(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    for split, text in (
        ("a.png", "is no folder"),
        ("gone", "no such folder"),
        ("", "holds no class folders, but 1 pic"),
    ):
        with pytest.raises(UserError, match=text):
            pairs(source("folder", root=str(tmp_path), splits={"train": split}))


# --- pictures --------------------------------------------------------------------------------------------------------


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


# --- the line that tells of it ---------------------------------------------------------------------------------------


def test_each_frequent_reason_has_an_example(tmp_path):
    members = [(f"{n}.txt", b"x") for n in range(5)] + [("x.png", picture()), ("y.png", b"junk"), ("y.txt", b"a")]
    text = told(tmp_path, members)
    assert "(5 x no picture member, 1 x not a picture, 1 x no caption; such as 0: holds txt, " in text
    assert "such as 0: holds txt, y, x: holds png)" in text


def test_many_reasons_are_cut(tmp_path):
    members = [(f"{n}.{kind}", picture() if kind == "png" else f"whale{n}".encode())
               for n in range(12) for kind in ("png", "cls")]  # fmt: skip
    assert "and 4 reasons more; such as 0" in told(tmp_path, members, classes="imagenette")
