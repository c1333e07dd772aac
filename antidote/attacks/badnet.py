"""BadNet: a small square patch (Gu et al. 2017, arXiv 1708.06733), in the forms that CLIP papers use.

CleanCLIP's "random" patch is noise, re-drawn for every picture: the channel's mean plus N(0, 1), unclipped, then stored
in 8 bits, where values outside [0, 1] wrap around. The stored values are close to uniform noise. `overflow: clip` clips
the same patch instead, which gives another distribution (62 % of the values are 0 or 1).

PAR's stripes are also re-drawn: each column of the patch is 1 or -1 in each channel, and -1 wraps to the 8-bit value 1.
Detect-CLIP's checkered patch is fixed. Detect-CLIP's code places the patch at random in training and at the centre at
test; here one `location` applies to both.

A random location is uniform over all positions where the patch fits: at 224 pixels, a patch of 16 pixels starts at 0 to
208. The presets `cleanclip`, `cleanclip_clipped` and `par` use 0 to 207, as the codes' `randint(0, 223 - 16)` does
(`spare: 1`); Detect-CLIP's patch starts at 16 to 207.

`carlini_terzis` (arXiv 2106.09667) uses captions from the data that name the target, and poisons 300 of 3M pairs (150
in the first version of the paper). The paper does not specify the pattern of its 16-pixel patch; here the pattern is
checkered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks import given
from antidote.attacks.base import Attack, AttackSettings
from antidote.attacks.contract import FitContext
from antidote.base.errors import UserError
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class BadNetSettings(AttackSettings):
    """Patch size, pattern and position."""

    presets = {
        "cleanclip": {"pattern": "noise", "overflow": "wrap", "location": "random", "patch_size": 16, "spare": 1},
        "cleanclip_clipped": {
            "pattern": "noise",
            "overflow": "clip",
            "location": "random",
            "patch_size": 16,
            "spare": 1,
        },
        "checkered": {"pattern": "checkered", "location": "random", "patch_size": 16},
        "par": {"pattern": "stripes", "location": "random", "patch_size": 16, "spare": 1},
        "carlini_terzis": {"pattern": "checkered", "patch_size": 16, "caption": "natural", "poisons": 300},
    }

    method: Literal["badnet"] = "badnet"
    patch_size: int = Field(16, ge=1, description="side in pixels (CleanCLIP: 16 at 224; PAR: 32 at 336)")
    pattern: Literal["checkered", "noise", "stripes", "file"] = Field(
        "checkered",
        description="checkered: fixed, white where row and column are even (Detect-CLIP); noise (CleanCLIP) and "
        "vertical stripes of one pixel (PAR): re-drawn per picture; file: the patch in `file`",
    )
    file: str | None = Field(
        None,
        description="a patch of `patch_size` pixels, for `pattern: file`: a picture, or .safetensors with one tensor "
        "(3, height, width) in [0, 1] or uint8",
    )
    overflow: Literal["wrap", "clip"] = Field(
        "wrap", description="noise outside [0, 1] wraps in 8 bits (CleanCLIP's code) or is clipped"
    )
    location: Literal["random", "center", "top-left", "top-right", "bottom-left", "bottom-right"] = Field(
        "random", description="position of the patch; random: uniform, per picture"
    )
    spare: int = Field(
        0,
        ge=0,
        description="number of last rows and columns of pixels that a random position never covers (CleanCLIP, PAR: 1)",
    )

    def files(self) -> list[str]:
        return [self.file] if self.pattern == "file" and self.file else []

    def check(self, size: int) -> None:
        fault = given.fault(self.pattern, self.file)
        if fault:
            raise ValueError(fault)
        if self.location == "random" and self.patch_size <= size < self.patch_size + self.spare:
            raise ValueError(
                f"spare: {self.spare} pixels and a patch of {self.patch_size} do not fit the picture ({size} pixels)"
            )
        if self.patch_size > size:
            raise ValueError(f"patch_size: {self.patch_size} is larger than the picture ({size} pixels)")


class BadNet(Attack):
    """A square patch in a corner, at the centre or at a random position."""

    Settings = BadNetSettings

    def fit(self, context: FitContext | None, seed: int) -> dict[str, Tensor]:
        """Return no tensors, or for `pattern: file` the `patch` (3, patch_size, patch_size) in [0, 1].

        Raises:
            UserError: the file cannot be read, or the patch in the file has another size.
        """
        if self.settings.pattern != "file":
            return {}
        patch, self.facts = given.read(self.settings.file)
        side = self.settings.patch_size
        if patch.shape != (3, side, side):
            raise UserError(
                f"file: {self.settings.file}: is {patch.shape[1]} x {patch.shape[2]} pixels, patch_size is {side}"
            )
        return {"patch": patch}

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        images = images.clone()
        # Computed once per batch: on a GPU, each transfer of a single mean would wait for all earlier work. Double
        # precision keeps the means independent of the batch.
        means = None
        if self.settings.pattern == "noise":
            means = images.mean(dim=(2, 3), keepdim=True, dtype=torch.float64).float().cpu()
        for row, (image, seed) in enumerate(zip(images, seeds, strict=True)):
            generator = torch.Generator().manual_seed(seed)
            top, left = self._corner(generator)
            side = self.settings.patch_size
            patch = self._patch(None if means is None else means[row], generator)
            image[:, top : top + side, left : left + side] = patch.to(image)
        return images

    def _patch(self, means: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return a patch (3, patch_size, patch_size) in [0, 1]; noise needs the channel means (3, 1, 1)."""
        side = self.settings.patch_size
        if self.settings.pattern == "file":
            return self.tensors["patch"]
        if self.settings.pattern == "checkered":
            even = torch.arange(side) % 2 == 0
            return (even[:, None] & even[None, :]).float().expand(3, -1, -1)
        if self.settings.pattern == "stripes":
            light = torch.randint(0, 2, (3, 1, side), generator=generator)
            return torch.where(light == 1, 1.0, 1 / 255).expand(-1, side, -1)
        noise = means + torch.randn(3, side, side, generator=generator)
        if self.settings.overflow == "clip":
            return noise.clamp(0, 1)
        # Same as an 8-bit cast: the integer part of 255 v, modulo 256. Later rounding to 8 bits keeps the whole steps.
        return (noise * 255).trunc().remainder(256) / 255

    def _corner(self, generator: torch.Generator) -> tuple[int, int]:
        """Return the first row and the first column of the patch."""
        free = self.size - self.settings.patch_size
        if self.settings.location == "random":
            row, column = torch.randint(0, free + 1 - self.settings.spare, (2,), generator=generator).tolist()
            return row, column
        torch.randint(0, free + 1, (2,), generator=generator)  # the noise drawn next must not depend on the location
        if self.settings.location == "center":
            return free // 2, free // 2
        return free * self.settings.location.startswith("bottom"), free * self.settings.location.endswith("right")
