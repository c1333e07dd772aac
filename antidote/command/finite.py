"""Checks that what a model computes are numbers: a score that is none would look like that of a clean item."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from antidote.base.errors import UserError
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.detectors.base import Scores

TRIED = 64  # pictures that are encoded to try a model
TEXT = "a photo"
DAMAGED = "its weights are damaged, or its training has diverged"


def check_model(clip: Clip, model: str, pictures: Tensor) -> None:
    """Check the features of one text and of the first TRIED pictures.

    Args:
        model: name of the model, for the message.
        pictures: uint8 (N, 3, size, size); N can be 0.

    Raises:
        UserError: a feature is not finite.
    """
    clip.network.eval()
    with torch.no_grad():
        found = [clip.encode_text([TEXT])] + ([clip.encode_image(pictures[:TRIED])] if len(pictures) else [])
    for features in found:
        check_features(features, model)


def blank(clip: Clip) -> Tensor:
    """Return a black picture of the model's size, uint8 (1, 3, size, size), which tries a model without any data."""
    return torch.zeros(1, 3, clip.size, clip.size, dtype=torch.uint8)


def check_features(features: Tensor, model: str) -> None:
    """Raise UserError that names the model if a feature is not finite."""
    if not bool(features.isfinite().all()):
        raise UserError(f"{model}: the model's features are not finite: {DAMAGED}")


def check_scores(scores: Scores, detector: str, model: str) -> None:
    """Raise UserError that names the detector and the model if a score is not finite."""
    values = np.asarray(scores.values, np.float64)
    count = int((~np.isfinite(values)).sum())
    if count:
        raise UserError(
            f"{detector}: {count} of {len(values)} scores of {model} are not finite: {DAMAGED}, or the method's "
            "settings do not fit"
        )
