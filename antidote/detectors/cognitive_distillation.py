"""Cognitive Distillation: size of the smallest mask that keeps a picture's feature (Huang et al., arXiv 2301.10908).

    minimise over m   mean |f(x m + (1 - m) d) - f(x)| + gamma ||m||_1 + beta TV(m),   m = (tanh(w) + 1) / 2
    score(x)          = - ||m||_1 / pixels

d is one random colour per picture and step, f the feature before normalisation. A trigger alone keeps the
feature of a triggered picture, so that its mask is small. Loss, optimiser and defaults are those of the code for CLIP,
HanxunH/Detect-CLIP-Backdoor-Samples; the division by the number of pixels is ours. A killed run goes on after the
pictures whose masks were kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.adapted import raw_features
from antidote.clip.patch_masking import frozen
from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.zero_shot import BATCH, chunks
from antidote.training.session import Work, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip

BETAS = (0.1, 0.1)  # of Adam, in the released code
KEPT = "masks.pt"

log = logging.getLogger("antidote")


class CognitiveDistillationSettings(DetectorSettings):
    """The optimisation of the masks."""

    method: Literal["cognitive_distillation"] = "cognitive_distillation"
    steps: int = Field(100, ge=1, description="steps of Adam per picture (released code: 100)")
    lr: float = Field(0.1, gt=0, description="of Adam (released code: 0.1)")
    gamma: float = Field(0.01, ge=0, description="weight of the mask's L1 norm (released code: 0.01)")
    beta: float = Field(1.0, ge=0, description="weight of the mask's total variation (released code: 1)")


class CognitiveDistillation(Detector):
    """Minus the norm of the smallest mask; training pictures."""

    Settings = CognitiveDistillationSettings
    subject = "pairs"
    gradients = True
    descends = True

    @classmethod
    def work(cls, settings: CognitiveDistillationSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return settings.steps * sizes["training set"], sizes["training set"]

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        stream = torch.Generator().manual_seed(derive(self.seed, "colours"))
        kept, last, pairs = work.folder / KEPT, time.monotonic(), data.training_set
        saved = load_checkpoint(kept, work.identity)
        parts = [saved["sizes"]] if saved else []
        if saved:
            stream.set_state(saved["stream"])
        done = sum(map(len, parts))
        with frozen(clip.network):
            for images in islice(chunks(clip, pairs), -(-done // BATCH), None):
                parts.append(self._sizes(clip, images, stream))
                done += len(images)
                if done == len(pairs) or time.monotonic() - last >= work.every:
                    save_checkpoint(kept, work.identity, {"sizes": torch.cat(parts), "stream": stream.get_state()})
                    last = time.monotonic()
                    log.info("masked %d of %d pictures", done, len(pairs))
        return Scores(pairs.keys, -torch.cat(parts).double().numpy())

    def _sizes(self, clip: Clip, images: Tensor, stream: torch.Generator) -> Tensor:
        """Return the mean (n,) of the mask of each picture."""
        settings, count = self.settings, len(images)
        with torch.no_grad():
            wanted = raw_features(clip, images)
        free = torch.ones(count, 1, *images.shape[2:], device=images.device, requires_grad=True)
        optimizer = torch.optim.Adam([free], lr=settings.lr, betas=BETAS)
        for _ in range(settings.steps):
            mask = (free.tanh() + 1) / 2
            colour = torch.rand(count, 3, 1, 1, generator=stream).to(images.device, non_blocking=True)
            found = raw_features(clip, images * mask + (1 - mask) * colour)
            kept = (found - wanted).abs().mean(dim=1)
            loss = kept + settings.gamma * mask.sum(dim=(1, 2, 3)) + settings.beta * total_variation(mask)
            (free.grad,) = torch.autograd.grad(loss.mean(), free)
            optimizer.step()
        return ((free.detach().tanh() + 1) / 2).mean(dim=(1, 2, 3)).cpu()


def total_variation(mask: Tensor) -> Tensor:
    """Return the sum of squared differences of neighbours per pixel, (n,), of masks (n, 1, h, w)."""
    down, across = mask.diff(dim=2).square().sum(dim=(1, 2, 3)), mask.diff(dim=3).square().sum(dim=(1, 2, 3))
    return (down + across) / mask[0].numel()
