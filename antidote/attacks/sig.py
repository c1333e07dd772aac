"""SIG: a sine wave of vertical stripes over the whole picture (Barni et al. 2019, arXiv 1902.11237).

n(., j) = amplitude sin(2 pi cycles j / width), the same for all rows and channels. The original attack keeps the true
labels; every CLIP paper replaces the captions, and so do the presets. The codes differ by a factor of five under one
name: BadCLIP adds the wave at 60/255; CleanCLIP and Detect-CLIP apply the same wave only through their 0.2 blend, which
leaves 12/255 and dims the picture to 80 %; BackdoorBench adds 40/255.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks.base import Attack, AttackSettings
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class SIGSettings(AttackSettings):
    """Strength and frequency of the wave, and blending into the picture."""

    presets = {
        "badclip": {"amplitude": 60, "cycles": 6, "blend_ratio": None},
        "cleanclip": {"amplitude": 60, "cycles": 6, "blend_ratio": 0.2},
        "backdoorbench": {"amplitude": 40, "cycles": 6, "blend_ratio": None},
    }

    method: Literal["sig"] = "sig"
    amplitude: float = Field(60, ge=0, le=255, description="peak of the wave in 8-bit steps (BadCLIP: 60)")
    cycles: float = Field(6, gt=0, description="periods over the picture's width (BadCLIP: 6)")
    blend_ratio: float | None = Field(
        None,
        ge=0,
        le=1,
        description="weight of the wave in a blend (CleanCLIP: 0.2); empty: the wave is added (BadCLIP)",
    )

    def check(self, size: int) -> None:
        if self.cycles > size / 2:
            raise ValueError(f"cycles: {self.cycles:g} periods do not fit in {size} pixels; at most {size / 2:g} do")


class SIG(Attack):
    """b(x) = clip(x + n), or with a blend ratio r clip((1 - r) x + r n)."""

    Settings = SIGSettings

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        ratio = self.settings.blend_ratio
        wave = self.wave().to(images)
        return (images + wave if ratio is None else torch.lerp(images, wave, ratio)).clamp_(0, 1)

    def wave(self) -> Tensor:
        """Return the wave (size,), one value per column, in [-1, 1]."""
        columns = torch.arange(self.size, dtype=torch.float64)
        phase = 2 * math.pi * self.settings.cycles * columns / self.size
        return (self.settings.amplitude / 255 * phase.sin()).float()
