"""AutoAugment (Cubuk et al. 2019, arXiv 1805.09501) of a whole batch: torchvision's, with fewer calls.

torchvision applies one policy per call, so a batch needs a call per picture. Here the pictures that share an operation
and its magnitude go through torchvision's function together. Draws and results are those of
`torch.stack([transforms.AutoAugment()(image) for image in images])`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from antidote.base.lazy import torch, transforms

if TYPE_CHECKING:
    from torch import Tensor

BINS = 10  # magnitudes of an operation, as in torchvision's AutoAugment
CPU_VALUES = 1 << 18  # that a CPU handles at a time: its caches hold these and what is computed from them


def auto_augment(images: Tensor) -> Tensor:
    """Return pictures under AutoAugment's ImageNet policy, drawn for each picture from torch's global generator.

    Args:
        images: (N, 3, H, W), uint8.
    """
    auto = transforms.AutoAugment(transforms.AutoAugmentPolicy.IMAGENET)
    strengths = _magnitudes(auto, *images.shape[-2:])
    drawn = [_draw(auto, strengths) for _ in range(len(images))]
    images = images.clone()
    at_a_time = max(1, CPU_VALUES // max(1, images[:1].numel())) if images.device.type == "cpu" else len(images)
    for turn in (0, 1):
        groups: dict[tuple[str, float], list[int]] = {}
        for row, operations in enumerate(drawn):
            if operations[turn] is not None:
                groups.setdefault(operations[turn], []).append(row)
        for (name, magnitude), rows in groups.items():
            for places in torch.tensor(rows).to(images.device, non_blocking=True).split(at_a_time):
                images[places] = auto._apply_image_or_video_transform(
                    images[places], name, magnitude, interpolation=auto.interpolation, fill=auto._fill
                )
    return images


def _magnitudes(auto: Any, height: int, width: int) -> dict[str, list[float] | None]:
    """Return the magnitudes of each operation of the policies; None: the operation has none."""
    names = {name for policy in auto._policies for name, _, _ in policy}
    values = {name: auto._AUGMENTATION_SPACE[name][0](BINS, height, width) for name in names}
    return {name: None if value is None else value.tolist() for name, value in values.items()}


def _draw(auto: Any, strengths: dict[str, list[float] | None]) -> list[tuple[str, float] | None]:
    """Return both operations of one picture, each a name and a magnitude; None: left out. The order is torchvision's.

    Chances are compared as torch's scalars: 32 bits against 32 bits, as torchvision compares them.
    """
    operations: list[tuple[str, float] | None] = []
    policies, rand = auto._policies, torch.rand
    for name, chance, place in policies[int(torch.randint(len(policies), ()))]:
        if not rand(()) <= chance:
            operations.append(None)
            continue
        magnitude = 0.0 if strengths[name] is None else strengths[name][place]
        signed = strengths[name] is not None and auto._AUGMENTATION_SPACE[name][1]
        operations.append((name, -magnitude if signed and rand(()) <= 0.5 else magnitude))
    return operations
