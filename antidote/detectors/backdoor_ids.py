"""BackdoorIDS: clusters of a picture's features along progressive masking (arXiv 2603.11664).

Random squares of the picture are masked, more at each step. The feature of a clean picture moves gradually; that of a
triggered picture jumps once the trigger is masked, and the features fall into more than one cluster.

    score(x) = [more than one cluster] + largest gap / sum of the gaps

Gaps are the cosine distances between successive features. The paper clusters by density and flags more than one
cluster, which is the threshold 1; the gap, which orders pictures beyond the flag, is ours. A reconstruction: order of
masking, fill (mean colour) and share of masking are ours, the clusters are those of scikit-learn's HDBSCAN. One order
of masking serves all pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.zero_shot import chunks
from antidote.training.session import Work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from antidote.clip.model import Clip


class BackdoorIDSSettings(DetectorSettings):
    """Masking and clusters."""

    method: Literal["backdoor_ids"] = "backdoor_ids"
    grid: int = Field(8, ge=2, description="squares along a side that are masked one after the other (ours)")
    steps: int = Field(20, ge=4, description="steps of masking, each one feature (ours)")
    masked: float = Field(0.9, gt=0, le=1, description="share of the squares that the last step masks (ours)")
    cluster_size: int = Field(3, ge=2, description="fewest features in a cluster, at most `steps` + 1 (ours)")

    @model_validator(mode="after")
    def _clusters_can_form(self) -> BackdoorIDSSettings:
        if self.cluster_size > self.steps + 1:
            raise ValueError(
                f"cluster_size: {self.cluster_size} is more than the {self.steps + 1} features of a picture, one more "
                f"than `steps`"
            )
        return self


class BackdoorIDS(Detector):
    """Jump of the feature under progressive masking; the model alone."""

    Settings = BackdoorIDSSettings
    subject = "pictures"
    reconstruction = True

    @classmethod
    def work(cls, settings: BackdoorIDSSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return 0, (1 + settings.steps) * sizes["shown pictures"]

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        mean = torch.tensor(clip.config["preprocess_cfg"]["mean"], device=clip.device).view(1, 3, 1, 1)
        masks, values = torch.stack(self._masks(clip.size)).to(clip.device), []
        with torch.no_grad():
            for images in chunks(clip, data.pictures):
                path = [clip.encode_image(torch.where(mask, mean, images)) for mask in masks]
                paths = torch.stack(path, dim=1).cpu()  # once for all masks: a GPU finishes its work at every copy
                values += [self.jump(one.double().numpy()) for one in paths]
        return Scores(data.pictures.keys, np.array(values), threshold=1.0)

    def _masks(self, size: int) -> list[Tensor]:
        """Return the masks (size, size) of all steps; the first is empty."""
        grid, cell = self.settings.grid, -(-size // self.settings.grid)
        stream = torch.Generator().manual_seed(derive(self.seed, "order of masking"))
        rank = torch.randperm(grid**2, generator=stream).view(grid, grid)
        rank = rank.repeat_interleave(cell, dim=0).repeat_interleave(cell, dim=1)[:size, :size]
        last = self.settings.masked * grid**2
        return [rank < round(last * step / self.settings.steps) for step in range(self.settings.steps + 1)]

    def jump(self, path: np.ndarray) -> float:
        """Return the score of one path of normalised features (steps + 1, D)."""
        from sklearn.cluster import HDBSCAN  # a lazy import, since the import takes a second

        gaps = np.clip(1 - (path[1:] * path[:-1]).sum(axis=1), 0, None)
        found = HDBSCAN(self.settings.cluster_size, allow_single_cluster=True, copy=True).fit_predict(path)
        return float(found.max() > 0) + float(gaps.max() / max(gaps.sum(), 1e-12)) * (1 - 1e-9)
