"""One geometry for every picture, clean or triggered: decode, convert to RGB, resize the shorter side, crop the centre.

Equal to open_clip's transform for evaluation (bicubic, anti-aliased) for RGB pictures. open_clip converts to RGB last;
here it comes first, because PIL resizes palette pictures without interpolation.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, UnidentifiedImageError

from antidote.base.errors import UserError
from antidote.data.store.limits import LARGEST_PIXELS, LONGEST

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


class UnreadablePicture(Exception):
    """A picture that cannot be used; the text is the reason, the same for all pictures with the same fault."""


def decode(data: bytes) -> Image.Image:
    """Decode a whole picture; its mode stays as stored and `format` tells the file format.

    Raises:
        UnreadablePicture: empty, not a picture, truncated or damaged, or beyond one of `antidote.data.store.limits`.
    """
    if not data:
        raise UnreadablePicture("empty picture")
    too_large = UnreadablePicture(f"picture of more than {LARGEST_PIXELS} pixels")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > LARGEST_PIXELS:
            raise too_large
        if max(image.size) > LONGEST * min(image.size):
            raise UnreadablePicture(f"picture more than {LONGEST} times as long as wide")
        image.load()
    except Image.DecompressionBombError:
        raise too_large from None
    except UnidentifiedImageError:
        raise UnreadablePicture("not a picture") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError):  # what PIL raises on damaged files
        raise UnreadablePicture("damaged picture") from None
    return image


def rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; an alpha channel is dropped, as open_clip does; 16 bits become 8."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def shorter_side(image: Image.Image, size: int) -> Image.Image:
    """Resize so that the shorter side is `size` pixels, bicubic with anti-aliasing; the aspect ratio stays."""
    width, height = image.size
    short, long = sorted((width, height))
    if short == size:
        return image
    long = int(size * long / short)
    return image.resize((size, long) if width <= height else (long, size), Image.Resampling.BICUBIC)


def fit(image: Image.Image, size: int) -> np.ndarray:
    """Return the picture as uint8 (size, size, 3); one of that size already comes back as it is."""
    image = shorter_side(rgb(image), size)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def encode_png(array: np.ndarray) -> bytes:
    """Return uint8 (height, width, 3) as PNG; the same pixels give the same bytes."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def encode_jpeg(array: np.ndarray) -> bytes:
    """Return uint8 (height, width, 3) as JPEG of quality 95 without chroma subsampling."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def load_pictures(
    files: Sequence[bytes], size: int, threads: int = 1, names: Sequence[str] | None = None
) -> np.ndarray:
    """Decode and fit pictures: uint8 (N, 3, size, size).

    Raises:
        UserError: a picture cannot be read; names it by its name in `names`, else by its position.
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
