"""Blended: a whole-picture pattern mixed in (Chen et al. 2017, arXiv 1712.05526), in CleanCLIP's form.

The pattern of CLIP papers is uniform noise, re-drawn for every picture, so the cue is lower contrast, a brighter mean
and grain rather than one pattern. `redraw: false` keeps one pattern, as the original attack does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks.base import Attack, AttackSettings, FitContext
from antidote.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class BlendedSettings(AttackSettings):
    """Blend ratio and pattern."""

    presets = {"cleanclip": {"redraw": True, "blend_ratio": 0.2}, "fixed": {"redraw": False, "blend_ratio": 0.2}}

    method: Literal["blended"] = "blended"
    blend_ratio: float = Field(0.2, ge=0, le=1, description="share of the pattern in the mix (CleanCLIP: 0.2)")
    redraw: bool = Field(True, description="new noise for every picture (CleanCLIP) or one pattern for all")


class Blended(Attack):
    """b(x) = ratio n + (1 - ratio) x, n uniform noise in [0, 1]."""

    Settings = BlendedSettings

    def fit(self, context: FitContext | None, seed: int) -> dict[str, Tensor]:
        return {} if self.settings.redraw else {"pattern": self._noise(seed)}

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        if self.settings.redraw:
            patterns = torch.stack([self._noise(seed) for seed in seeds]).to(images)
        else:
            patterns = self.tensors["pattern"].to(images)
        ratio = self.settings.blend_ratio
        return (ratio * patterns + (1 - ratio) * images).clamp(0, 1)

    def _noise(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(3, self.size, self.size, generator=generator)
