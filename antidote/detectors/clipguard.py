"""CLIPGuard: change of embedding and prediction when regions are masked (KDD 2026, Springer 978-981-92-1947-6_20).

    score(x) = max over regions r of  1 - cos(f(x), f(x without r)) + prediction_weight (p_c(x) - p_c(x without r))

c is the predicted class of x. A patch trigger sits in one region; without the region, feature and class of the picture
change far. A reconstruction from the abstract: regions, sum and maximum are ours. Regions are squares of a grid and
are filled with the mean colour. Without clean pictures there is no threshold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.base.lazy import torch
from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.zero_shot import Head, of_chunks
from antidote.training.session import Work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from antidote.clip.model import Clip


class CLIPGuardSettings(DetectorSettings):
    """Regions, and weight of the prediction."""

    method: Literal["clipguard"] = "clipguard"
    grid: int = Field(4, ge=2, description="regions along a side (ours)")
    prediction_weight: float = Field(1.0, ge=0, description="of the fall of the class's probability (ours)")


class CLIPGuard(Detector):
    """Largest change that the masking of one region makes; class names and prompts."""

    Settings = CLIPGuardSettings
    subject = "pictures"
    access = "test-time"
    reconstruction = True

    @classmethod
    def work(cls, settings: CLIPGuardSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return 0, (1 + settings.grid**2) * sizes["shown pictures"]

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        head, side = Head(clip, data), -(-clip.size // self.settings.grid)
        mean = torch.tensor(clip.config["preprocess_cfg"]["mean"], device=clip.device).view(1, 3, 1, 1)

        def change(images: Tensor) -> Tensor:
            whole = clip.encode_image(images)
            before, best = head.probabilities(whole).max(dim=1)
            largest = torch.full_like(before, -torch.inf)
            for top in range(0, clip.size, side):
                for left in range(0, clip.size, side):
                    masked = images.clone()
                    masked[:, :, top : top + side, left : left + side] = mean
                    features = clip.encode_image(masked)
                    after = head.probabilities(features).gather(1, best[:, None])[:, 0]
                    fall = self.settings.prediction_weight * (before - after)
                    largest = largest.maximum(1 - (whole * features).sum(dim=1) + fall)
            return largest

        return Scores(data.pictures.keys, of_chunks(clip, data.pictures, change))
