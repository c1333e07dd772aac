"""Attention: a faint pattern at the most attended pixels, bounded by SSIM (arXiv 2412.06149), carried over to CLIP.

The paper's mask selects the pixels with the highest attention. Inside the mask, a pattern is blended in at transparency
0.2 and optimised for the model's reaction and for quality of experience (QoE, measured by SSIM). Trigger and model are
then trained alternately, on poisoned pairs in one epoch and on clean pairs in the next. The attack requires control
over training.

Carried over: attention is averaged over the inversion pool (rollout for a ViT, Grad-CAM towards the caption for a
ResNet). The reaction is the cosine to the target's class embedding, L = -cos(f(b(x)), g(target)) + qoe_weight
(1 - SSIM(b(x), x)), instead of the activation of chosen neurons, whose code was not released. The trigger is fitted
once, on the surrogate, and not between rounds of training; `training: {alternate: true}` alternates the epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.attacks.base import Attack
from antidote.attacks.contract import FitContext
from antidote.attacks.fitting import FitSettings, eight_bits, frozen, minimise, split_by_target, unit
from antidote.attacks.saliency import saliency, unseen
from antidote.attacks.similarity import WINDOW, psnr, ssim
from antidote.base.lazy import torch
from antidote.base.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs


class AttentionSettings(FitSettings):
    """Size of the mask, strength of the pattern, and weight of the similarity."""

    presets = {"original_area": {"pixels": 16}, "patch_area": {"pixels": 256}}

    method: Literal["attention"] = "attention"
    pixels: int = Field(
        256,
        ge=1,
        description="number of pixels in the mask (original: 16 at 32 x 32; 256: the area of a 16 x 16 patch)",
    )
    blend_ratio: float = Field(0.2, gt=0, le=1, description="share of the pattern inside the mask (original: 0.2)")
    qoe_weight: float = Field(0.5, ge=0, description="weight of 1 - SSIM (original: 0.5)")
    attention_pictures: int = Field(1000, ge=1, description="number of pictures for the average attention (our choice)")

    def check(self, size: int) -> None:
        super().check(size)
        if self.pixels > size**2:
            raise ValueError(f"pixels: {self.pixels} are more than the picture has ({size**2})")
        if size < WINDOW:
            raise ValueError(f"method: attention needs pictures of at least {WINDOW} pixels, for SSIM, not {size}")

    def check_models(self, model: Mapping[str, Any], surrogate: Mapping[str, Any]) -> None:
        reason = unseen(surrogate)
        if reason:
            raise ValueError(f"surrogate: {reason}")


class Attention(Attack):
    """b(x) = x outside the mask, (1 - ratio) x + ratio d inside."""

    Settings = AttentionSettings
    threat_model = "training-control"
    learned = True

    def fit(self, context: FitContext, seed: int) -> dict[str, Tensor]:
        clip = frozen(context.surrogate)
        _, others = split_by_target(context, self.target)
        mask = self._mask(clip, others)
        goal = clip.class_embeddings([self.target], context.templates)[:, 0]

        def loss(pattern: Tensor, rows: Tensor) -> Tensor:
            images = unit(clip, others.images[rows])
            drawn = self._mixed(images, pattern.clamp(0, 1), mask)
            reaction = (clip.encode_image(drawn) @ goal).mean()
            return self.settings.qoe_weight * (1 - ssim(drawn, images).mean()) - reaction

        generator = torch.Generator().manual_seed(derive(seed, "start"))
        start = (0.5 + 0.25 * torch.randn(3, self.size, self.size, generator=generator)).clamp(0, 1).to(clip.device)
        pattern, facts = minimise(start, loss, len(others), self.settings, derive(seed, "steps"))
        tensors = {"pattern": pattern * mask.cpu(), "mask": mask.cpu()}
        sample = others.images[: self.settings.attention_pictures].float() / 255
        drawn = eight_bits(self._mixed(sample, tensors["pattern"], tensors["mask"]))
        self.facts = {
            **facts,
            "ssim": float(ssim(drawn, sample).mean()),
            "psnr": float(psnr(drawn, sample).mean()),
        }
        return tensors

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        return self._mixed(images, self.tensors["pattern"].to(images), self.tensors["mask"].to(images))

    def _mixed(self, images: Tensor, pattern: Tensor, mask: Tensor) -> Tensor:
        ratio = self.settings.blend_ratio
        return torch.where(mask > 0, (1 - ratio) * images + ratio * pattern, images).clamp(0, 1)

    def _mask(self, clip: Clip, pairs: Pairs) -> Tensor:
        """Return a mask (size, size) that is 1 at the pixels with the highest average attention and 0 elsewhere."""
        total = torch.zeros(self.size, self.size, device=clip.device)
        count = min(len(pairs), self.settings.attention_pictures)
        for rows in torch.arange(count).split(self.settings.batch_size):
            captions = [pairs.captions[row] for row in rows.tolist()]
            total += saliency(clip, unit(clip, pairs.images[rows]), captions).sum(dim=0)
        mask = torch.zeros_like(total).flatten()
        mask[total.flatten().topk(self.settings.pixels).indices] = 1
        return mask.view_as(total)
