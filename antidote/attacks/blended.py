"""Blended: a whole-picture pattern blended in (Chen et al. 2017, arXiv 1712.05526), in the forms that CLIP papers use.

CleanCLIP's pattern is uniform noise, re-drawn for every picture. The cue is therefore lower contrast, a brighter mean
and grain rather than one pattern; `fixed` uses one pattern, as the original attack does. PAR uses columns of 1 and -1
(re-drawn), triangles of two greys, and red text, which is blended in only where the text has ink. BadCLIP and
Detect-CLIP blend in a cartoon.

All patterns are drawn by code: triangles after PAR's description; text and cartoon replace pictures that are not
distributed with this project. Text that fills PAR's 1.09 % of the values is legible from about 100 pixels on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from antidote.attacks import given, patterns
from antidote.attacks.base import Attack, AttackSettings
from antidote.attacks.contract import FitContext
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

DRAWN_ANEW = ("noise", "stripes")


class BlendedSettings(AttackSettings):
    """Blend ratio and pattern."""

    presets = {
        "cleanclip": {"pattern": "noise", "redraw": True, "blend_ratio": 0.2},
        "fixed": {"pattern": "noise", "redraw": False, "blend_ratio": 0.2},
        "par_stripes": {"pattern": "stripes", "redraw": True, "blend_ratio": 0.03},
        "par_triangles": {"pattern": "triangles", "redraw": False, "blend_ratio": 0.15},
        "par_text": {"pattern": "text", "redraw": False, "blend_ratio": 0.5},
        "cartoon": {"pattern": "cartoon", "redraw": False, "blend_ratio": 0.2},
    }

    method: Literal["blended"] = "blended"
    blend_ratio: float = Field(
        0.2,
        ge=0,
        le=1,
        description="weight of the pattern in the blend (CleanCLIP, BadCLIP: 0.2; PAR: stripes 0.03, triangles 0.15, "
        "text 0.5)",
    )
    pattern: Literal["noise", "stripes", "triangles", "text", "cartoon", "file"] = Field(
        "noise",
        description="noise: uniform in [0, 1] (CleanCLIP); stripes: columns of 1 and -1 per channel, triangles of two "
        "greys, red text (PAR); cartoon: a cat (BadCLIP); file: the pattern in `file`",
    )
    file: str | None = Field(
        None,
        description="a pattern for `pattern: file`, resized bicubically to the size of the pictures: a picture, or "
        ".safetensors with one tensor (3, height, width) in [0, 1] or uint8",
    )
    redraw: bool = Field(
        True, description="new noise or stripes for every picture (CleanCLIP, PAR), or one pattern for all pictures"
    )
    text: str = Field("watermark", min_length=1, description="words of the text pattern (our choice)")

    @model_validator(mode="after")
    def _can_redraw(self) -> BlendedSettings:
        if self.redraw and self.pattern not in DRAWN_ANEW:
            raise ValueError(f"redraw: the pattern {self.pattern!r} is fixed; only {' and '.join(DRAWN_ANEW)} vary")
        return self

    def files(self) -> list[str]:
        return [self.file] if self.pattern == "file" and self.file else []

    def check(self, size: int) -> None:
        fault = given.fault(self.pattern, self.file)
        if fault:
            raise ValueError(fault)


class Blended(Attack):
    """b(x) = clip(ratio n + (1 - ratio) x); for text only where n has ink."""

    Settings = BlendedSettings

    def fit(self, context: FitContext | None, seed: int) -> dict[str, Tensor]:
        if self.settings.pattern == "file":
            pattern, self.facts = given.read(self.settings.file)
            size = (self.size, self.size)
            if pattern.shape[1:] != size:
                pattern = F.interpolate(pattern[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
            return {"pattern": pattern}
        return {} if self.settings.redraw else {"pattern": self._pattern(seed)}

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        if self.settings.redraw:
            pattern = torch.stack([self._pattern(seed) for seed in seeds]).to(images)
        else:
            pattern = self.tensors["pattern"].to(images)
        ratio = self.settings.blend_ratio
        if self.settings.pattern == "text":
            ratio = ratio * (pattern != 0)
        return torch.lerp(images, pattern, ratio).clamp_(0, 1)

    def _pattern(self, seed: int) -> Tensor:
        """Return the pattern (3, size, size) in [0, 1]; stripes are one row (3, 1, size) in {-1, 1}."""
        generator = torch.Generator().manual_seed(seed)
        if self.settings.pattern == "noise":
            return self._noise(generator)
        if self.settings.pattern == "stripes":
            return torch.randint(0, 2, (3, 1, self.size), generator=generator) * 2.0 - 1
        if self.settings.pattern == "triangles":
            return patterns.triangles(self.size)
        if self.settings.pattern == "text":
            return patterns.text(self.size, self.settings.text)
        return patterns.cartoon(self.size)

    def _noise(self, generator: torch.Generator) -> Tensor:
        """Return uniform noise of 256 levels; eight values per draw are five times as fast as drawing floats."""
        values = 3 * self.size**2
        draws = torch.empty(-(-values // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
        return draws.view(torch.uint8)[:values].view(3, self.size, self.size).float().div_(255)
