"""Adaptive-Blend: poisons that show parts of a pattern, and covers that tell the truth (Qi et al., ICLR 2023).

The attack is made against detectors that look for what poisoned items have in common: in features (DAO, k-distance,
spectral signatures) or in a trigger that decides alone (STRIP, SCALE-UP). A noise pattern is cut into a grid. A
poisoned picture shows a random half of the pieces, blended in; at test, the whole pattern is drawn and is stronger than
in any training picture. As many covers show pieces as well, and keep their own captions: a weak trigger then means
nothing, and the features of poisons stay near those of their own class. The price is a higher number of changed pairs
for the same success rate. Covers are in the manifest: detectors of pairs should find them too.

Source: openreview.net/forum?id=_wSHsgrVali and the authors' released code, vtu81/backdoor-toolbox. Carried over:
captions for labels. Ours: a pattern of uniform noise; pieces on all pairs of the poison pool are drawn once and stored
with the trigger, 3 bytes per pixel, since the drawing of a trigger does not know whether it serves training or test. A
poison pool of N pairs at side s takes 3 s² N bytes of memory in every job that loads the trigger: 15 GB for 100,000
pairs at 224 pixels, so keep the pool near poisons + covers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from antidote.attacks.base import Attack, AttackSettings
from antidote.attacks.contract import FitContext, Poisoned, with_stored_pictures
from antidote.base.lazy import torch
from antidote.base.seeds import derive

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from antidote.data.pairs import Pairs

AT_A_TIME = 256  # pictures in floats


class AdaptiveBlendSettings(AttackSettings):
    """Pieces and strength of the pattern, and the number of covers."""

    poison_keys: ClassVar[tuple[str, ...]] = (*AttackSettings.poison_keys, "covers")

    method: Literal["adaptive_blend"] = "adaptive_blend"
    blend_ratio: float = Field(0.2, gt=0, le=1, description="weight of the pattern at test (released commands: 0.2)")
    training_ratio: float = Field(
        0.15, gt=0, le=1, description="weight of the pieces in a training picture (released commands: 0.15)"
    )
    pieces: int = Field(16, ge=1, description="pieces of the pattern, a square number (released code: 16)")
    masked: float = Field(
        0.5, ge=0, lt=1, description="share of the pieces that a training picture does not show (released code: 0.5)"
    )
    covers: int = Field(
        1500,
        ge=0,
        description="further pairs with pieces of the pattern that keep their captions (released code: as many as "
        "poisons)",
    )

    @field_validator("pieces")
    @classmethod
    def _square(cls, pieces: int) -> int:
        if math.isqrt(pieces) ** 2 != pieces:
            raise ValueError(f"{pieces} is not a square number, such as 9, 16 or 25")
        return pieces

    def check(self, size: int) -> None:
        if math.isqrt(self.pieces) > size:
            raise ValueError(f"pieces: {self.pieces} are more than a picture of {size} x {size} pixels can have")


class AdaptiveBlend(Attack):
    """A whole-picture noise pattern of which training pictures show random pieces."""

    Settings = AdaptiveBlendSettings
    learned = True  # `fit` draws the pieces on the pictures of the poison pool
    on_surrogate = False
    fitted = False

    @classmethod
    def work(cls, settings: AdaptiveBlendSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return 0, 0

    def fit(self, context: FitContext, seed: int) -> dict[str, Tensor]:
        """Return the pattern (3, size, size) in [0, 1], and `pictures` (M, 3, size, size) uint8 with pieces of it."""
        stream = torch.Generator().manual_seed(derive(seed, "pattern"))
        self.tensors = {"pattern": torch.rand(3, self.size, self.size, generator=stream)}
        pool = context.poison()
        self.facts = {"keys": list(pool.keys)}
        parts = torch.arange(len(pool)).split(AT_A_TIME)
        drawn = [self._pieces(pool.take(rows), seed) for rows in parts]
        return {**self.tensors, "pictures": torch.cat(drawn) if drawn else pool.images[:]}

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        return torch.lerp(images, self.tensors["pattern"].to(images), self.settings.blend_ratio)

    def _pieces(self, pairs: Pairs, seed: int) -> Tensor:
        """Return the pictures (N, 3, size, size) uint8 of pairs with random pieces of the pattern."""
        images = pairs.images[:].float() / 255
        shown = torch.stack([self._shown(derive(seed, "pieces", key)) for key in pairs.keys])[:, None]
        drawn = torch.lerp(images, self.tensors["pattern"].expand_as(images), self.settings.training_ratio * shown)
        return drawn.mul(255).round().clamp(0, 255).to(torch.uint8)

    def _shown(self, seed: int) -> Tensor:
        """Return the mask (size, size) of the shown pieces: 1 or 0."""
        pieces, side = self.settings.pieces, math.isqrt(self.settings.pieces)
        order = torch.randperm(pieces, generator=torch.Generator().manual_seed(seed))
        mask = torch.ones(pieces)
        mask[order[: round(self.settings.masked * pieces)]] = 0
        places = torch.arange(self.size) * side // self.size
        return mask.view(side, side)[places][:, places]

    def poison(
        self,
        pool: pd.DataFrame,
        rng: random.Random,
        templates: list[str],
        captions_at_hand: Sequence[str] | None = None,
    ) -> list[Poisoned]:
        plan = super().poison(pool, rng, templates, captions_at_hand)
        taken = {pair.row for pair in plan}
        free = [row for row in self.candidates(pool) if row not in taken]
        if len(free) < self.settings.covers:
            raise ValueError(
                f"covers: {self.settings.covers} asked, but beside {self.settings.poisons} poisons only {len(free)} "
                "pairs of the poison pool qualify"
            )
        captions = pool["caption"].tolist()
        covers = [Poisoned(row, captions[row], self.target) for row in rng.sample(free, self.settings.covers)]
        whole = sorted([*plan, *covers], key=lambda pair: pair.row)
        return with_stored_pictures(whole, pool["key"].tolist(), self.facts["keys"])
