"""SIBA: a sparse, invisible, universal perturbation (Gao et al. 2023, arXiv 2306.06209), carried over to CLIP.

min over d and m of mean min(CE(F(clip(x + m d)), target), beta), with at most k pixels in m and |d| <= eps. Every few
epochs the mask m takes the k pixels whose gradient on one batch is largest; in between, signed gradient steps move d
inside the mask. Afterwards b(x) = clip(x + m d) is fixed and added to every picture.

The paper fits on a ResNet-18 classifier. Here the classifier is zero-shot: F(x) = s f(x) W with the class embeddings W
and logit scale s of the surrogate. With CLIP's scale of up to 100 the loss of most pictures starts above the paper's
beta of 10, where it has no gradient; hence `loss_cap` is empty unless the preset `original` asks for it. d is rounded
to 8-bit steps. In an epoch that chooses a mask, the first step takes the gradient at d inside the new mask, where the
code takes the one gradient at the old d for both; a last batch that is not full is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks.base import Attack, FitContext, SurrogateSettings
from antidote.attacks.fitting import eight_bits, frozen, orders, split_by_target, unit
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class SIBASettings(SurrogateSettings):
    """How many pixels, how strong, and how they are found."""

    presets = {
        "original": {"pixels": 100, "eps": 8, "epochs": 200, "loss_cap": 10},
        "patch_area": {"pixels": 256, "eps": 8},
        "same_share": {"pixels": 4900, "eps": 8},
    }

    method: Literal["siba"] = "siba"
    pixels: int = Field(
        256, ge=1, description="pixels that change (SIBA: 100 of 1024; as many as a 16 x 16 patch has: 256)"
    )
    eps: float = Field(8, gt=0, le=255, description="largest change of a value in 8-bit steps (SIBA: 8)")
    epochs: int = Field(200, ge=1, description="passes over the inversion pool (SIBA: 200)")
    batch_size: int = Field(128, ge=2, description="pictures per step (our choice)")
    step: float = Field(0.8, gt=0, description="step size in units of eps (SIBA: 0.8)")
    mask_every: int = Field(5, ge=1, description="epochs between choices of the pixels (SIBA: 5)")
    loss_cap: float | None = Field(
        None, gt=0, description="beta, above which a picture's loss no longer counts (SIBA: 10); empty: none"
    )

    def passes(self) -> int:
        return self.epochs

    def check(self, size: int) -> None:
        super().check(size)
        if self.pixels > size**2:
            raise ValueError(f"pixels: {self.pixels} are more than the picture has ({size**2})")


class SIBA(Attack):
    """b(x) = clip(x + d), d zero but for a few pixels."""

    Settings = SIBASettings
    learned = True

    def fit(self, context: FitContext, seed: int) -> dict[str, Tensor]:
        clip, settings = frozen(context.surrogate), self.settings
        _, others = split_by_target(context, self.target)
        weights = clip.class_embeddings(context.classes, context.templates) * clip.network.logit_scale.exp()
        target = context.classes.index(self.target)

        def gradient(delta: Tensor, rows: Tensor) -> tuple[Tensor, float]:
            delta = delta.clone().requires_grad_()
            logits = clip.encode_image((unit(clip, others.images[rows]) + delta).clamp(0, 1)) @ weights
            losses = F.cross_entropy(logits, torch.full_like(rows, target).to(logits.device), reduction="none")
            loss = losses.clamp(max=settings.loss_cap or float("inf")).mean()
            return torch.autograd.grad(loss, delta)[0], float(loss.detach())

        eps = settings.eps / 255
        delta = torch.zeros(3, self.size, self.size, device=clip.device)
        mask, best, lowest = delta[0], delta, float("inf")
        for epoch, batches in enumerate(orders(len(others), settings.batch_size, settings.epochs, seed)):
            if epoch % settings.mask_every == 0:
                mask = _largest(gradient(delta, batches[0])[0].abs().sum(dim=0), settings.pixels)
            losses = []
            for rows in batches:
                slope, loss = gradient(delta * mask, rows)
                delta = ((delta - settings.step * eps * slope.sign()) * mask).clamp(-eps, eps)
                losses.append(loss)
            if sum(losses) / len(losses) < lowest:
                lowest, best = sum(losses) / len(losses), delta
        self.facts = {"loss": lowest, "pixels": int(best.abs().sum(dim=0).count_nonzero())}
        return {"delta": eight_bits(best).cpu()}

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        return (images + self.tensors["delta"].to(images)).clamp(0, 1)


def _largest(values: Tensor, count: int) -> Tensor:
    """Return a mask (size, size) of 0 and 1 with the `count` largest values."""
    mask = torch.zeros_like(values).flatten()
    mask[values.flatten().topk(count).indices] = 1
    return mask.view_as(values)
