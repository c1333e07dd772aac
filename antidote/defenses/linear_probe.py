"""Linear probe: a classifier on the frozen picture encoder's features, the baseline of RVPT's and CleanCLIP's papers.

    L = mean_i CE(W z_i, y_i),   z_i: feature before normalisation, W: class weights, initialised to 0

The defaults are RVPT's recipe: SGD at a constant rate of 0.01, momentum 0.9, batch 32, 40 epochs (appendix C.2).
CleanCLIP's code uses AdamW at a rate of 0.005. Ours: no bias, so that scores are products of features and class weights
as in zero-shot use; and W = 0 at the start, so that only the order of pictures is random. Pictures are not augmented;
features are computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.defenses.base import Defense, DefenseSettings, Held
from antidote.training.heads import train_linear_head
from antidote.training.session import Report, Work
from antidote.training.tuning import ENCODED, TuneSettings, check_shots


class LinearProbeSettings(DefenseSettings):
    """Only the recipe."""

    method: Literal["linear_probe"] = "linear_probe"
    tuning: TuneSettings = Field(
        TuneSettings(epochs=40, batch_size=32, lr=0.01, schedule="constant", momentum=0.9),
        description="RVPT's recipe for its linear probe: SGD at a constant 0.01, momentum 0.9, batch 32, 40 epochs",
    )


class LinearProbe(Defense):
    """Trains class weights on labelled shots."""

    Settings = LinearProbeSettings
    access = "few-labelled"
    adapter = "classifier_head"

    @classmethod
    def work(cls, settings: LinearProbeSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return 0, sizes["shots"]

    @classmethod
    def held(cls, settings: LinearProbeSettings, model: Mapping[str, Any], classes: int) -> Sequence[Held]:
        return (Held(pictures=ENCODED, gradients=False),)

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        check_shots(data.shots, data.classes, "linear_probe")
        return train_linear_head(clip, data.shots, data.classes, self.settings.tuning, self.seed, work)
