"""LID: local intrinsic dimension of training pictures in a random batch, by maximum likelihood (arXiv 2502.01385).

score(x) = -k / sum over j <= k of log(d_j(x) / d_k(x) + 0.0001)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from antidote.detectors.neighbours import Distances, NeighbourDetector, NeighbourSettings, dimension, finite

if TYPE_CHECKING:
    from torch import Tensor


class LIDSettings(NeighbourSettings):
    """Neighbours and batches."""

    method: Literal["lid"] = "lid"


class LID(NeighbourDetector):
    """Local intrinsic dimension of the neighbourhood of a picture."""

    Settings = LIDSettings

    def of_batch(self, features: Tensor) -> Tensor:
        return finite(dimension(Distances(features, self.settings).others, self.settings.k))
