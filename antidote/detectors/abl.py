"""ABL's isolation: pairs that a fresh model learns first (Li et al., NeurIPS 2021, arXiv 2110.11571).

A model with random weights is trained on the suspicious training set for a few epochs, and pairs are ranked by their
loss: shortcuts are learned before anything else.

    score(x) = cos(f_I(picture), f_T(caption)) of the fresh model

Ours, since ABL is of classifiers: the training is CLIP's; the rank is by cosine, because poisoned pairs of one batch
have like captions and are negatives of one another; ABL's gradient ascent on losses below a bound is left out. The
threshold flags `isolated` of all pairs (paper: 1 %).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.training.loop import train
from antidote.training.objectives import Contrastive
from antidote.training.pair_scores import similarities
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work

if TYPE_CHECKING:
    from antidote.data.pairs import Pairs


class ABLSettings(DetectorSettings):
    """The short training, and the share that is isolated."""

    method: Literal["abl"] = "abl"
    isolated: float = Field(0.01, gt=0, lt=1, description="share of the pairs that the threshold flags (paper: 0.01)")
    training: TrainSettings = Field(
        TrainSettings(epochs=2, batch_size=128, lr=5e-4, warmup=50), description="of the fresh model (ours)"
    )


class ABL(Detector):
    """Cosine of the pair under a model after a few epochs on the training set."""

    Settings = ABLSettings
    subject = "pairs"
    reconstruction = True

    @classmethod
    def work(cls, settings: ABLSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return settings.training.epochs * sizes["training set"], sizes["training set"]

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        pairs: Pairs = data.training_set
        fresh = _fresh(clip, derive(self.seed, "fresh model"))
        steps = train(fresh, Contrastive(pairs), self.settings.training, self.seed, work).steps
        values = similarities(fresh, pairs, self.settings.training.precision).double().numpy()
        threshold = float(np.quantile(values, 1 - self.settings.isolated))
        return Scores(pairs.keys, values, threshold, evidence={"steps": steps})


def _fresh(clip: Clip, seed: int) -> Clip:
    """Return a model of the same architecture with random weights, which follow from the seed."""
    kind, known = type(clip.network), copy.deepcopy(clip.config)
    arguments = {k: v for k, v in known["model_cfg"].items() if k in inspect.signature(kind).parameters}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Clip(kind(**arguments).to(clip.device), known)
