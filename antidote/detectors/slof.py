"""SLOF, simplified local outlier factor, of training pictures in a random batch (arXiv 2502.01385).

score(x) = mean over the k nearest neighbours n of d_k(x) / d_k(n)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from antidote.detectors.neighbours import Distances, NeighbourDetector, NeighbourSettings, finite

if TYPE_CHECKING:
    from torch import Tensor


class SLOFSettings(NeighbourSettings):
    """Neighbours and batches."""

    method: Literal["slof"] = "slof"


class SLOF(NeighbourDetector):
    """Sparsity of a picture's neighbourhood relative to the neighbourhoods of its neighbours."""

    Settings = SLOFSettings

    def of_batch(self, features: Tensor) -> Tensor:
        return finite(Distances(features, self.settings).ratio().mean(dim=1))
