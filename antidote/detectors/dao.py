"""DAO, dimensionality-aware outlier detection, of training pictures in a random batch (arXiv 2502.01385).

    score(x) = mean over the k nearest neighbours n of LID(n) log(d_k(x) / d_k(n))

LID is estimated by maximum likelihood over all distances of a neighbour, including distance 0 to itself, as in the
released code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from antidote.detectors.neighbours import Distances, NeighbourDetector, NeighbourSettings, dimension, finite

if TYPE_CHECKING:
    from torch import Tensor


class DAOSettings(NeighbourSettings):
    """Neighbours and batches."""

    method: Literal["dao"] = "dao"


class DAO(NeighbourDetector):
    """Sparsity of a picture's neighbourhood, weighted by the dimension of its neighbours' neighbourhoods."""

    Settings = DAOSettings

    def of_batch(self, features: Tensor) -> Tensor:
        distances = Distances(features, self.settings)
        dimensions = dimension(distances.all, self.settings.k)[distances.nearest]
        return finite((dimensions * distances.ratio().log()).mean(dim=1))
