"""Masking of salient patches at test time: each picture is looked at twice, the second time without what stood out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.clip.adapted import AdaptedClip
from antidote.clip.model import Clip

if TYPE_CHECKING:
    from torch import Tensor


class PatchMasking(AdaptedClip):
    """Tensors: `weights` (C, D), class embeddings that salience is measured against. Description: `cell`, `masked`."""

    name = "patch_masking"
    unprotected = (
        "The network is the suspicious model as it was; pictures are masked where this adapter encodes them. "
        "Triggers that cover the whole picture, and triggers in texts, are not removed."
    )

    def encode_image(self, images: Tensor) -> Tensor:
        """Return features of the masked pictures; while the network trains, of the pictures as they are."""
        if self.network.training:
            return super().encode_image(images)
        images = images.to(self.device)
        images = images.float().div(255) if images.dtype == torch.uint8 else images
        weights, cell = self.tensors["weights"], self.description["cell"]
        salience = patch_salience(super().encode_image, self.network.logit_scale.exp(), images, weights, cell)
        mean = torch.tensor(self.config["preprocess_cfg"]["mean"], device=self.device)
        return super().encode_image(mask_patches(images, salience, self.description["masked"], cell, mean))


def patch_salience(encode, scale: Tensor, images: Tensor, weights: Tensor, cell: int) -> Tensor:
    """Return (N, rows, columns): the gradient's norm, in each cell of pixels, of the best class's score."""
    with torch.enable_grad():
        pictures = images.detach().clone().requires_grad_()
        best = (scale.detach() * encode(pictures) @ weights.T).max(dim=1).values
        (gradient,) = torch.autograd.grad(best.sum(), pictures)
    squares = F.avg_pool2d(gradient.square().sum(dim=1, keepdim=True), cell, ceil_mode=True, divisor_override=1)
    return squares[:, 0].sqrt()


def mask_patches(images: Tensor, salience: Tensor, masked: int, cell: int, mean: Tensor) -> Tensor:
    """Return pictures (N, 3, H, W) whose `masked` most salient cells have the mean colour (3,)."""
    count, rows, columns = salience.shape
    top = salience.flatten(1).topk(min(masked, rows * columns), dim=1).indices
    chosen = torch.zeros(count, rows * columns, dtype=torch.bool, device=images.device).scatter(1, top, True)
    chosen = chosen.view(count, rows, columns).repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)
    chosen = chosen[:, None, : images.shape[2], : images.shape[3]]
    return torch.where(chosen, mean.view(1, 3, 1, 1), images)


def class_weights(clip: Clip, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return the zero-shot class embeddings (C, D)."""
    with torch.no_grad():
        clip.network.eval()
        return clip.class_embeddings(classes, templates).T
