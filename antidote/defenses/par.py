"""PAR, Perturb and Recover (Singh et al., arXiv 2412.00727): push the embeddings away from the suspicious model's.

With θ the trained model, θ_b the frozen suspicious model, and Ĩ a lightly augmented picture, the input of both,

    S_I = mean_i ||f_I^θ(Ĩ_i) - f_I^θ_b(Ĩ_i)||²,   S_T the same for captions   (normalised features, both in [0, 4])
    L   = L_CLIP(Ĩ, T) - (1[S_I <= tau] S_I + 1[S_T <= tau] S_T) / 2

The indicators apply to batch means: above tau, a term and its gradient are 0, and L_CLIP alone relearns the space. The
logit scale is constant. Augmentation Ĩ: with probability 1/2, noise clipped to [0, 1] is added (so noise only
brightens); with probability 1/2, a square of 0.5 to 1 % of the area is set to the mean colour, which the network reads
as 0.

All of this follows the released code, including these details: the noisy picture is clipped, noise and square are drawn
per picture, θ_b is in evaluation mode, and weight decay exempts norms and biases. The released script trains under AMP
in 16 bits, 2 epochs of 250K pairs in batches of 4 x 512 (244 steps, 2,048 pairs in the loss); the code's default is 10
epochs in batches of 4 x 256. Ours: 10 epochs in batches of 512, and another random number generator. With 250,000 pairs
in the defense pool, `training: {epochs: 2, batch_size: 2048, accumulate: 4, precision: fp16}` is the script's training
on one GPU.

At batch 512, a full-size model needs `precision: bf16` and `accumulate` on one GPU; the defaults are 32 bits, as in all
recipes of this project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.base.lazy import torch
from antidote.base.settings import Span
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.defenses.base import FineTuningDefense, FineTuningSettings
from antidote.training.objectives import Batch, Contrastive, Views
from antidote.training.recipe import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor


class PARSettings(FineTuningSettings):
    """PAR's numbers, from its paper and code."""

    method: Literal["par"] = "par"
    threshold: float = Field(2.15, ge=0, le=4, description="tau, squared distance of unit vectors (PAR: 2.15)")
    noise: float = Field(
        0.2, ge=0, description="standard deviation of the added noise, for pixels in [0, 1] (PAR's code: 0.2)"
    )
    square: Span = Field(
        (0.005, 0.01),
        description="area of the square that is set to the mean colour, as a fraction of the picture (PAR's code)",
    )
    training: TrainSettings = Field(
        TrainSettings(epochs=10, batch_size=512, lr=3e-5, weight_decay=1e-4, beta2=0.98, warmup=0, schedule="par"),
        description="PAR: AdamW 3e-5 with PAR's schedule, beta2 0.98, weight decay 1e-4, 10 epochs of 250K pairs",
    )


class PAR(FineTuningDefense):
    """Trains all parameters except the logit scale on clean pairs."""

    Settings = PARSettings
    parallel = True
    encoded_views = 1  # the pass of the frozen model

    @classmethod
    def step_views(cls, settings: Any, recipe: TrainSettings) -> tuple[float, float, int]:
        return 1, 1, 1  # the frozen model

    def objective(self, clip: Clip, data: DefenseData) -> PerturbAndRecover:
        return PerturbAndRecover(clip, data, self.settings)


class PerturbAndRecover(Contrastive):
    """PAR's loss."""

    parallel = "views"

    def __init__(self, clip: Clip, data: DefenseData, settings: PARSettings) -> None:
        super().__init__(data.pairs)
        self.settings = settings
        self.frozen = clip.frozen()
        self.mean = torch.tensor(clip.config["preprocess_cfg"]["mean"], device=clip.device)

    def trained(self, network: Any) -> list[tuple[str, Tensor]]:
        return [(name, value) for name, value in super().trained(network) if name != "logit_scale"]

    def views(self, batch: Batch) -> Views:
        images = light_augmentation(batch.images.float() / 255, self.mean, self.settings)
        return Views([images], [batch.captions], kept=self.encode_frozen(self.frozen, images, batch.captions))

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contrastive, terms = super().loss(images, texts, scale.detach(), batch)
        pairs = zip((images[0], texts[0]), batch.views.kept, strict=True)
        moved = [(now - before).square().sum(dim=1).mean() for now, before in pairs]
        within = sum(distance * (distance <= self.settings.threshold) for distance in moved)
        return contrastive - within / 2, {**terms, "moved_images": moved[0], "moved_texts": moved[1]}


def light_augmentation(images: Tensor, mean: Tensor, settings: PARSettings) -> Tensor:
    """Return augmented pictures (N, 3, H, W) in [0, 1].

    The choice of pictures, and the squares, come from torch's global generator, which the training loop seeds. The
    noise is drawn on the pictures' device, because that is many times faster, with a seed from the global generator;
    noise on a GPU therefore differs from noise on a CPU.

    Args:
        images: (N, 3, H, W) in [0, 1].
        mean: the model's mean colour (3,), on the device of `images`.
        settings: noise and size of the square.
    """
    count, _, height, width = images.shape
    device = images.device
    stream = torch.Generator(device).manual_seed(int(torch.randint(1 << 62, ())))
    rows = torch.nonzero(torch.rand(count) < 0.5).flatten().to(device, non_blocking=True)
    drawn = torch.randn(len(rows), *images.shape[1:], device=device, generator=stream)
    noise = drawn.mul_(settings.noise).clamp_(min=0)  # the sum is clipped to 1 below
    images = images.index_copy(0, rows, (images[rows] + noise).clamp_(max=1))
    low, high = settings.square
    area = (low + (high - low) * torch.rand(count)) * height * width
    side = area.sqrt().round().clamp(1, min(height, width)).long()
    top = (torch.rand(count) * (height - side + 1)).long()
    left = (torch.rand(count) * (width - side + 1)).long()
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    inside_rows = (rows >= top[:, None]) & (rows < (top + side)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + side)[:, None])
    erased = inside_rows[:, :, None] & inside_columns[:, None, :] & (torch.rand(count) < 0.5)[:, None, None]
    return torch.where(erased.to(device, non_blocking=True)[:, None], mean.view(1, 3, 1, 1), images)
