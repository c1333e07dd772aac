"""A linear classifier on the frozen features of labelled pictures."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.clip.classifier_head import ClassifierHead
from antidote.clip.model import Clip
from antidote.training.session import Report, Work
from antidote.training.tuning import Task, TuneSettings, frozen_features, tune

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.data.pairs import Pairs


def train_linear_head(
    clip: Clip, shots: Pairs, classes: list[str], tuning: TuneSettings, seed: int, work: Work
) -> Report:
    """Train class weights W (D, C) by L = mean_i CE(zᵢᵀ W, y_i), with z_i the features (D,) before normalisation.

    W starts at 0. The network is frozen, pictures are not augmented, and their features are computed once.
    """
    clip.network.eval()
    features = frozen_features(lambda x: clip.network.encode_image(clip.normalise(x)).float(), shots.images)
    labels = shots.labels.to(clip.device)
    weights = torch.zeros(len(classes), features.shape[1], device=clip.device, requires_grad=True)

    def loss(rows: Tensor, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
        rows = rows.to(labels.device, non_blocking=True)
        return F.cross_entropy(features[rows] @ weights.T, labels[rows]), {}

    steps = tune(Task({"weights": weights}, loss, len(labels), {}), tuning, seed, work)
    head = ClassifierHead(clip.network, clip.config, {"weights": weights}, {"classes": classes, "cosine": False})
    return Report(steps, weights.numel(), len(labels), clip=head)
