"""SCALE-UP: constancy of the class when the pixels are multiplied (Guo et al., ICLR 2023, arXiv 2302.03251).

    score(x) = share of the factors n for which the class of min(n x, 1) is the class of x

Triggered pictures keep their class. The variant without clean data; ours: the class is the zero-shot class, and ties,
since scores are fractions, are ordered by the mean probability of the class (`tie_weight`).
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


class ScaleUpSettings(DetectorSettings):
    """Factors and threshold."""

    method: Literal["scale_up"] = "scale_up"
    factors: list[int] = Field([3, 5, 7, 9, 11], min_length=1, description="of the pixels (paper: 3, 5, 7, 9, 11)")
    threshold: float = Field(0.5, ge=0, le=1, description="share of equal classes that is flagged (released code: 0.5)")
    tie_weight: float = Field(1e-3, ge=0, lt=0.1, description="of the mean probability of the class, for ties (ours)")


class ScaleUp(Detector):
    """Share of the factors that leave the class as it is; class names and prompts."""

    Settings = ScaleUpSettings
    subject = "pictures"
    access = "test-time"

    @classmethod
    def work(cls, settings: ScaleUpSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return 0, (1 + len(settings.factors)) * sizes["shown pictures"]

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        head = Head(clip, data)

        def constancy(images: Tensor) -> Tensor:
            best = head.probabilities(clip.encode_image(images)).argmax(dim=1)
            shares = [head.probabilities(clip.encode_image((n * images).clamp(0, 1))) for n in self.settings.factors]
            same = torch.stack([one.argmax(dim=1) == best for one in shares]).float().mean(dim=0)
            own = torch.stack([one.gather(1, best[:, None])[:, 0] for one in shares]).mean(dim=0)
            return same + self.settings.tie_weight * own

        return Scores(data.pictures.keys, of_chunks(clip, data.pictures, constancy), self.settings.threshold)
