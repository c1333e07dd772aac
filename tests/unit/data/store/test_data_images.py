"""The one geometry: equal to open_clip's, for every kind of picture; what cannot be read says why."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from antidote.base.errors import UserError
from antidote.data.store import images


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def file(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(32, 32), (33, 32), (32, 45), (100, 57), (57, 100), (20, 31), (224, 225), (301, 97)])
@pytest.mark.parametrize("size", [32, 57])
def test_fit_is_open_clips_transform(shape, size):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    picture = Image.fromarray(noise(*shape))
    reference = Compose([Resize(size, InterpolationMode.BICUBIC), CenterCrop(size)])(picture)
    assert np.array_equal(images.fit(picture, size), np.asarray(reference))


def test_fit_leaves_a_fitting_picture_as_it_is():
    array = noise(32, 32)
    assert np.array_equal(images.fit(Image.fromarray(array), 32), array)


def test_fit_twice_is_fit_once():
    once = images.fit(Image.fromarray(noise(71, 50)), 32)
    assert np.array_equal(images.fit(Image.fromarray(once), 32), once)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_every_mode_becomes_rgb(mode):
    if mode == "I;16":
        picture = Image.fromarray(np.full((40, 50), 0x8000, np.uint16))
    else:
        picture = Image.new("RGB", (50, 40), (128, 128, 128)).convert(mode, palette=Image.Palette.ADAPTIVE)
    fitted = images.fit(picture, 32)
    assert fitted.shape == (32, 32, 3) and fitted.dtype == np.uint8
    assert mode == "1" or np.abs(fitted.astype(int) - 128).max() <= 3


def test_palette_picture_is_resized_smoothly():
    """Resized before conversion, as PIL would, a palette picture loses every second line."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255
    picture = images.decode(file(Image.fromarray(stripes).convert("P")))
    assert picture.mode == "P"
    middle = images.fit(picture, 32)[8:-8, 8:-8]
    assert middle.min() > 64 and middle.max() < 192


def test_png_keeps_every_bit_and_is_the_same_each_time():
    array = noise(16, 24)
    assert np.array_equal(np.asarray(images.decode(images.encode_png(array))), array)
    assert images.encode_png(array) == images.encode_png(array.copy())


def damaged_pictures():
    whole = file(Image.fromarray(noise(64, 64)))
    jpeg = file(Image.fromarray(noise(64, 64)), "JPEG")
    return {
        "empty picture": b"",
        "not a picture": b"<html>404</html>",
        "damaged picture": whole[: len(whole) // 2],
        "damaged picture (jpeg)": jpeg[: len(jpeg) // 2],
        "damaged picture (bits)": whole[:200] + bytes(40) + whole[240:],
    }


@pytest.mark.parametrize("reason", damaged_pictures())
def test_unreadable_pictures_say_why(reason):
    with pytest.raises(images.UnreadablePicture) as error:
        images.decode(damaged_pictures()[reason])
    assert str(error.value) == reason.split(" (")[0]


@pytest.mark.parametrize("side", [10_000, 40_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_picture_bomb_is_not_opened(side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    with pytest.raises(images.UnreadablePicture, match="more than 89478485 pixels"):
        images.decode(bomb)


@pytest.mark.parametrize("shape", [(1, 10_000), (10_000, 1), (3, 301), (1, 60_000_000)])
def test_long_thin_picture_is_not_opened(shape):
    """Scaled to a shorter side of 224 pixels, the first takes 2 GB."""
    with pytest.raises(images.UnreadablePicture, match="more than 100 times as long as wide"):
        images.decode(file(Image.new("1", shape)))
    images.fit(images.decode(file(Image.new("1", (3, 300)))), 32)


@pytest.mark.parametrize("threads", [1, 3])
def test_load_pictures_keeps_the_order(threads):
    arrays = [noise(32, 32, seed) for seed in range(40)]
    loaded = images.load_pictures([images.encode_png(array) for array in arrays], 32, threads)
    assert loaded.shape == (40, 3, 32, 32) and loaded.dtype == np.uint8
    assert np.array_equal(loaded, np.stack(arrays).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("threads", [1, 3])
def test_load_pictures_names_the_unreadable_one(threads):
    with pytest.raises(UserError, match="picture 1 of 2: not a picture"):
        images.load_pictures([images.encode_png(noise(8, 8)), b"x"], 8, threads)
