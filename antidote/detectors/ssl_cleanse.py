"""SSL-Cleanse (arXiv 2303.09079), its detection: one cluster of features needs a far smaller trigger than all others.

The features of clean pictures are clustered by k-means. Per cluster, the smallest mask with a pattern that moves
pictures to its centre c,

    L_c = mean_i (2 - 2 cos(f(x'_i), c)) + beta 3 |m|_1

    score = 0.6745 (median_c |m_c| - min_c |m_c|) / (1.4826 median_c ||m_c| - median|),   flagged from 2

The factors are those of the released code, which scales the median absolute deviation twice. The code logs the score
and has no threshold; 2 is that of Neural Cleanse, whose score is 1.48 times as large.

A trigger works if the nearest centre of enough pictures of one batch is c; the evidence has the rate on all pictures. A
cluster without a working trigger counts with the whole picture as its mask. No text and no label is used.

Ours: a number of clusters from the settings in place of the paper's sliding window; the searches of all clusters share
their batches, and pictures of the cluster itself are among them; first value and rule of beta as in DECREE; a fixed
number of steps. The paper's second part, unlearning, is no detection and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.data.access import DefenseData
from antidote.detectors.base import MODEL, Detector, DetectorSettings, Scores
from antidote.detectors.features import different, picture_features
from antidote.detectors.outliers import MAD_SCALE, NORMAL_QUARTILE, anomaly, as_picture, least
from antidote.detectors.search import SteadySettings, rates, smallest
from antidote.training.patches import Goal
from antidote.training.session import Work

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip


class SSLCleanseSettings(SteadySettings, DetectorSettings):
    """Clusters, and search of a trigger per cluster."""

    method: Literal["ssl_cleanse"] = "ssl_cleanse"
    pictures: int = Field(512, ge=2, description="clean pictures that are clustered and drawn on (paper: 1 % of them)")
    clusters: int = Field(24, ge=2, description="number of clusters (ours: as many as classes)")
    hit_rate: float = Field(
        0.99, gt=0, lt=1, description="least share of a batch at the cluster for a working trigger (paper: 0.99)"
    )
    scale: Literal["linear", "log"] = Field(
        "linear",
        description="of the masks' sizes in the index: `linear` (paper), or `log` (ours): sizes are never below 0, so "
        "that a linear index stays small where the sizes of all clusters differ",
    )
    index: float = Field(2.0, gt=0, description="anomaly index from which a model is flagged (Neural Cleanse: 2)")


class SSLCleanse(Detector):
    """Anomaly index of the smallest trigger among those of all clusters of clean features."""

    Settings = SSLCleanseSettings
    subject = "model"
    access = "clean-pairs"
    descends = True
    reconstruction = True

    @classmethod
    def work(cls, settings: SSLCleanseSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return settings.clusters * settings.steps * settings.batch_size, (1 + settings.clusters) * settings.pictures

    def check_data(self, data: DefenseData) -> None:
        different("ssl_cleanse", data.pairs, self.settings.pictures)

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        from sklearn.cluster import KMeans  # a lazy import, since the import takes a second

        settings, pairs = self.settings, different("ssl_cleanse", data.pairs, self.settings.pictures)
        features = picture_features(clip, pairs)
        count = min(settings.clusters, len(np.unique(features.numpy(), axis=0)))
        means = KMeans(count, n_init=10, random_state=derive(self.seed, "clusters") % 2**32).fit(features.numpy())
        centres = F.normalize(torch.from_numpy(means.cluster_centers_).float(), dim=1).to(clip.device)
        images, goals = pairs.images[:], _near(centres)
        found = smallest(clip, images, goals, settings.hit_rate, count, settings, self.seed, work)
        place = least(found.areas)
        reached = rates(clip, images, goals, found)
        own = int((means.labels_ == place).sum())
        evidence = {
            "mask": float(found.areas[place]), "works": bool(found.works[place]), "masks": found.areas.tolist(),
            "failed searches": int((~found.works).sum()), "rate on all pictures": reached[place], "rates": reached,
            "pictures of the cluster": own, "trigger": as_picture(found.masks[place], found.patterns[place]),
        }  # fmt: skip
        mad_scale, goal = MAD_SCALE / NORMAL_QUARTILE, f"cluster {place} with {own} pictures"
        index = anomaly("ssl_cleanse", found.areas, settings.scale, mad_scale, goal, evidence)
        return Scores([MODEL], np.array([index]), settings.index, evidence)


def _near(centres: Tensor):
    """Return the goals of searches towards the centres (C, D) of unit length, one search each."""

    def goals(numbers: Tensor) -> Goal:
        def goal(features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            cosines = features @ centres.T
            own = numbers[:, None].expand(cosines.shape[:2])
            reached = cosines.gather(2, own[..., None])[..., 0]
            return (2 - 2 * reached).mean(dim=1), (cosines.detach().argmax(dim=2) == own).double().mean(dim=1)

        return goal

    return goals
