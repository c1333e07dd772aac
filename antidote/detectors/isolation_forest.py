"""Isolation forest over the features of training pictures in random batches (arXiv 2502.01385; by scikit-learn).

score(x) = minus the forest's normality score: few random splits isolate a suspicious picture from the others
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.detectors.neighbours import NeighbourDetector, NeighbourSettings

if TYPE_CHECKING:
    from torch import Tensor

FEWEST = 2  # pairs; one is isolated from the other


class IsolationForestSettings(NeighbourSettings):
    """Size of the forest; `k` has no effect."""

    method: Literal["isolation_forest"] = "isolation_forest"
    trees: int = Field(100, ge=1, description="number of trees (released code: 100)")


class IsolationForest(NeighbourDetector):
    """Ease with which random splits isolate the feature of a picture from the features of its batch."""

    Settings = IsolationForestSettings

    def check(self, count: int) -> None:
        """Raise UserError if there is nothing to isolate a pair from; `k` has no effect here."""
        if count < FEWEST:
            raise UserError(f"isolation_forest: needs at least {FEWEST} pairs, there are {count}")

    def of_batch(self, features: Tensor) -> Tensor:
        from sklearn import ensemble  # a lazy import, since the import takes a second

        seed = derive(self.seed, "isolation forest") % 2**32
        forest = ensemble.IsolationForest(n_estimators=self.settings.trees, random_state=seed)
        return torch.from_numpy(-forest.fit(features.numpy()).score_samples(features.numpy()))
