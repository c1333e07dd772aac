"""Masking of salient patches at test time: a picture is encoded twice, the second time with salient patches masked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.clip.adapted import AdaptedClip, network_features
from antidote.clip.model import Clip

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 64  # pictures per gradient graph; limits memory and does not affect results


class PatchMasking(AdaptedClip):
    """Masks salient patches before encoding.

    Tensors: `weights` (C, D), class embeddings for measuring salience. Description: `cell`, `masked`, and with defaults
    `salience`, `threshold`, `only_if_flips`, equal to the defense's settings of the same names.
    """

    name = "patch_masking"
    differentiable = False
    unprotected = (
        "The network is the suspicious model as it was; pictures are masked where this adapter encodes them. "
        "Triggers that cover the whole picture, and triggers in texts, are not removed."
    )

    def raw_features(self, images: Tensor) -> Tensor:
        """Return features (N, D) of the masked pictures, not normalised; in training mode, of the unmasked pictures."""
        if self.network.training:
            return network_features(self, images)
        with frozen(self.network):
            return torch.cat([self._masked(chunk.to(self.device)) for chunk in images.split(CHUNK)])

    def _masked(self, images: Tensor) -> Tensor:
        images = images.float().div(255) if images.dtype == torch.uint8 else images
        options = self.description
        scale, weights, cell = self.network.logit_scale.exp(), self.tensors["weights"], options["cell"]
        mean = torch.tensor(self.config["preprocess_cfg"]["mean"], device=self.device)

        def encode(pictures: Tensor) -> Tensor:
            return F.normalize(network_features(self, pictures), dim=-1)

        salience = SALIENCE[options.get("salience", "gradient")](encode, scale, images, weights, cell, mean)
        masked = mask_patches(images, salience, options["masked"], cell, mean, options.get("threshold"))
        with torch.no_grad():
            after = network_features(self, masked)
            if not options.get("only_if_flips", False):
                return after
            before = network_features(self, images)
            own, former = ((F.normalize(one, dim=-1) @ weights.T).argmax(dim=1) for one in (after, before))
            return torch.where((own != former)[:, None], after, before)


@contextmanager
def frozen(network: Any) -> Iterator[None]:
    """Disable gradients of the parameters: only gradients of pictures are needed, and the graph becomes smaller."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def gradient_salience(
    encode: Callable[[Tensor], Tensor], scale: Tensor, images: Tensor, weights: Tensor, cell: int, mean: Tensor
) -> Tensor:
    """Return salience (N, rows, columns): per cell, the norm of the gradient of the best class's score (IMBERT)."""
    return _cells(_gradient(encode, scale, images, weights).square(), cell).sqrt()


def gradient_input_salience(
    encode: Callable[[Tensor], Tensor], scale: Tensor, images: Tensor, weights: Tensor, cell: int, mean: Tensor
) -> Tensor:
    """Return salience (N, rows, columns): gradient times (pixel - mean), summed over each cell.

    To first order, this is the decrease of the best class's score when the cell is masked.
    """
    return _cells(_gradient(encode, scale, images, weights) * (images - mean.view(1, 3, 1, 1)), cell)


def occlusion_salience(
    encode: Callable[[Tensor], Tensor], scale: Tensor, images: Tensor, weights: Tensor, cell: int, mean: Tensor
) -> Tensor:
    """Return salience (N, rows, columns): decrease of the best class's score when masking one cell; a pass per cell."""
    rows, columns = (-(-side // cell) for side in images.shape[2:])
    with torch.no_grad():
        before, best = (scale * encode(images) @ weights.T).max(dim=1)
        decrease = before.new_empty(len(images), rows * columns)
        for number in range(rows * columns):
            only = torch.zeros(len(images), rows * columns, device=images.device)
            only[:, number] = 1.0
            covered = mask_patches(images, only.view(-1, rows, columns), 1, cell, mean)
            after = (scale * encode(covered) @ weights.T).gather(1, best[:, None])[:, 0]
            decrease[:, number] = before - after
    return decrease.view(-1, rows, columns)


SALIENCE = {
    "gradient": gradient_salience,
    "gradient_input": gradient_input_salience,
    "occlusion": occlusion_salience,
}


def _gradient(encode: Callable[[Tensor], Tensor], scale: Tensor, images: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient (N, 3, H, W) of the best class's score with respect to the pictures."""
    with torch.enable_grad():
        pictures = images.detach().clone().requires_grad_()
        best = (scale.detach() * encode(pictures) @ weights.T).max(dim=1).values
        (gradient,) = torch.autograd.grad(best.sum(), pictures)
    return gradient


def _cells(values: Tensor, cell: int) -> Tensor:
    """Return the sums (N, rows, columns) of values (N, 3, H, W) over channels and cells."""
    sums = F.avg_pool2d(values.sum(dim=1, keepdim=True), cell, ceil_mode=True, divisor_override=1)
    return sums[:, 0]


def mask_patches(
    images: Tensor, salience: Tensor, masked: int, cell: int, mean: Tensor, threshold: float | None = None
) -> Tensor:
    """Fill the most salient cells of pictures with the mean colour.

    Args:
        images: (N, 3, H, W).
        salience: (N, rows, columns).
        masked: number of cells to mask per picture.
        cell: side of a cell in pixels.
        mean: (3,) mean colour.
        threshold: of these cells, mask only cells with salience below the threshold; None: mask all.

    Returns:
        Masked pictures (N, 3, H, W).
    """
    count, rows, columns = salience.shape
    best = salience.flatten(1).topk(min(masked, rows * columns), dim=1)
    below = torch.ones_like(best.values, dtype=torch.bool) if threshold is None else best.values < threshold
    chosen = torch.zeros(count, rows * columns, dtype=torch.bool, device=images.device)
    chosen = chosen.scatter(1, best.indices, below)
    chosen = chosen.view(count, rows, columns).repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)
    chosen = chosen[:, None, : images.shape[2], : images.shape[3]]
    return torch.where(chosen, mean.view(1, 3, 1, 1), images)


def class_weights(clip: Clip, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return the zero-shot class embeddings (C, D)."""
    with torch.no_grad():
        clip.network.eval()
        return clip.class_embeddings(classes, templates).T
