"""Base of the local density detectors: distances between the picture features of one random batch.

Source of all these detectors: Huang et al. (ICLR 2025, arXiv 2502.01385) and the released code,
HanxunH/Detect-CLIP-Backdoor-Samples. Poisoned pairs are few and close together, so a poisoned picture has few close
neighbours in a random batch and is in a sparse region. The released code excludes the picture from its own neighbours
and uses the (k+1)-th of the other pictures as d_k; the detectors here do the same. By default the detectors do not
repeat one index error of the released code: after the code removes the picture itself, its indexes of neighbours
behind the picture are too low by one (`neighbours: released` repeats the error, for comparison).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.features import picture_features
from antidote.training.session import Work

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip

BROKEN = 1000.0  # score in the released code if a distance is 0
SMALL = 1e-4  # constant of the released code, inside the logarithm of a ratio of distances


class NeighbourSettings(DetectorSettings):
    """Neighbours and batches."""

    k: int = Field(16, ge=1, description="number of neighbours (paper: 16)")
    batch_size: int = Field(
        2048, ge=4, description="pairs per random batch; distances are within a batch (released code: 2,048)"
    )
    neighbours: Literal["corrected", "released"] = Field(
        "corrected", description="`released`: indexes of neighbours as in the released code, some too low by one"
    )

    @model_validator(mode="after")
    def _enough(self) -> NeighbourSettings:
        if self.batch_size < 2 * (self.k + 2):  # batches are of equal size, which can be half of batch_size
            raise ValueError(
                f"batch_size: {self.batch_size} is too small for k = {self.k}; at least {2 * (self.k + 2)}"
            )
        return self


class NeighbourDetector(Detector):
    """A detector of pairs that scores each picture by distances within its random batch. Usage:

    class KDistance(NeighbourDetector):
        Settings = KDistanceSettings

        def of_batch(self, features):
            return Distances(features, self.settings).others[:, self.settings.k]
    """

    subject = "pairs"
    from_features = True

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        pairs, settings = data.training_set, self.settings
        self.check(len(pairs))
        features = picture_features(clip, pairs, normalised=False)
        generator = torch.Generator().manual_seed(derive(self.seed, "batches of neighbours"))
        order = torch.randperm(len(pairs), generator=generator)
        values = np.empty(len(pairs))
        for rows in order.tensor_split(max(1, -(-len(pairs) // settings.batch_size))):
            values[rows.numpy()] = self.of_batch(features[rows]).double().numpy()
        return Scores(pairs.keys, values)

    def check(self, count: int) -> None:
        """Raise UserError if there are too few pairs for the settings."""
        k, method = self.settings.k, self.settings.method
        if count < k + 2:
            raise UserError(f"{method}: k: {k} needs {k + 2} pairs, there are {count}")

    def of_batch(self, features: Tensor) -> Tensor:
        """Return the scores (n,) of one batch of features (n, D)."""
        raise NotImplementedError


class Distances:
    """Euclidean distances within a batch, the k + 1 smallest of each picture: no detector reads further ones.

    A partial sort finds them; a full sort takes eight times as long and is most of the cost of a scan.

    Attributes:
        others: (n, k + 1) distances to the nearest other pictures, ascending.
        all: (n, k + 1) smallest distances, the picture itself among them.
        nearest: (n, k) row indexes of the k nearest other pictures.
    """

    def __init__(self, features: Tensor, settings: NeighbourSettings) -> None:
        """Compute the distances between all rows of `features` (n, D), n > k + 1."""
        distances = torch.cdist(features, features)
        own = distances.diagonal().clone()[:, None]  # not exactly 0, by rounding
        self.k = settings.k
        self.others, places = distances.fill_diagonal_(torch.inf).topk(self.k + 1, largest=False)
        self.all = torch.cat([own, self.others], dim=1).sort(dim=1).values[:, : self.k + 1]
        self.nearest = places[:, : self.k]
        if settings.neighbours == "released":
            self.nearest = self.nearest - (self.nearest > torch.arange(len(distances))[:, None]).long()

    def ratio(self) -> Tensor:
        """Return d_k(x) / d_k(n), shape (n, k), for each picture x and each of its k nearest neighbours n."""
        return self.others[:, self.k, None] / self.all[:, self.k][self.nearest]


def dimension(distances: Tensor, k: int) -> Tensor:
    """Return the local intrinsic dimension (n,) by maximum likelihood from ascending distances (n, m), m > k."""
    return -k / (distances[:, :k] / distances[:, k, None] + SMALL).log().sum(dim=1)


def finite(scores: Tensor) -> Tensor:
    """Replace non-finite scores, caused by a distance of 0, by the values of the released code."""
    return scores.nan_to_num(nan=BROKEN, posinf=BROKEN, neginf=0.0)
