"""UBT's detection (Liang et al., arXiv 2403.16257, 2409.19526): similarity of pairs under an overfitted model.

Steps 1 and 2 of UBT (`antidote.training.suspicion`; formulas in the defense `ubt`): a scorer orders the training pairs,
the model is overfitted on the first pairs, D_susp, and D_susp is ranked again by similarity under the overfitted model.
The score is the rank in the final order, scaled from 1 (first) to 0: D_susp in the second order, then all other pairs
in the first order. The threshold selects D_k, the `forget_share` that the defense forgets. A reconstruction, like the
defense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.training.scorers import SURROGATES
from antidote.training.session import Work
from antidote.training.suspicion import OWN_SCORERS, SuspicionSettings, find

if TYPE_CHECKING:
    from antidote.clip.model import Clip
    from antidote.training.recipe import TrainSettings


class UBTSettings(SuspicionSettings, DetectorSettings):
    """The settings of UBT's first two steps."""

    method: Literal["ubt"] = "ubt"

    def check(self, model: Mapping[str, Any]) -> None:
        if self.surrogate:
            raise ValueError(f"scorer: {self.scorer!r}: a detector has no {SURROGATES[:-1]}; {', '.join(OWN_SCORERS)}")
        super().check(model)


class UBT(Detector):
    """Rank of a pair in UBT's order, scaled to (0, 1]."""

    Settings = UBTSettings
    subject = "pairs"
    reconstruction = True

    @classmethod
    def work(cls, settings: UBTSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        normal, everything = min(settings.normal_pairs, sizes["training set"]), sizes["training set"]
        return settings.overfit.epochs * normal, (settings.views + settings.suspicious_share) * everything

    @classmethod
    def step_views(cls, settings: Any, recipe: TrainSettings) -> tuple[float, float, int]:
        return 2, 2, 1  # beside each batch one of suspected pairs

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        pairs, count = data.training_set, len(data.training_set)
        found = find(clip, pairs, self.settings, self.seed, None, work)
        order = [*found.ranked.tolist(), *found.order[len(found.ranked) :].tolist()]
        values = np.empty(count)
        values[order] = 1 - np.arange(count) / count
        forgotten = self.settings.forgotten(count)
        evidence = {"scorer": found.scorer, "suspected": len(found.suspected)}
        evidence |= {"forgotten": forgotten, "steps": found.steps}
        return Scores(pairs.keys, values, threshold=1 - (forgotten - 0.5) / count, evidence=evidence)
