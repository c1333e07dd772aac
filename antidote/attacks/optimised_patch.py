"""Base of attacks with an optimised patch: position of the patch, and optimisation on a surrogate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from antidote.attacks.base import Attack
from antidote.attacks.fitting import FitSettings, minimise, unit
from antidote.base.lazy import torch
from antidote.base.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs


class OptimisedPatchSettings(FitSettings):
    """Size and position of the patch."""

    patch_size: int = Field(16, ge=1, description="side in pixels (BadCLIP: 16 at 224)")
    location: Literal["center", "top-left", "top-right", "bottom-left", "bottom-right"] = Field(
        "center", description="position of the patch (BadCLIP: center, InverTune: bottom-right)"
    )

    def check(self, size: int) -> None:
        super().check(size)
        if self.patch_size > size:
            raise ValueError(f"patch_size: {self.patch_size} is larger than the picture ({size} pixels)")


class OptimisedPatch(Attack):
    """Base class: one optimised patch at the same position of every picture.

    Example:
        class Towards(OptimisedPatch):
            Settings = TowardsSettings

            def fit(self, context: FitContext, seed: int) -> dict[str, Tensor]:
                clip = frozen(context.surrogate)
                goal = clip.class_embeddings([self.target], context.templates)[:, 0]
                return {"patch": self.optimise(clip, context.pairs, lambda z, x, rows: -(z @ goal).mean(), seed)}
    """

    Settings: ClassVar[type[OptimisedPatchSettings]]
    learned = True

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.paste(images, self.tensors["patch"].to(images))

    def paste(self, images: Tensor, patch: Tensor) -> Tensor:
        """Return copies of pictures (N, 3, size, size) with the patch (3, side, side); `images` is not changed."""
        side = self.settings.patch_size
        free = self.size - side
        if self.settings.location == "center":
            top = left = free // 2
        else:
            top = free * self.settings.location.startswith("bottom")
            left = free * self.settings.location.endswith("right")
        images = images.clone()
        images[:, :, top : top + side, left : left + side] = patch
        return images

    def optimise(
        self,
        clip: Clip,
        pairs: Pairs,
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
        seed: int,
        augment: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> Tensor:
        """Fit the patch. The initial values are N(0.5, 0.25), clipped to [0, 1], as in BadCLIP.

        Args:
            clip: the frozen surrogate.
            pairs: pairs to fit on.
            loss: function of the triggered features (B, D), the clean pictures (B, 3, size, size) and the rows (B,).
            seed: source of randomness.
            augment: changes the 8-bit pictures before the patch is pasted.

        Returns:
            The patch (3, side, side) in [0, 1] that minimises the loss.
        """
        generator = torch.Generator().manual_seed(derive(seed, "start"))
        side = self.settings.patch_size
        start = (0.5 + 0.25 * torch.randn(3, side, side, generator=generator)).clamp(0, 1).to(clip.device)

        def value(patch: Tensor, rows: Tensor) -> Tensor:
            images = unit(clip, augment(pairs.images[rows]))
            return loss(clip.encode_image(self.paste(images, patch.clamp(0, 1))), images, rows)

        patch, facts = minimise(start, value, len(pairs), self.settings, derive(seed, "steps"))
        self.facts |= facts
        return patch
