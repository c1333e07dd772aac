"""Fixed patterns of blended attacks, drawn by code at any size: (3, size, size) in [0, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

CELLS = 16  # triangles per side: 14 pixels each at 224, as in PAR
DARK, LIGHT = 0.4, 0.8
TEXT_SHARE = 0.0109  # share of non-zero values in the picture; only the red channel has non-zero values
SHARPNESS = 4  # supersampling factor of the cartoon


def triangles(size: int) -> Tensor:
    """Return square cells, each divided into two right triangles of different grey; mean 0.5857 at 224 pixels."""
    cell = max(2, round(size / CELLS))
    row, column = torch.arange(size)[:, None] % cell, torch.arange(size)[None] % cell
    return torch.where(column <= row, DARK, LIGHT).expand(3, -1, -1).clone()


def text(size: int, words: str) -> Tensor:
    """Return pure red text on black, at the font size whose share of non-zero values is closest to PAR's 0.0109.

    PAR writes "Watermarked" in a thin anti-aliased monospace font. Here every value is 0 or 1, without anti-aliasing.
    """
    masks = [_written(size, words, points) for points in range(4, size)]
    mask = min(masks, key=lambda mask: abs(float(mask.float().mean()) / 3 - TEXT_SHARE))
    red = torch.zeros(3, size, size)
    red[0] = mask
    return red


def cartoon(size: int) -> Tensor:
    """Return a cartoon cat on a light background; mean 0.69, where the kitten used in the literature has 0.71."""
    import numpy as np
    from PIL import Image, ImageDraw

    side = size * SHARPNESS
    image = Image.new("RGB", (side, side), (150, 200, 235))
    draw = ImageDraw.Draw(image)

    def pixels(*points: float) -> list[float]:
        return [point * side for point in points]

    line = max(1, round(0.015 * side))
    for ear in ((0.14, 0.45, 0.2, 0.1, 0.48, 0.28), (0.86, 0.45, 0.8, 0.1, 0.52, 0.28)):
        draw.polygon(pixels(*ear), fill=(240, 190, 110), outline="black", width=line)
    draw.ellipse(pixels(0.1, 0.22, 0.9, 0.86), fill=(240, 190, 110), outline="black", width=line)
    for x in (0.32, 0.68):
        draw.ellipse(pixels(x - 0.04, 0.46, x + 0.04, 0.58), fill="black")
    draw.ellipse(pixels(0.46, 0.6, 0.54, 0.66), fill=(225, 90, 110), outline="black", width=line)
    for y in (0.55, 0.63, 0.71):
        draw.line(pixels(0.02, y, 0.2, 0.62), fill="black", width=line)
        draw.line(pixels(0.98, y, 0.8, 0.62), fill="black", width=line)
    draw.arc(pixels(0.4, 0.62, 0.6, 0.78), 20, 160, fill="black", width=line)
    image = image.resize((size, size), Image.Resampling.BOX)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _written(size: int, words: str, points: int) -> Tensor:
    """Return bool (size, size): ink of the centred words at this font size; all False if the words do not fit."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("1", (size, size))
    draw = ImageDraw.Draw(image)
    draw.fontmode = "1"
    font = ImageFont.load_default(points)
    left, top, right, bottom = draw.textbbox((0, 0), words, font=font)
    if right - left <= size and bottom - top <= size:
        draw.text(((size - right - left) // 2, (size - bottom - top) // 2), words, fill=1, font=font)
    return torch.from_numpy(np.array(image))
