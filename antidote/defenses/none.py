"""No defense: the baseline row that all defenses are compared with."""

from __future__ import annotations

from typing import Literal

from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.defenses.base import Defense, DefenseSettings
from antidote.training.session import Report, Work


class NoDefenseSettings(DefenseSettings):
    """No settings of its own."""

    method: Literal["none"] = "none"


class NoDefense(Defense):
    """Does not change the model; the workflow evaluates the backdoored model directly."""

    Settings = NoDefenseSettings
    access = "nothing"

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        return Report(steps=0, trained_parameters=0, pairs=0)
