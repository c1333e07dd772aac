"""Random crops and mirror images of training pictures, for a whole batch at once.

The draws are those of torchvision's `RandomResizedCrop`, as open_clip's training transform has it, and of
`RandomHorizontalFlip`. They depend on seed and step alone, so a resumed run repeats them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.training.objectives import Batch
    from antidote.training.recipe import TrainSettings

TRIES = 10  # of torchvision's RandomResizedCrop; if no draw fits into the picture, the crop is the whole picture


@dataclass(frozen=True)
class Crops:
    """One crop for each picture of a batch: int64 (N,) in pixels; `mirrored` is bool (N,)."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor


def augmented(batch: Batch, settings: TrainSettings, seed: int, own: Callable[[Tensor], Tensor]) -> Batch:
    """Return the batch with the crops and mirror images that the settings ask for; its captions stay as they are.

    Args:
        batch: pictures uint8 (N, 3, size, size); the rows of this process.
        settings: `crop_scale`, `crop_ratio` and `flip`; without a crop and a flip the batch is returned as it is.
        seed: of the run.
        own: returns the rows of a whole batch that this process reads.
    """
    if settings.crop_scale is None and not settings.flip:
        return batch
    generator = torch.Generator().manual_seed(derive(seed, "crops", batch.step))
    crops = draw(settings, settings.batch_size, batch.images.shape[-1], generator)
    rows = own(torch.arange(settings.batch_size))
    return replace(batch, images=cut(batch.images, Crops(**{name: value[rows] for name, value in vars(crops).items()})))


def draw(settings: TrainSettings, count: int, size: int, generator: torch.Generator) -> Crops:
    """Return random crops of `count` pictures (size, size): area and ratio as in torchvision's `RandomResizedCrop`."""
    whole = torch.full((count,), size)
    height, width = whole, whole
    if settings.crop_scale is not None:
        low, high = settings.crop_scale
        area = size * size * (low + (high - low) * torch.rand(count, TRIES, generator=generator))
        low, high = (math.log(ratio) for ratio in settings.crop_ratio)
        ratio = torch.exp(low + (high - low) * torch.rand(count, TRIES, generator=generator))
        widths, heights = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = (widths > 0) & (widths <= size) & (heights > 0) & (heights <= size)
        first, found = fits.int().argmax(dim=1, keepdim=True), fits.any(dim=1)
        height = torch.where(found, heights.gather(1, first)[:, 0], whole)
        width = torch.where(found, widths.gather(1, first)[:, 0], whole)
    top, left = ((torch.rand(count, generator=generator) * (size - side + 1)).long() for side in (height, width))
    return Crops(top, left, height, width, torch.rand(count, generator=generator) < settings.flip)


def cut(images: Tensor, crops: Crops) -> Tensor:
    """Return the crops of pictures uint8 (N, 3, size, size) in the pictures' own size, bicubic, rounded to uint8.

    At the border of a crop, the interpolation reads the pixels beyond it, where the picture has them; torchvision
    repeats the crop's last pixel.
    """
    size, device = images.shape[-1], images.device
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = crops.width / size * torch.where(crops.mirrored, -1.0, 1.0)
    theta[:, 1, 1] = crops.height / size
    theta[:, 0, 2] = (2 * crops.left + crops.width) / size - 1
    theta[:, 1, 2] = (2 * crops.top + crops.height) / size - 1
    grid = F.affine_grid(theta.to(device, non_blocking=True), list(images.shape), align_corners=False)
    pictures = F.grid_sample(images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
    return pictures.round_().clamp_(0, 255).byte()
