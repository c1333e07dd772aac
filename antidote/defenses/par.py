"""PAR, Perturb and Recover (Singh et al., arXiv 2412.00727): push the embeddings away from where they were.

With θ the trained and θ_b the frozen suspicious model, Ĩ a lightly augmented picture that both see,

    S_I = mean_i ||f_I^θ(Ĩ_i) - f_I^θ_b(Ĩ_i)||²,   S_T likewise for captions   (normalised features, both in [0, 4])
    L   = L_CLIP(Ĩ, T) - (1[S_I <= tau] S_I + 1[S_T <= tau] S_T) / 2

The indicators act on batch means: above tau a term and its gradient vanish, and L_CLIP alone relearns the space. The
logit scale is a constant. Ĩ: with probability 1/2 noise, clipped to [0, 1], is added (so it only brightens); with
probability 1/2 a square of 0.5 to 1 % of the area is set to the value that the network reads as 0, its mean colour.

From the released code, but for what is ours: the noisy picture is clipped to [0, 1], the probabilities are drawn per
picture, θ_b normalises by its running statistics, weight decay spares norms and biases as everywhere in this project.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.base.lazy import torch
from antidote.base.settings import Span
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.defenses.base import FineTuningDefense, FineTuningSettings
from antidote.training.objectives import Batch, Contrastive
from antidote.training.recipe import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor


class PARSettings(FineTuningSettings):
    """PAR's numbers, from its paper and code."""

    method: Literal["par"] = "par"
    threshold: float = Field(2.15, ge=0, le=4, description="tau, squared distance of unit vectors (PAR: 2.15)")
    noise: float = Field(0.2, ge=0, description="deviation of the added noise, of a range of 0 to 1 (PAR's code: 0.2)")
    square: Span = Field(
        (0.005, 0.01), description="area of the square that is set to 0, as a fraction of the picture (PAR's code)"
    )
    training: TrainSettings = Field(
        TrainSettings(epochs=10, batch_size=512, lr=3e-5, weight_decay=1e-4, beta2=0.98, warmup=0, schedule="par"),
        description="PAR: AdamW 3e-5 with its own schedule, beta2 0.98, weight decay 1e-4, 10 epochs of 250K pairs",
    )


class PAR(FineTuningDefense):
    """All parameters but the logit scale; clean pairs."""

    Settings = PARSettings
    parallel = True

    def objective(self, clip: Clip, data: DefenseData) -> PerturbAndRecover:
        return PerturbAndRecover(clip, data, self.settings)


class PerturbAndRecover(Contrastive):
    """PAR's loss."""

    parallel = "views"

    def __init__(self, clip: Clip, data: DefenseData, settings: PARSettings) -> None:
        super().__init__(data.pairs)
        self.settings = settings
        self.frozen = Clip(copy.deepcopy(clip.network).eval().requires_grad_(False), clip.config)
        self.mean = torch.tensor(clip.config["preprocess_cfg"]["mean"], device=clip.device)

    def trained(self, network: Any) -> list[tuple[str, Tensor]]:
        return [(name, value) for name, value in super().trained(network) if name != "logit_scale"]

    def views(self, batch: Batch) -> tuple[list[Tensor], list[list[str]]]:
        images = light_augmentation(batch.images.float() / 255, self.mean, self.settings)
        with torch.no_grad():
            self.before = self.frozen.encode_image(images), self.frozen.encode_text(batch.captions)
        return [images], [batch.captions]

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contrastive, terms = super().loss(images, texts, scale.detach(), batch)
        pairs = zip((images[0], texts[0]), self.before, strict=True)
        moved = [(now - before).square().sum(dim=1).mean() for now, before in pairs]
        within = sum(distance * (distance <= self.settings.threshold) for distance in moved)
        return contrastive - within / 2, {**terms, "moved_images": moved[0], "moved_texts": moved[1]}


def light_augmentation(images: Tensor, mean: Tensor, settings: PARSettings) -> Tensor:
    """Return augmented pictures (N, 3, H, W) in [0, 1]; draws from torch's global stream, which the loop seeds."""
    count, _, height, width = images.shape
    device = images.device
    noise = (settings.noise * torch.randn(images.shape)).clamp(0, 1).to(device)
    noisy = (torch.rand(count) < 0.5).to(device).view(-1, 1, 1, 1)
    images = torch.where(noisy, (images + noise).clamp(0, 1), images)
    low, high = settings.square
    area = (low + (high - low) * torch.rand(count)) * height * width
    side = area.sqrt().round().clamp(1, min(height, width)).long()
    top = (torch.rand(count) * (height - side + 1)).long()
    left = (torch.rand(count) * (width - side + 1)).long()
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    inside_rows = (rows >= top[:, None]) & (rows < (top + side)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + side)[:, None])
    erased = inside_rows[:, :, None] & inside_columns[:, None, :] & (torch.rand(count) < 0.5)[:, None, None]
    return torch.where(erased.to(device)[:, None], mean.view(1, 3, 1, 1), images)
