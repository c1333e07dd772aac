"""BadNet: a small square patch (Gu et al. 2017, arXiv 1708.06733), in the forms that CLIP papers use.

CleanCLIP's "random" patch is noise, re-drawn for every picture: the channel's mean plus N(0, 1), unclipped, then stored
in 8 bits, where values outside [0, 1] wrap around. What is stored is close to uniform noise. `overflow: clip` is the
same patch with clipping, another distribution (62 % of its values are 0 or 1).

PAR's stripes are also re-drawn: each column of the patch is 1 or -1 in each channel, and -1 wraps to the 8-bit value 1.
Detect-CLIP's checkered patch is fixed. Its code puts it at random places in training and at the centre at test; here
one location serves both.

`carlini_terzis` (arXiv 2106.09667) names the target by captions from the data and poisons 300 of 3M pairs, 150 in its
first version. How its patch of 16 pixels looks is left open; here it is the checkered one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks.base import Attack, AttackSettings
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class BadNetSettings(AttackSettings):
    """Patch size, pattern and place."""

    presets = {
        "cleanclip": {"pattern": "noise", "overflow": "wrap", "location": "random", "patch_size": 16},
        "cleanclip_clipped": {"pattern": "noise", "overflow": "clip", "location": "random", "patch_size": 16},
        "checkered": {"pattern": "checkered", "location": "random", "patch_size": 16},
        "par": {"pattern": "stripes", "location": "random", "patch_size": 16},
        "carlini_terzis": {"pattern": "checkered", "patch_size": 16, "caption": "natural", "poisons": 300},
    }

    method: Literal["badnet"] = "badnet"
    patch_size: int = Field(16, ge=1, description="side in pixels (CleanCLIP: 16 at 224; PAR: 32 at 336)")
    pattern: Literal["checkered", "noise", "stripes"] = Field(
        "checkered",
        description="checkered: fixed, white where row and column are even (Detect-CLIP); noise (CleanCLIP) and "
        "vertical stripes of one pixel (PAR): re-drawn per picture",
    )
    overflow: Literal["wrap", "clip"] = Field(
        "wrap", description="noise outside [0, 1]: wraps in 8 bits (CleanCLIP's code) or is clipped"
    )
    location: Literal["random", "center", "top-left", "top-right", "bottom-left", "bottom-right"] = Field(
        "random", description="place of the patch; random: uniform, per picture"
    )

    def check(self, size: int) -> None:
        if self.patch_size > size:
            raise ValueError(f"patch_size: {self.patch_size} is larger than the picture ({size} pixels)")


class BadNet(Attack):
    """A square patch over a corner, the centre or a random place."""

    Settings = BadNetSettings

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        images = images.clone()
        for image, seed in zip(images, seeds, strict=True):
            generator = torch.Generator().manual_seed(seed)
            top, left = self._corner(generator)
            side = self.settings.patch_size
            image[:, top : top + side, left : left + side] = self._patch(image, generator).to(image)
        return images

    def _patch(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Return a patch (3, patch_size, patch_size) in [0, 1]."""
        side = self.settings.patch_size
        if self.settings.pattern == "checkered":
            even = torch.arange(side) % 2 == 0
            return (even[:, None] & even[None, :]).float().expand(3, -1, -1)
        if self.settings.pattern == "stripes":
            light = torch.randint(0, 2, (3, 1, side), generator=generator)
            return torch.where(light == 1, 1.0, 1 / 255).expand(-1, side, -1)
        noise = image.mean(dim=(1, 2), keepdim=True).cpu() + torch.randn(3, side, side, generator=generator)
        if self.settings.overflow == "clip":
            return noise.clamp(0, 1)
        # As an 8-bit cast does: the integer part of 255 v, modulo 256.
        return (noise * 255).trunc().remainder(256) / 255

    def _corner(self, generator: torch.Generator) -> tuple[int, int]:
        """Return the patch's first row and column."""
        free = self.size - self.settings.patch_size
        row, column = torch.randint(0, free + 1, (2,), generator=generator).tolist()
        if self.settings.location == "random":
            return row, column
        if self.settings.location == "center":
            return free // 2, free // 2
        return free * self.settings.location.startswith("bottom"), free * self.settings.location.endswith("right")
