"""How visible a change to pictures is: PSNR and SSIM, differentiable; and the means of both for a trigger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from antidote.lazy import functional as F
from antidote.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.data.pairs import Pairs
    from antidote.triggers import Trigger

MOST = 1000  # pictures that a trigger's visibility is measured on, evenly over the set
CHUNK, DECIMALS = 64, 4
WINDOW, SIGMA = 11, 1.5  # Wang et al. 2004: a Gaussian of 11 pixels
C1, C2 = 0.01**2, 0.03**2


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of pictures (N, 3, H, W) in [0, 1]: (N,), at most 100."""
    return -10 * (first - second).square().flatten(1).mean(dim=1).clamp(min=1e-10).log10()


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural similarity (Wang et al. 2004) of pictures (N, 3, H, W) in [0, 1], H, W >= 11: (N,)."""
    offsets = torch.arange(WINDOW, device=first.device) - WINDOW // 2
    line = (-(offsets**2) / (2 * SIGMA**2)).exp()
    kernel = torch.outer(line, line) / line.sum() ** 2
    kernel = kernel.expand(first.shape[1], 1, -1, -1).to(first)

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, kernel, groups=values.shape[1])

    a, b = mean(first), mean(second)
    variance_a, variance_b = mean(first**2) - a**2, mean(second**2) - b**2
    covariance = mean(first * second) - a * b
    values = (2 * a * b + C1) * (2 * covariance + C2) / ((a**2 + b**2 + C1) * (variance_a + variance_b + C2))
    return values.flatten(1).mean(dim=1)


def visibility(pictures: Pairs, trigger: Trigger) -> dict[str, float]:
    """Return `psnr` (dB) and `ssim` of triggered pictures against clean ones, means over at most `MOST` pictures.

    SSIM is left out for pictures that its window does not fit into.
    """
    rows = torch.linspace(0, len(pictures) - 1, min(MOST, len(pictures))).long()
    figures = {"psnr": psnr} | ({"ssim": ssim} if pictures.images.shape[-1] >= WINDOW else {})
    found: dict[str, list[Tensor]] = {name: [] for name in figures}
    for part in rows.split(CHUNK):
        chosen = pictures.take(part)
        clean, drawn = chosen.images, trigger.draw(chosen.images, chosen.keys, "test")
        for name, figure in figures.items():
            found[name].append(figure(clean.float() / 255, drawn.float() / 255))
    # Rounded to what a batch's size cannot change.
    return {name: round(float(torch.cat(parts).double().mean()), DECIMALS) for name, parts in found.items()}
