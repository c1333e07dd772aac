"""Figures of detection: the scores of a detector against the truth.

AUROC, AUPRC   area under the ROC curve, and average precision
tpr_at_fpr1    true-positive rate where 1 % of the clean items are flagged
fpr_at_tpr1    false-positive rate where every poisoned item is flagged
precision, recall, fpr     at the method's own threshold; recall is the true-positive rate
tpr_calibrated, fpr_calibrated   at a threshold calibrated on half of the clean items for a false-positive rate; the
               other half gives fpr_calibrated
precision_at_poisons       share of poisoned items among the highest scores, as many as there are poisoned items

All are fractions in [0, 1]; None where poisoned or clean items are missing. Only this module
knows the truth.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.data.pairs import Pairs
from antidote.evaluation.ranking import FALSE_POSITIVES, RATES, calibrated, of_ranking, roc

if TYPE_CHECKING:
    from antidote.detectors.base import Scores


def figures(
    scores: Scores, poisoned: Collection[str], rate: float = FALSE_POSITIVES, seed: int = 0
) -> dict[str, float | None]:
    """Return the figures of `RATES` for scores (N,), given the names of the poisoned items.

    Args:
        scores: of the items.
        poisoned: names of the poisoned items.
        rate: false-positive rate of the calibrated threshold.
        seed: of the clean items that calibrate the threshold.

    Raises:
        UserError: a score is not finite, or the numbers of items and scores differ.
    """
    values, truth = _judged(scores, poisoned)
    found: dict[str, float | None] = dict.fromkeys(RATES)
    if scores.threshold is not None and truth.any():
        flagged = values >= scores.threshold
        found["precision"] = float(truth[flagged].mean()) if flagged.any() else None
        found["recall"] = float(flagged[truth].mean())
        found["fpr"] = None if truth.all() else float(flagged[~truth].mean())
    if truth.any() and not truth.all():
        found |= of_ranking(values, truth)
        found |= calibrated(values, truth, rate, derive(seed, "calibration"))
    return found


def curve(scores: Scores, poisoned: Collection[str]) -> list[float] | None:
    """Return the ROC curve as `roc` of `ranking` has it; None where poisoned or clean items are missing."""
    values, truth = _judged(scores, poisoned)
    return roc(values, truth) if truth.any() and not truth.all() else None


def _judged(scores: Scores, poisoned: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(scores.values, dtype=float)
    if len(values) != len(scores.items) or not np.isfinite(values).all():
        raise UserError("detector: every item needs one finite score")
    # A set is asked: `np.isin` compares every item of an array of objects with every poisoned one.
    known = frozenset(poisoned)
    return values, np.fromiter((item in known for item in scores.items), dtype=bool, count=len(values))


def mixed_pictures(pictures: Pairs, trigger: Trigger, target: int, count: int, seed: int) -> tuple[Pairs, set[str]]:
    """Return clean and triggered pictures in random order under neutral keys, and the keys of the triggered ones.

    Args:
        pictures: evaluation pictures; of those that do not show the target, every n-th is taken, `count` in all, once
            clean and once triggered.
        trigger: the trigger of the attack, drawn as in the evaluation.
        target: label of the attack's class.
        count: most pictures that are taken.
        seed: of the order.
    """
    others = torch.nonzero(pictures.labels != target).flatten()
    rows = others[torch.linspace(0, len(others) - 1, min(count, len(others))).long()]
    clean = pictures.take(rows)
    images = torch.cat([clean.images, trigger.draw(clean.images, clean.keys, "test")])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(derive(seed, "mixed pictures")))
    keys = [str(place) for place in range(len(images))]
    triggered = {key for key, row in zip(keys, order.tolist(), strict=True) if row >= len(rows)}
    blank = replace(clean, keys=keys, images=images[order], captions=[""] * len(keys), places=None)
    return replace(blank, labels=torch.full((len(keys),), -1)), triggered
