"""Supervised fine-tuning: the picture encoder learns the labels of a few pictures, through CLIP's own zero-shot head.

    L = mean_i CE(s f_I(x_i) Wᵀ, y_i),   W: the suspicious model's class embeddings over the templates, fixed

Partly a reconstruction: the head W is ours, because no code for it is released. RVPT's ablation trains the whole
picture encoder with cross-entropy on ImageNet, but does not specify the head. CleanCLIP's supervised fine-tuning has a
linear head in place of W (10 epochs, weight decay 0.01), and its result is a classifier. With W, the result is still a
CLIP for zero-shot use, although its features are fitted to a closed set of classes. The text encoder and s are not
trained.

The rate, 1e-4, is CleanCLIP's for a CLIP trained from scratch on CC3M. BadCLIP's released script for the same defense
uses 1e-6 for OpenAI's weights. CleanCLIP's code uses batches of 80 for this defense, here 64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.defenses.base import Defense, DefenseSettings
from antidote.training.loop import train
from antidote.training.objectives import Batch, Objective, Views
from antidote.training.recipe import TrainSettings
from antidote.training.session import Report, Work
from antidote.training.tuning import check_shots

if TYPE_CHECKING:
    from torch import Tensor


class SupervisedSettings(DefenseSettings):
    """Only the recipe."""

    method: Literal["supervised"] = "supervised"
    training: TrainSettings = Field(
        TrainSettings(epochs=10, batch_size=64, lr=1e-4, weight_decay=0.01, warmup=50),
        description="CleanCLIP's supervised recipe: AdamW 1e-4, weight decay 0.01, 10 epochs; its warm-up of 500 steps "
        "is for 50K pictures",
    )

    def recipes(self) -> dict[str, TrainSettings]:
        return {"training": self.training}


class Supervised(Defense):
    """Trains the picture encoder on labelled shots."""

    Settings = SupervisedSettings
    reconstruction = True
    parallel = True
    access = "few-labelled"

    @classmethod
    def step_views(cls, settings: Any, recipe: TrainSettings) -> tuple[float, float, int]:
        return 1, 0, 0

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        check_shots(data.shots, data.classes, "supervised")
        return train(clip, ZeroShotCrossEntropy(clip, data), self.settings.training, self.seed, work)


class ZeroShotCrossEntropy(Objective):
    """Cross-entropy of CLIP's zero-shot classifier with fixed class embeddings."""

    parallel = "views"

    def __init__(self, clip: Clip, data: DefenseData) -> None:
        super().__init__(data.shots)
        clip.network.eval()
        with torch.no_grad():
            self.weights = clip.class_embeddings(data.classes, data.templates)

    def trained(self, network: Any) -> list[tuple[str, Tensor]]:
        return [(name, value) for name, value in network.named_parameters() if name.startswith("visual.")]

    def views(self, batch: Batch) -> Views:
        return Views([batch.images], [])

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        labels = self.pairs.labels[batch.indices].to(images[0].device, non_blocking=True)
        entropy = F.cross_entropy(scale * images[0] @ self.weights, labels)
        return entropy, {"cross_entropy": entropy}
