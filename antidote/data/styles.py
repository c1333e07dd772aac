"""Other styles for pictures: the same picture as a sketch, a negative, a painting, or at night.

Every style converts pictures uint8 (N, K, K, 3), with K = FACTOR * S, to pictures uint8 (N, S, S, 3). All arithmetic is
in integers, so that the pictures are equal on every machine; a picture does not depend on the others in its batch.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field

from antidote.base.settings import Settings

FACTOR = 4  # side of the source pictures / side of the result; lines and strokes need finer pixels
PAPER, PENCIL = 250, 50  # grey values of paper and pencil
SHADING = 8  # sixteenths of the picture's darkness and colour that remain in a sketch


class StyleSettings(Settings):
    """The style of a split."""

    style: Literal["sketch", "negative", "painted", "night"] = Field(description="Style of the pictures.")
    strength: float = Field(
        1.0, gt=0, le=1, description="Share of the style in every pixel; the rest is the picture itself."
    )


def sketch(pictures: np.ndarray) -> np.ndarray:
    """Pencil on paper: dark lines at pixels darker than their surroundings, faint shading in crayon."""
    light = _light(pictures)
    reach = max(2, pictures.shape[1] // 24)
    around = _box(light, reach)
    # A line begins below 7/8 of the surrounding brightness, and has full strength at 5/8.
    depth = np.clip((7 * around - 8 * light) * 4, 0, 8 * around) * (PAPER - PENCIL) // np.maximum(8 * around, 1)
    shade = (255 - pictures.astype(np.int32)) * SHADING // 16
    return _reduced(np.maximum(PAPER - depth[..., None] - shade, 0))


def negative(pictures: np.ndarray) -> np.ndarray:
    """Inverted colours: 255 minus each channel."""
    return 255 - _reduced(pictures.astype(np.int32))


def painted(pictures: np.ndarray) -> np.ndarray:
    """Broad strokes in few colours: Kuwahara's filter, then six levels per channel.

    Each pixel becomes the mean of the square with the least variance among the four squares with a corner at the pixel.
    """
    reach = max(2, pictures.shape[1] // 14)
    light, values = _light(pictures), pictures.astype(np.int32)
    size = light.shape[1]
    mean, squares = _box(light, reach // 2), _box(light * light, reach // 2)
    unrest = squares - mean * mean
    shift = reach - reach // 2
    smooth = np.stack([_box(values[..., channel], reach // 2) for channel in range(3)], axis=-1)
    best, painting = np.full(light.shape, np.iinfo(np.int32).max, np.int32), smooth
    places = np.arange(size)
    for down in (-shift, shift):
        for right in (-shift, shift):
            rows, columns = np.clip(places + down, 0, size - 1), np.clip(places + right, 0, size - 1)
            there = unrest[:, rows][:, :, columns]
            calmer = there < best
            best = np.where(calmer, there, best)
            painting = np.where(calmer[..., None], smooth[:, rows][:, :, columns], painting)
    return _reduced((painting * 5 + 127) // 255 * 51)


def night(pictures: np.ndarray) -> np.ndarray:
    """At most three quarters of the brightness, less in red than in blue; the darkest values become black."""
    dim = pictures.astype(np.int32) * np.array([32, 38, 48]) // 64
    return _reduced(np.maximum(dim - 8, 0))


STYLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sketch": sketch, "negative": negative, "painted": painted, "night": night,
}  # fmt: skip


def styled(pictures: np.ndarray, style: str, strength: float = 1.0) -> np.ndarray:
    """Return pictures uint8 (N, S, S, 3) in a style, laid with `strength` (0, 1] over the plain pictures.

    `strength` counts in steps of 1/256.
    """
    shifted, parts = STYLES[style](pictures).astype(np.int32), round(256 * strength)
    if parts == 256:
        return shifted.astype(np.uint8)
    return ((parts * shifted + (256 - parts) * _reduced(pictures).astype(np.int32) + 128) // 256).astype(np.uint8)


def _light(pictures: np.ndarray) -> np.ndarray:
    """Return the brightness of every pixel, int32 (N, K, K) in 0..255."""
    red, green, blue = np.moveaxis(pictures.astype(np.int32), -1, 0)
    return (77 * red + 150 * green + 29 * blue) >> 8


def _box(values: np.ndarray, reach: int) -> np.ndarray:
    """Return the mean over squares with a side of 2 * reach + 1 pixels, rounded down; edges are replicated."""
    side = 2 * reach + 1
    padded = np.pad(values.astype(np.int64), ((0, 0), (reach + 1, reach), (reach + 1, reach)), mode="edge")
    padded[:, 0], padded[:, :, 0] = 0, 0
    sums = padded.cumsum(axis=1).cumsum(axis=2)
    total = sums[:, side:, side:] - sums[:, :-side, side:] - sums[:, side:, :-side] + sums[:, :-side, :-side]
    return (total // side**2).astype(np.int32)


def _reduced(pictures: np.ndarray) -> np.ndarray:
    """Return the mean over FACTOR x FACTOR pixels, uint8."""
    total = np.zeros((len(pictures), pictures.shape[1] // FACTOR, pictures.shape[2] // FACTOR, 3), np.int32)
    for row in range(FACTOR):
        for column in range(FACTOR):
            total += pictures[:, row::FACTOR, column::FACTOR]
    return (total // FACTOR**2).astype(np.uint8)
