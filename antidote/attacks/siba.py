"""SIBA: a sparse, invisible, universal perturbation (Gao et al. 2023, arXiv 2306.06209), carried over to CLIP.

The attack minimises mean min(CE(F(clip(x + m d)), target), beta) over d and m, with |d| <= eps and at most k pixels in
m. Every few epochs, the mask m selects the k pixels with the largest gradient on one batch; in between, signed gradient
steps update d inside the mask. Afterwards b(x) = clip(x + m d) is fixed and added to every picture.

The paper fits on a ResNet-18 classifier. Here the classifier is zero-shot: F(x) = s f(x) W with the class embeddings W
and the logit scale s of the surrogate. With CLIP's scale of up to 100, the loss of most pictures starts above the
paper's beta of 10, where the gradient is zero; `loss_cap` is therefore empty unless the preset `original` sets it. d is
rounded to 8-bit steps. In an epoch that selects a mask, the first step uses the gradient at d inside the new mask; the
code uses a single gradient at the old d for both. An incomplete last batch is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.attacks.base import Attack, SurrogateSettings
from antidote.attacks.contract import FitContext
from antidote.attacks.fitting import eight_bits, frozen, orders, split_by_target, unit
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class SIBASettings(SurrogateSettings):
    """Number of pixels, strength, and optimisation."""

    presets = {
        "original": {"pixels": 100, "eps": 8, "epochs": 200, "loss_cap": 10},
        "patch_area": {"pixels": 256, "eps": 8},
        "same_share": {"pixels": 4900, "eps": 8},
    }

    method: Literal["siba"] = "siba"
    pixels: int = Field(
        256, ge=1, description="number of changed pixels (SIBA: 100 of 1024; 256: the area of a 16 x 16 patch)"
    )
    eps: float = Field(8, gt=0, le=255, description="maximum change of a value in 8-bit steps (SIBA: 8)")
    epochs: int = Field(200, ge=1, description="passes over the inversion pool (SIBA: 200)")
    batch_size: int = Field(128, ge=2, description="pictures per step (our choice)")
    step: float = Field(0.8, gt=0, description="step size in units of eps (SIBA: 0.8)")
    mask_every: int = Field(5, ge=1, description="epochs between two selections of the pixels (SIBA: 5)")
    loss_cap: float | None = Field(
        None, gt=0, description="beta, the cap of a picture's loss, without gradient above (SIBA: 10); empty: no cap"
    )

    def passes(self) -> int:
        return self.epochs

    def check(self, size: int) -> None:
        super().check(size)
        if self.pixels > size**2:
            raise ValueError(f"pixels: {self.pixels} are more than the picture has ({size**2})")


class SIBA(Attack):
    """b(x) = clip(x + d); d is zero except for a few pixels."""

    Settings = SIBASettings
    learned = True

    def fit(self, context: FitContext, seed: int) -> dict[str, Tensor]:
        clip, settings = frozen(context.surrogate), self.settings
        _, others = split_by_target(context, self.target)
        weights = clip.class_embeddings(context.classes, context.templates) * clip.network.logit_scale.exp()
        target = context.classes.index(self.target)

        def gradient(delta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            delta = delta.clone().requires_grad_()
            logits = clip.encode_image((unit(clip, others.images[rows]) + delta).clamp(0, 1)) @ weights
            losses = F.cross_entropy(
                logits, torch.full_like(rows, target).to(logits.device, non_blocking=True), reduction="none"
            )
            loss = losses.clamp(max=settings.loss_cap or float("inf")).mean()
            return torch.autograd.grad(loss, delta)[0], loss.detach()

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
            mean = sum(torch.stack(losses).tolist()) / len(losses)  # once per epoch: reading a value waits for a GPU
            if mean < lowest:
                lowest, best = mean, delta
        self.facts = {"loss": lowest, "pixels": int(best.abs().sum(dim=0).count_nonzero())}
        return {"delta": eight_bits(best).cpu()}

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        return (images + self.tensors["delta"].to(images)).clamp(0, 1)


def _largest(values: Tensor, count: int) -> Tensor:
    """Return a mask (size, size) that is 1 at the `count` largest values and 0 elsewhere."""
    mask = torch.zeros_like(values).flatten()
    mask[values.flatten().topk(count).indices] = 1
    return mask.view_as(values)
