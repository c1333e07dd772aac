"""k-distance: the distance of a training picture to its k-th neighbour in a random batch (arXiv 2502.01385).

score(x) = d_k(x), the Euclidean distance between unnormalised features
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from antidote.detectors.neighbours import Distances, NeighbourDetector, NeighbourSettings

if TYPE_CHECKING:
    from torch import Tensor


class KDistanceSettings(NeighbourSettings):
    """Neighbours and batches."""

    method: Literal["k_distance"] = "k_distance"


class KDistance(NeighbourDetector):
    """Distance to the k-th neighbour."""

    Settings = KDistanceSettings

    def of_batch(self, features: Tensor) -> Tensor:
        return Distances(features, self.settings).others[:, self.settings.k]
