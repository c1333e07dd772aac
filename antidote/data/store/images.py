"""Preprocessing of all pictures, clean or triggered: decode, convert to RGB, resize the shorter side, crop the centre.

For RGB pictures the result equals open_clip's evaluation transform (bicubic, anti-aliased). open_clip converts to RGB
last; this module converts first, because PIL resizes palette pictures without interpolation. As in open_clip, the EXIF
orientation is ignored, colour profiles are not applied, and the first picture of a file with several is used.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from antidote.base.errors import UserError
from antidote.data.store.limits import LARGEST_PIXELS, LONGEST

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
PNG = b"\x89PNG\r\n\x1a\n"
SILENT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # PNG chunks that do not change pixels; PIL limits their size
# Signatures of other file types: offset, bytes, name of the type, name of PIL's feature that reads it.
OTHERS = (
    (4, b"ftypavif", "AVIF", "avif"),
    (4, b"ftypavis", "AVIF", "avif"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000", "jpg_2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", "jpg_2000"),
    (4, b"ftyphei", "HEIC", None),
    (4, b"ftypmif1", "HEIC", None),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL", None),
    (0, b"\xff\x0a", "JPEG XL", None),
    (0, b"%PDF", "PDF", None),
    (0, b"<svg", "SVG", None),
    (0, b"version https://git-lfs", "a pointer of Git LFS", None),
)
# Exceptions that PIL raises on damaged files; RuntimeError and ZeroDivisionError come from AVIF.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError, RuntimeError, ZeroDivisionError)
DARK = "grey values below 256 in 16 or 32 bits, which would be black: store 8 bits"
BEYOND = "32-bit grey values beyond 16 bits: store 8 bits"
FLOATS = "floating-point grey values that do not span 0 to 255: store 8 bits"


class UnreadablePicture(Exception):
    """A picture that cannot be used; the text is the reason, equal for all pictures with the same fault."""


def decode(data: bytes) -> Image.Image:
    """Decode a picture completely; the mode is not converted, and `format` is the file format (MPO: JPEG of phones).

    Raises:
        UnreadablePicture: empty, not a picture, truncated or damaged, beyond a limit in `antidote.data.store.limits`,
            or with grey values that 8 bits would show as black or white.
    """
    if not data:
        raise UnreadablePicture("empty picture")
    try:
        try:
            image = _load(data)
        except ValueError:
            plain = _without_texts(data)
            if len(plain) == len(data):
                raise
            image = _load(plain)
    except Image.DecompressionBombError:
        raise UnreadablePicture(f"picture of more than {LARGEST_PIXELS} pixels") from None
    except UnidentifiedImageError:
        raise UnreadablePicture(_what_else(data)) from None
    except DAMAGED:
        raise UnreadablePicture("damaged picture") from None
    check_greys(image)
    return image


def _load(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > LARGEST_PIXELS:
        raise UnreadablePicture(f"picture of more than {LARGEST_PIXELS} pixels")
    if max(image.size) > LONGEST * min(image.size):
        raise UnreadablePicture(f"picture more than {LONGEST} times as long as wide")
    image.load()
    return image


def _without_texts(data: bytes) -> bytes:
    """Return a PNG file without its text chunks and colour profile; other files unchanged."""
    if not data.startswith(PNG):
        return data
    kept, place = [PNG], len(PNG)
    while place + 8 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] not in SILENT:
            kept.append(data[place:end])
        place = end
    return b"".join([*kept, data[place:]])


def _what_else(data: bytes) -> str:
    for place, start, name, module in OTHERS:
        if data[place:].startswith(start):
            known = module is not None and features.check(module)
            return "damaged picture" if known else f"{name}, which is not read"
    return "not a picture"


def check_greys(image: Image.Image) -> None:
    """Reject grey values of more than 8 bits if their range does not determine the value of white.

    Raises:
        UnreadablePicture: states the range of the values.
    """
    if not image.mode.startswith(("I", "F")):
        return
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= -0.5 and high < 255.5) or 0 < high <= 1:  # NaN fails both comparisons
            raise UnreadablePicture(FLOATS)
    elif low < 0 or high > 0xFFFF:
        raise UnreadablePicture(BEYOND)
    elif 0 < high < 256:
        raise UnreadablePicture(DARK)


def rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; the alpha channel is dropped, as in open_clip; 16 bits are reduced to 8."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def shorter_side(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to `size` pixels, bicubic with anti-aliasing; the aspect ratio is kept."""
    width, height = image.size
    short, long = sorted((width, height))
    if short == size:
        return image
    long = int(size * long / short)
    return image.resize((size, long) if width <= height else (long, size), Image.Resampling.BICUBIC)


def fit(image: Image.Image, size: int) -> np.ndarray:
    """Resize, crop and return a picture as uint8 (size, size, 3); an RGB picture of that size is unchanged."""
    image = shorter_side(rgb(image), size)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def encode_png(array: np.ndarray) -> bytes:
    """Encode uint8 (height, width, 3) as PNG; equal pixels give equal bytes."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def encode_jpeg(array: np.ndarray) -> bytes:
    """Encode uint8 (height, width, 3) as JPEG of quality 95 without chroma subsampling."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def load_pictures(
    files: Sequence[bytes], size: int, threads: int = 1, names: Sequence[str] | None = None
) -> np.ndarray:
    """Decode, resize and crop pictures; return uint8 (N, 3, size, size).

    Args:
        files: image files (N).
        size: side in pixels.
        threads: decoding threads.
        names: names of the pictures for messages (N); None: messages give the position.

    Raises:
        UserError: a picture cannot be read; names the picture.
    """
    pictures = np.empty((len(files), 3, size, size), np.uint8)

    def load(row: int) -> None:
        try:
            pictures[row] = fit(decode(files[row]), size).transpose(2, 0, 1)
        except UnreadablePicture as error:
            raise UserError(f"{names[row] if names else f'picture {row} of {len(files)}'}: {error}") from None

    if threads <= 1:
        for row in range(len(files)):
            load(row)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(load, range(len(files)), chunksize=16))
    return pictures
