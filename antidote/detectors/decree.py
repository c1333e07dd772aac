"""DECREE (arXiv 2303.15180): the smallest patch under which all pictures get the same feature. No text is used.

    L = -mean cos(f(x'_i), f(x'_j)) + beta 3 |m|_1,   PL1 = |m|_1 / (H W) of the smallest mask that works
    score = 1 - PL1

A backdoored picture encoder needs a small patch; the paper flags PL1 < 0.1, a score above 0.9. A score of 0 means that
no patch worked.

What a 32-pixel model allows: it has scattered pixels that are a natural trigger, about as many as an attacker's patch
of 6 x 6 has (0.035 of the picture). In trials of this search on the track `tiny` with a likeness of 0.95, two starts
and batches of 16, PL1 is 0.044, 0.047, 0.048 and 0.070 on four clean models, 0.015, 0.021 and 0.054 on three with
BadNet, 0.039 on one with BadCLIP and 0.039 on one with Blended. On the model with 0.054 the search ends at a natural
trigger and misses the planted one, with the settings below as well (0.063). All are below the paper's 0.1, whose
threshold flags every model of these trials; with the settings below it flags seven of ten clean ones.

Ours: `likeness` is relative to the clean pictures' own likeness; several searches start from different patterns, and
the smallest mask counts; a weight of the mask that changes a little in every step; a constant rate; logits with a
sigmoid in place of tanh; a fixed number of steps. The paper stops after 35 steps without a smaller mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from antidote.data.access import DefenseData
from antidote.detectors.base import MODEL, Detector, DetectorSettings, Scores
from antidote.detectors.features import different, picture_features
from antidote.detectors.outliers import as_picture
from antidote.detectors.search import SteadySettings, smallest
from antidote.training.inversion import alike
from antidote.training.patches import together
from antidote.training.session import Work

if TYPE_CHECKING:
    from antidote.clip.model import Clip


class DecreeSettings(SteadySettings, DetectorSettings):
    """Search of the patch."""

    method: Literal["decree"] = "decree"
    starts: int = Field(4, ge=1, description="searches from different patterns (ours; DECREE: 1)")
    steps: int = Field(300, ge=1, description="steps of a search (DECREE: at most 1,000 epochs)")
    batch_size: int = Field(32, ge=2, description="pictures per step (DECREE: 32)")
    likeness: float = Field(
        0.95,
        gt=0,
        lt=1,
        description="least mean cosine of triggered features for a working patch, on a scale from the clean features' "
        "mean cosine (0) to 1 (1) (ours; DECREE: a cosine of 0.99, for OpenAI's encoder, whose clean pictures are more "
        "alike)",
    )
    largest: float = Field(0.1, gt=0, lt=1, description="PL1 up to which a model is flagged (DECREE: 0.1)")


class Decree(Detector):
    """Size of the smallest patch that makes picture features alike."""

    Settings = DecreeSettings
    subject = "model"
    access = "clean-pairs"
    descends = True

    @classmethod
    def work(cls, settings: DecreeSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return settings.starts * settings.steps * settings.batch_size, settings.pictures

    def check_data(self, data: DefenseData) -> None:
        different("decree", data.pairs, self.settings.pictures)

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        settings, pairs = self.settings, different("decree", data.pairs, self.settings.pictures)
        clean = float(alike(picture_features(clip, pairs)))
        wanted = clean + settings.likeness * (1 - clean)
        found = smallest(clip, pairs.images[:], together, wanted, settings.starts, settings, self.seed, work)
        best = int(found.areas.argmin())
        evidence = {
            "PL1": float(found.areas[best]), "works": bool(found.works[best]), "clean likeness": clean,
            "PL1 of all starts": found.areas.tolist(), "trigger": as_picture(found.masks[best], found.patterns[best]),
        }  # fmt: skip
        return Scores([MODEL], np.array([1 - float(found.areas[best])]), 1 - settings.largest, evidence)
