"""Differentiable similarity of two pictures: PSNR and SSIM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


WINDOW, SIGMA = 11, 1.5  # Wang et al. 2004: Gaussian window of 11 x 11 pixels, standard deviation 1.5
C1, C2 = 0.01**2, 0.03**2


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio (N,) in dB of pictures (N, 3, H, W) in [0, 1]; at most 100."""
    return -10 * (first - second).square().flatten(1).mean(dim=1).clamp(min=1e-10).log10()


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural similarity (N,) (Wang et al. 2004) of pictures (N, 3, H, W) in [0, 1], H, W >= 11."""
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
