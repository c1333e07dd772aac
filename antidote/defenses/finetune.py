"""Plain fine-tuning on clean pairs with CLIP's own loss: the baseline of the CleanCLIP line of papers."""

from __future__ import annotations

from typing import Literal

from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.defenses.base import FineTuningDefense, FineTuningSettings
from antidote.training.objectives import Contrastive, Objective


class FineTuneSettings(FineTuningSettings):
    """Only the training recipe. CleanCLIP's code: 100K pairs, 10 epochs, batch 64, AdamW 1e-5."""

    method: Literal["finetune"] = "finetune"


class FineTune(FineTuningDefense):
    """Trains all parameters with L_CLIP on clean pairs, without augmented views."""

    Settings = FineTuneSettings
    parallel = True

    def objective(self, clip: Clip, data: DefenseData) -> Objective:
        return Contrastive(data.pairs)
