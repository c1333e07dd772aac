"""Spectral signatures (Tran et al. 2018, arXiv 1811.00636): pictures far along the first direction of their group.

    score(x) = ((f(x) - mean) . v)²,  v the first right singular vector of the centred features

The paper takes the pictures of one class at a time. Training pairs have no classes: here a group holds the pairs whose
captions' features are nearest to one of `groups` centres (k-means, scikit-learn's); a poisoned pair is in the group of
its new caption, among clean pictures of the target (ours).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from antidote.base.seeds import derive
from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.features import picture_features, text_features
from antidote.training.session import Work

if TYPE_CHECKING:
    from antidote.clip.model import Clip


class SpectralSettings(DetectorSettings):
    """Groups of pairs."""

    method: Literal["spectral"] = "spectral"
    groups: int = Field(24, ge=1, description="groups of captions, in place of classes (ours: as many as classes)")


class Spectral(Detector):
    """Squared projection on a group's first singular direction."""

    Settings = SpectralSettings
    subject = "pairs"
    reconstruction = True

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        from sklearn.cluster import KMeans  # takes a second

        pairs = data.training_set
        pictures = picture_features(clip, pairs).numpy().astype(float)
        texts = text_features(clip, list(pairs.captions)).numpy()
        centres = KMeans(
            min(self.settings.groups, len(np.unique(texts, axis=0))), random_state=derive(self.seed, "groups") % 2**32
        )
        groups = centres.fit_predict(texts)
        values = np.zeros(len(pairs))
        for group in np.unique(groups):
            rows = groups == group
            centred = pictures[rows] - pictures[rows].mean(axis=0)
            direction = np.linalg.svd(centred, full_matrices=False)[2][0]
            values[rows] = (centred @ direction) ** 2
        return Scores(pairs.keys, values, evidence={"groups": len(np.unique(groups))})
