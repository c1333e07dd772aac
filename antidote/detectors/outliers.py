"""Outliers among the triggers of classes or clusters, and an inverted trigger as evidence."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

MAD_SCALE = 1.4826  # makes the median absolute deviation the standard deviation of normal values
LEAST = 1e-6  # least area and least deviation that count, as a share of the picture; all areas may be equal


def anomaly(areas: Tensor, scale: Literal["linear", "log"] = "linear") -> tuple[float, int]:
    """Return Neural Cleanse's anomaly index of the smallest of areas (C,), or of their logarithms, and its place.

    index = (median - smallest) / (1.4826 median_c |area_c - median|), the median absolute deviation over all classes
    """
    values = areas.double().numpy()
    if scale == "log":
        values = np.log(np.maximum(values, LEAST))
    median = float(np.median(values))
    deviation = MAD_SCALE * float(np.median(np.abs(values - median)))
    place = int(values.argmin())
    return (median - float(values[place])) / max(deviation, LEAST), place


def as_picture(mask: Tensor, pattern: Tensor) -> str:
    """Return the inverted trigger as a PNG in a data URL, which browsers open: pattern (3, H, W) times mask (H, W)."""
    pixels = (mask * pattern * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
