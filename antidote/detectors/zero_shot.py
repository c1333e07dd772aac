"""Zero-shot classes of pictures at use, for detectors of pictures; computed in batches, without gradients."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.patch_masking import class_weights

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.access import DefenseData
    from antidote.data.pairs import Pairs

log = logging.getLogger("antidote")

BATCH = 64  # pictures at a time; a detector encodes several views of each


def chunks(clip: Clip, pairs: Pairs) -> Iterator[Tensor]:
    """Yield pictures (n, 3, size, size), float in [0, 1], on the model's device; the model is in evaluation mode."""
    clip.network.eval()
    for start in range(0, len(pairs), BATCH):
        images = pairs.images[start : start + BATCH].to(clip.device)
        yield images.float().div(255) if images.dtype == torch.uint8 else images


def of_chunks(clip: Clip, pairs: Pairs, values: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Return (N,) float64: the values (n,) that `values` returns for each chunk of pictures."""
    with torch.no_grad():
        return torch.cat([values(images).double().cpu() for images in chunks(clip, pairs)]).numpy()


class Head:
    """The zero-shot classifier of a model at use. Usage:

    head = Head(clip, data)
    shares = head.probabilities(clip.encode_image(images))  # (N, C)
    """

    def __init__(self, clip: Clip, data: DefenseData) -> None:
        """Encode the classes and prompts that `data` grants.

        Raises:
            UserError: there are fewer than two classes.
        """
        if len(data.classes) < 2:
            raise UserError(f"classes: a detector of pictures needs at least 2 classes, there is {len(data.classes)}")
        self.weights = class_weights(clip, data.classes, data.templates)
        self.scale = clip.network.logit_scale.exp().detach()

    def probabilities(self, features: Tensor) -> Tensor:
        """Return class probabilities (N, C) of normalised features (N, D)."""
        return (self.scale * features @ self.weights.T).softmax(dim=-1)


def apart(name: str, clip: Clip, clean: Pairs, overlays: int, seed: int) -> tuple[Tensor, Pairs]:
    """Return clean pictures for superpositions, (n, 3, size, size) in [0, 1] on the model's device, and all others.

    A picture that is laid over itself keeps its class, and would raise a threshold. At most half is laid over.

    Args:
        name: name of the detector, for the message.
        overlays: number of pictures for superpositions.

    Raises:
        UserError: there are fewer than four clean pictures.
    """
    if len(clean) < 4:
        raise UserError(f"{name}: needs at least 4 labelled pictures, of which half are laid over; given: {len(clean)}")
    rows = torch.randperm(len(clean), generator=torch.Generator().manual_seed(derive(seed, name)))
    count = min(overlays, len(clean) // 2)
    if count < overlays:
        log.warning("%s: overlays: %d of the %d labelled pictures, half of them", name, count, len(clean))
    return clean.images[rows[:count]].float().to(clip.device) / 255, clean.take(rows[count:])


def quantile(values: np.ndarray, false_positives: float) -> float:
    """Return the threshold that flags at most the share `false_positives` of clean items, by conformal prediction.

    An item is flagged if its score is above the ceil((1 - false_positives) (N + 1))-th smallest of the scores `values`
    (N,) of other clean items, as in `calibrated` of `antidote/evaluation/ranking.py`. If N is too small for the share,
    the threshold lies just above the highest score, and the share is 1 / (N + 1).
    """
    return float(np.nextafter(np.sort(values)[-_flagged(len(values), false_positives)], np.inf))


def _flagged(count: int, false_positives: float) -> int:
    """Return how many of `count` + 1 clean items, at least one, the threshold may flag."""
    return max(1, math.floor(false_positives * (count + 1) * (1 + 1e-9)))  # the rounding of 1 / 100 * 100


def standing(name: str, clean: np.ndarray, false_positives: float) -> dict[str, int | float]:
    """Return the evidence of a threshold: the number of its clean pictures, and the share of others that it may flag.

    A warning is logged if the pictures are too few for the share that is asked for.

    Args:
        name: name of the detector, for the log.
        clean: (N,) scores of the clean pictures.
        false_positives: share of clean pictures that the threshold should flag.
    """
    needed = math.ceil(1 / false_positives * (1 - 1e-9)) - 1
    share = _flagged(len(clean), false_positives) / (len(clean) + 1)
    if len(clean) < needed:
        log.warning(
            "%s: the threshold for %g false positives stands on %d clean pictures, just above the highest of their "
            "scores, and flags %.2g of other clean pictures; at least %d are needed for the share",
            name, false_positives, len(clean), share, needed,
        )  # fmt: skip
    return {"clean pictures of the threshold": len(clean), "false positives of the threshold": share}
