"""STRIP: entropy of the classes of a picture that is laid over clean pictures (Gao et al. 2019, arXiv 1902.06531).

    score(x) = - mean over clean pictures b of H(p(. | own_weight x + other_weight b))

A patch survives the superposition and keeps the prediction at the target, so that the entropy is low. Ours: the class
probabilities are those of the zero-shot classes, and the clean pictures are the few labelled ones. Some are laid over,
at most half; the threshold is the quantile of the scores of the others, as in the paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.base.lazy import torch
from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.zero_shot import Head, apart, of_chunks, quantile, standing
from antidote.training.session import Work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from antidote.clip.model import Clip


class STRIPSettings(DetectorSettings):
    """Superpositions and threshold."""

    method: Literal["strip"] = "strip"
    overlays: int = Field(20, ge=1, description="clean pictures that each picture is laid over (paper: 100; ours)")
    own_weight: float = Field(1.0, gt=0, description="of the picture in the sum (released code: 1)")
    other_weight: float = Field(1.0, gt=0, description="of the clean picture; sums are cut at white (released code: 1)")
    false_positives: float = Field(0.01, gt=0, lt=1, description="share of clean pictures flagged (paper: 0.01)")


class STRIP(Detector):
    """Minus the mean entropy over superpositions; few labelled pictures."""

    Settings = STRIPSettings
    subject = "pictures"
    access = "few-labelled"
    reconstruction = True

    @classmethod
    def work(cls, settings: STRIPSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        shots = sizes.get("shots", 0)
        return 0, settings.overlays * (sizes["shown pictures"] + shots - min(settings.overlays, shots // 2))

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        """Raises UserError: there are fewer than two classes, or four clean pictures."""
        head = Head(clip, data)
        over, clean = apart("strip", clip, data.shots, self.settings.overlays, self.seed)

        def certainty(images: Tensor) -> Tensor:
            total = torch.zeros(len(images), device=clip.device)
            for other in over:
                mixed = (self.settings.own_weight * images + self.settings.other_weight * other).clamp(0, 1)
                shares = head.probabilities(clip.encode_image(mixed))
                total += torch.special.entr(shares).sum(dim=1)
            return -total / len(over)

        values, own = of_chunks(clip, data.pictures, certainty), of_chunks(clip, clean, certainty)
        share = self.settings.false_positives
        return Scores(data.pictures.keys, values, quantile(own, share), standing("strip", own, share))
