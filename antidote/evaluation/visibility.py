"""How visible a trigger is: means of PSNR and SSIM between triggered and clean pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from antidote.attacks.similarity import WINDOW, psnr, ssim
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.attacks.trigger import Trigger
    from antidote.data.pairs import Pairs

MOST = 1000  # pictures that are compared, evenly over the set (ours, for time)
CHUNK, DECIMALS = 64, 4


def visibility(pictures: Pairs, trigger: Trigger) -> dict[str, float]:
    """Return `psnr` (dB) and `ssim` of triggered pictures against clean ones, means over at most `MOST` pictures.

    SSIM is left out for pictures smaller than its window.
    """
    rows = torch.linspace(0, len(pictures) - 1, min(MOST, len(pictures))).long()
    figures = {"psnr": psnr} | ({"ssim": ssim} if pictures.images.shape[-1] >= WINDOW else {})
    found: dict[str, list[Tensor]] = {name: [] for name in figures}
    for part in rows.split(CHUNK):
        chosen = pictures.take(part)
        clean, drawn = chosen.images, trigger.draw(chosen.images, chosen.keys, "test")
        for name, figure in figures.items():
            found[name].append(figure(clean.float() / 255, drawn.float() / 255))
    # Coarser than the rounding that depends on the size of a batch.
    return {name: round(float(torch.cat(parts).double().mean()), DECIMALS) for name, parts in found.items()}
