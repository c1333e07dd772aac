"""WaNet: a warp that samples every pixel from a nearby position (Nguyen and Tran 2021, arXiv 2102.10369).

Noise in [-1, 1] on a coarse grid, divided by its mean magnitude, is upsampled to the picture's size and added to the
sampling grid: grid = clamp(identity + strength n / size), in coordinates where the picture spans [-1, 1].

The original attack uses 4 x 4 points and strength 0.5: at 32 pixels a smooth shift of 0.24 pixels on average. The CLIP
codes (CleanCLIP, PAR) use one point per pixel and strength 1, so that no upsampling takes place: the shifts of
neighbouring pixels are unrelated, and the CLIP codes' WaNet is a jitter of 0.5 pixels on average that blurs and frays.
Strength 0.5 means 0.25 pixels at any size; the same shift relative to a picture of 224 pixels requires 0.5 x 224 / 32 =
3.5. The original attack also trains on pictures with random warps and true labels ("noise mode"), which is omitted here
as in the CLIP codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks import given
from antidote.attacks.base import Attack, AttackSettings
from antidote.attacks.contract import FitContext
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class WaNetSettings(AttackSettings):
    """Coarseness and strength of the warp."""

    presets = {
        "cleanclip": {"points": None, "strength": 1.0},
        "attack_cleanclip": {"points": None, "strength": 0.6},
        "original": {"points": 4, "strength": 0.5},
        "original_at_224": {"points": 4, "strength": 3.5},
    }

    method: Literal["wanet"] = "wanet"
    points: int | None = Field(
        4, ge=2, description="points of the coarse grid per side (WaNet: 4); empty: one per pixel (CleanCLIP)"
    )
    strength: float = Field(
        0.5,
        gt=0,
        description="about twice the average shift in pixels (WaNet: 0.5, CleanCLIP: 1)",
    )

    file: str | None = Field(
        None,
        description="sampling grid of a released WaNet: .safetensors with one tensor (size, size, 2) in [-1, 1]; "
        "empty: the grid is drawn from the seed",
    )

    def files(self) -> list[str]:
        return [self.file] if self.file else []

    def check(self, size: int) -> None:
        if self.file is not None:
            wrong = given.absent(self.file)
            if wrong:
                raise ValueError(wrong)
            return
        if self.points is not None and self.points > size:
            raise ValueError(f"points: {self.points} are more than the picture's {size} pixels")


class WaNet(Attack):
    """A fixed warp with bilinear sampling; the noise field is drawn once from the seed and stored."""

    Settings = WaNetSettings
    _grid: Tensor | None = None

    def fit(self, context: FitContext | None, seed: int) -> dict[str, Tensor]:
        if self.settings.file:
            grid, facts = given.read_grid(self.settings.file, self.size)
            self.facts |= facts
            return {"grid": grid}
        generator = torch.Generator().manual_seed(seed)
        points = self.settings.points or self.size
        noise = torch.rand(1, 2, points, points, generator=generator) * 2 - 1
        noise = noise / noise.abs().mean()
        if points < self.size:
            noise = F.interpolate(noise, size=(self.size, self.size), mode="bicubic", align_corners=True)
        return {"noise": noise[0]}

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        count = len(images)
        if not count:
            return images
        if self._grid is None:
            self._grid = self.grid()
        # All pictures share one warp. Stacked as channels, the pictures also share sampling positions and weights. This
        # saves a third of the time and gives the same values. Each thread gets its own stack.
        groups = max(n for n in range(1, min(count, torch.get_num_threads()) + 1) if count % n == 0)
        stacked = images.reshape(groups, -1, self.size, self.size)
        grid = self._grid.to(images)[None].expand(groups, -1, -1, -1)
        drawn = F.grid_sample(stacked, grid, mode="bilinear", align_corners=True)
        return drawn.clamp_(0, 1).view(images.shape)

    def grid(self) -> Tensor:
        """Return the sampling position of each pixel: (size, size, 2), x and y in [-1, 1]."""
        if "grid" in self.tensors:
            return self.tensors["grid"]
        line = torch.linspace(-1, 1, self.size)
        identity = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
        shift = self.settings.strength / self.size * self.tensors["noise"].permute(1, 2, 0)
        return (identity + shift).clamp(-1, 1)
