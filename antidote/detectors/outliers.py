"""Outliers among the triggers of classes or clusters, and an inverted trigger as evidence."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from antidote.detectors.base import NoScore

if TYPE_CHECKING:
    from torch import Tensor

MAD_SCALE = 1.4826  # makes the median absolute deviation the standard deviation of normal values
NORMAL_QUARTILE = 0.6745  # of the standard normal distribution, 1 / 1.4826; SSL-Cleanse's code divides by it as well
LEAST = 1e-6  # least area and least deviation that count, as a share of the picture; all areas may be equal


def least(areas: Tensor) -> int:
    """Return the place of the smallest area of (C,), the first one of equal areas."""
    return int(areas.numpy().argmin())


def anomaly(
    name: str,
    areas: Tensor,
    scale: Literal["linear", "log"] = "linear",
    mad_scale: float = MAD_SCALE,
    goal: str = "",
    evidence: Mapping[str, Any] | None = None,
) -> float:
    """Return Neural Cleanse's anomaly index of the smallest area, or of the areas' logarithms.

    index = (median - smallest) / (mad_scale median_c |area_c - median|), the median absolute deviation over all places

    Args:
        name: name of the detector, for the message.
        areas: (C,) sizes of the masks in [0, 1], of a search without a working trigger 1.
        scale: whether the index is that of areas or of their logarithms.
        mad_scale: factor of the median absolute deviation.
        goal: what the smallest trigger leads to, such as `class 'boat'`, for the message.
        evidence: what the searches found, for the error.

    Returns:
        The index; 0 if all areas are equal.

    Raises:
        NoScore: the deviation is 0 and the areas differ. The index has no value, since at least half of the areas are
            equal, in most cases those of searches that found no trigger. The message names the smallest trigger: one
            that works where no other search found any is the clearest sign of a backdoor.
    """
    values = areas.double().numpy()
    if scale == "log":
        values = np.log(np.maximum(values, LEAST))
    median = float(np.median(values))
    deviation = mad_scale * float(np.median(np.abs(values - median)))
    if deviation < LEAST and np.ptp(values) >= LEAST:
        failed, count, area = int((areas >= 1).sum()), len(areas), 100 * float(areas.min())
        smallest = f"the smallest working trigger, of {goal or f'search {least(areas)}'}, covers {area:.2g} %"
        reason = f"no trigger was found by {failed} of {count} searches; raise steps; {smallest} of the picture"
        raise NoScore(f"{name}: {reason}", evidence)
    return (median - float(values.min())) / max(deviation, LEAST)


def as_picture(mask: Tensor, pattern: Tensor) -> str:
    """Return the inverted trigger as a PNG in a data URL, which browsers open: pattern (3, H, W) times mask (H, W)."""
    pixels = (mask * pattern * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
