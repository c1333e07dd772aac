"""Controls, no detectors: `random` scores items at random (AUROC 0.5), `oracle` knows the ground truth (AUROC 1.0).

Every table of detectors contains both rows. The rows show the results without information and with full information
under the same evaluation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from antidote.base.seeds import derive
from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores, Subject, items_of
from antidote.training.session import Work

if TYPE_CHECKING:
    from antidote.clip.model import Clip


class RandomSettings(DetectorSettings):
    """The subject alone."""

    method: Literal["random"] = "random"
    subject: Subject = Field("pairs", description="items that are scored: `model`, `pairs` or `pictures`")


class Random(Detector):
    """A control: uniform scores in [0, 1), derived from the seed and the name of the item."""

    Settings = RandomSettings
    control = "none"

    @classmethod
    def subject_of(cls, settings: RandomSettings) -> Subject:
        return settings.subject

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        items = items_of(self.settings.subject, data)
        return Scores(items, np.array([derive(self.seed, "random detector", item) / 2**63 for item in items]))


class OracleSettings(DetectorSettings):
    """The subject alone."""

    method: Literal["oracle"] = "oracle"
    subject: Subject = Field("pairs", description="items that are scored: `model`, `pairs` or `pictures`")


class Oracle(Detector):
    """A control with the ground truth: 1 for a poisoned item, 0 for any other item."""

    Settings = OracleSettings
    control = "truth"

    @classmethod
    def subject_of(cls, settings: OracleSettings) -> Subject:
        return settings.subject

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        items = items_of(self.settings.subject, data)
        return Scores(items, np.array([float(item in data.poisoned) for item in items]), threshold=0.5)
