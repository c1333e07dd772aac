"""Neural Cleanse on the zero-shot head (Wang et al. 2019): one class needs a far smaller trigger than all others.

Per class c of the model's use, the smallest mask with a pattern under which pictures get class c,

    L_c = mean_i CE(cos(f(x'_i), t) / tau, c) + beta 3 |m|_1,   t: class embeddings over the templates

    score = (median_c |m_c| - min_c |m_c|) / (1.4826 median_c ||m_c| - median|),   flagged from 2

The labels of the pictures are not used. Ours: the head; the searches of all classes share their batches; a fixed number
of steps; a trigger works if it does on one batch (Neural Cleanse: as a mean over the batches of a pass), so that the
evidence has the rate on all pictures; a class without a working trigger counts with the whole picture as its mask, as
in SSL-Cleanse's code.

An index of 2 is no rare event on clean models, and its rate depends on the distribution that the sizes of all classes
follow. Of normally distributed sizes, the index is at least 2 in 23 % of draws of 3 classes, 33 % of 10 and 49 % of 24.
Of 10 and 24 classes, the rates are 18 and 10 % for uniform sizes, 10 and 6 % for log-normal ones (sigma 0.5), 3 and
0.3 % for exponential ones, and 75 and 95 % for negated exponential ones, with few small sizes. Compare the index with
those of clean models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from antidote.base.lazy import torch
from antidote.data.access import DefenseData
from antidote.detectors.base import MODEL, Detector, DetectorSettings, Scores
from antidote.detectors.outliers import anomaly, as_picture, least
from antidote.detectors.search import SteadySettings, rates, smallest
from antidote.training.patches import toward
from antidote.training.session import Work

if TYPE_CHECKING:
    from antidote.clip.model import Clip

FEWEST = 3  # classes; of two, the smaller mask is always as far from the median as the other


class NeuralCleanseSettings(SteadySettings, DetectorSettings):
    """Search of a trigger per class."""

    method: Literal["neural_cleanse"] = "neural_cleanse"
    hit_rate: float = Field(
        0.99, gt=0, lt=1, description="least share of a batch with the class for a working trigger (paper: 0.99)"
    )
    scale: Literal["linear", "log"] = Field(
        "linear",
        description="of the masks' sizes in the index: `linear` (paper), or `log` (ours): sizes are never below 0, so "
        "that a linear index stays small where the sizes of all classes differ",
    )
    index: float = Field(2.0, gt=0, description="anomaly index from which a model is flagged (paper: 2)")


class NeuralCleanse(Detector):
    """Anomaly index of the smallest trigger among those of all classes."""

    Settings = NeuralCleanseSettings
    subject = "model"
    access = "few-labelled"
    descends = True
    reconstruction = True
    fewest_classes = FEWEST

    @classmethod
    def work(cls, settings: NeuralCleanseSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        shots = min(settings.pictures, sizes.get("shots", 0))
        return sizes["classes"] * settings.steps * settings.batch_size, sizes["classes"] * shots

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        self.check_data(data)
        settings, images = self.settings, data.shots.images[data.shots.different.first(self.settings.pictures)]
        with torch.no_grad():
            texts = clip.class_embeddings(data.classes, data.templates).T
        goals = toward(texts, settings.temperature)
        found = smallest(clip, images, goals, settings.hit_rate, len(texts), settings, self.seed, work)
        place = least(found.areas)
        reached = rates(clip, images, goals, found)
        evidence = {
            "class": data.classes[place], "mask": float(found.areas[place]), "works": bool(found.works[place]),
            "failed searches": int((~found.works).sum()), "rate on all pictures": reached[place],
            "masks": dict(zip(data.classes, found.areas.tolist(), strict=True)),
            "rates": dict(zip(data.classes, reached, strict=True)),
            "trigger": as_picture(found.masks[place], found.patterns[place]),
        }  # fmt: skip
        goal = f"class {data.classes[place]!r}"
        index = anomaly("neural_cleanse", found.areas, settings.scale, goal=goal, evidence=evidence)
        return Scores([MODEL], np.array([index]), settings.index, evidence)
