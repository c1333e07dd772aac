"""Spectral signatures (Tran et al. 2018, arXiv 1811.00636): projection on the first singular direction of a group.

    score(x) = ((f(x) - mean) . v)²,  v the first right singular vector of the centred features

The paper processes the pictures of each class separately. Training pairs have no classes, so the pairs are grouped by
caption (ours): k-means of scikit-learn assigns each caption feature to the nearest of `groups` centres. A poisoned pair
is in the group of its new caption, together with clean pictures of the target.
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
    groups: int = Field(24, ge=1, description="caption groups, in place of classes (ours: as many as classes)")


class Spectral(Detector):
    """Squared projection of a feature on the first singular direction of its group."""

    Settings = SpectralSettings
    subject = "pairs"
    from_features = True
    reconstruction = True

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        from sklearn.cluster import KMeans  # a lazy import, since the import takes a second

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
