"""Cognitive Distillation: size of the smallest mask that keeps a picture's feature (Huang et al., arXiv 2301.10908).

    minimise over m   mean |f(x m + (1 - m) d) - f(x)| + gamma ||m||_1 + beta TV(m),   m = (tanh(w) + 1) / 2
    score(x)          = - ||m||_1 / pixels

d is one random colour per picture and step, f the feature before normalisation. A trigger alone keeps the
feature of a triggered picture, so that its mask is small. Loss, optimiser and defaults are those of the code for CLIP,
HanxunH/Detect-CLIP-Backdoor-Samples; the division by the number of pixels is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.adapted import raw_features
from antidote.clip.patch_masking import frozen
from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.zero_shot import chunks
from antidote.training.session import Work

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip

BETAS = (0.1, 0.1)  # of Adam, in the released code


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
        with frozen(clip.network):
            parts = [self._sizes(clip, images, stream) for images in chunks(clip, data.training_set)]
        return Scores(data.training_set.keys, -torch.cat(parts).double().numpy())

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
