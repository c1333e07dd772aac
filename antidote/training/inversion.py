"""Inversion of a trigger: the smallest mask, with a pattern, that still changes the model's features as wanted.

With a mask m in [0, 1]^(H x W) and a pattern p in [0, 1]^(3 x H x W), x' = (1 - m) x + m p,

    L = G(f(x')) + beta 3 |m|_1

G is a goal in feature space. beta follows DECREE (arXiv 2303.15180) and Neural Cleanse: it is multiplied by a factor
after more than 5 consecutive steps in which the trigger works, and divided by the factor after more than 5 consecutive
steps in which it does not. With DECREE's factor of 5, beta is far too large when the trigger finally fails, and the
mask does not recover; the default is therefore Neural Cleanse's factor of 2. As in Neural Cleanse, the result is the
smallest mask that worked, not the last mask. Here a mask works if it does on one batch; Neural Cleanse takes the mean
over the batches of a pass.

Goal of one class c (`TowardClass`; Neural Cleanse's, with CLIP's class embeddings t):

    G = mean_i CE(cos(z_i, t) / tau, c)                      success: share of the batch with class c

Goal without a class (`Together`; DECREE's and CBPT's, as far as known), n_k: features of clean pictures:

    G = -mean_i log (P_i / (P_i + sum_k e^{cos(z_i, n_k) / tau})),  P_i = mean over j != i of e^{cos(z_i, z_j) / tau}
                                                             success: mean of cos(z_i, z_j)
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.base.settings import Settings
from antidote.training.tuning import Task, TuneSettings, tune

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.training.session import Work

PATIENCE, LOWEST = 5, 1e-7  # steps before beta changes, smallest beta (DECREE)
MEMORY = 0.8  # decay of the goal's moving mean per step


class InversionSettings(Settings):
    """All numbers are ours, except where a source is named."""

    positives: Literal["text", "pictures"] = Field(
        "text",
        description="goal of the inversion: `text` pulls triggered pictures towards a class embedding, one inversion "
        "per candidate class (Neural Cleanse; ours for CLIP); `pictures` pulls them towards each other, without a "
        "class (DECREE)",
    )
    temperature: float = Field(0.07, gt=0, description="tau of the inversion (InfoNCE's usual value)")
    mask_weight: float = Field(1e-3, gt=0, description="first beta, weight of the mask's sum over 3 channels (DECREE)")
    weight_factor: float = Field(2.0, gt=1, description="factor by which beta changes (Neural Cleanse: 2; DECREE: 5)")
    hit_rate: float = Field(
        0.97,
        gt=0,
        le=1,
        description="`text` only: least share of a batch with the class for a working trigger (Neural Cleanse: 0.99)",
    )
    collapsed: float = Field(
        0.85,
        gt=0,
        le=1,
        description="`pictures` only: least mean cosine of triggered features for a working trigger, on a scale from "
        "the clean features' mean cosine (0) to 1 (1); the attacker's triggers reach 0.87 to 0.92 on the embedded data "
        "(DECREE: a cosine of 0.99, for OpenAI's encoder, whose clean pictures are more similar)",
    )
    mask_cell: int = Field(4, ge=1, description="side of the mask's square cells, in pixels")
    mask_start: float = Field(0.1, gt=0, lt=1, description="initial value of the mask, everywhere")
    inversion_steps: int = Field(1000, ge=1, description="steps of each inversion (open in CBPT's paper)")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="autocast type in which pictures are encoded; losses, masks and patterns have 32 bits"
    )
    inversion: TuneSettings = Field(
        TuneSettings(optimizer="adam", lr=0.1, schedule="constant", batch_size=64),
        description="recipe for mask and pattern; its epochs are not used. The rate is one of DECREE's (0.5, 0.1, "
        "0.05): from 0.01 with a cosine schedule, Adam moves a logit by at most 5 in 1,000 steps, and the mask's logit "
        "starts at -2.2. The rate is constant, so that the mask can still shrink at the end",
    )


class Goal(Protocol):
    """Goal of an inversion, as a loss on triggered features."""

    def __call__(self, features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Return the loss, the measure of success and its threshold, for triggered features (B, D) of pictures `rows`.

        The trigger works if the measure reaches the threshold. Tensors are scalars on the features' device: a goal
        reads nothing back, since a GPU would have to finish the step first.
        """


@dataclass(frozen=True)
class TowardClass:
    """Goal: all pictures get class `target`; `texts` (C, D): normalised class embeddings."""

    texts: Tensor
    target: int
    temperature: float
    hit_rate: float

    def __call__(self, features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        scores = features @ self.texts.T
        loss = -F.log_softmax(scores / self.temperature, dim=1)[:, self.target].mean()
        return loss, (scores.detach().argmax(dim=1) == self.target).double().mean(), self.hit_rate


@dataclass(frozen=True)
class Together:
    """Goal: all pictures get the same feature, away from `negatives`.

    `negatives` (K, N, D) contains the clean features of the N pictures, then their features under earlier triggers.
    """

    negatives: Tensor
    temperature: float
    collapsed: float

    def __call__(self, features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        negatives = self.negatives[:, rows.to(self.negatives.device, non_blocking=True)]
        loss, likeness = inversion_loss(features, negatives.flatten(0, 1), self.temperature)
        clean = alike(negatives[0]).double()
        return loss, likeness, clean + self.collapsed * (1 - clean)


@dataclass(frozen=True)
class Inverted:
    """An inverted trigger.

    Attributes:
        mask: (H, W) in [0, 1].
        pattern: (3, H, W) in [0, 1].
        steps: number of steps of the inversion.
        works: whether the trigger worked on any batch.
        goal: moving mean of the goal's loss over the last steps.
    """

    mask: Tensor
    pattern: Tensor
    steps: int
    works: bool
    goal: float

    @property
    def area(self) -> float:
        return float(self.mask.mean())

    @property
    def rank(self) -> tuple[bool, float]:
        """Place among other inversions, see `ranking`."""
        return ranking(self.works, self.area, self.goal)


def ranking(works: bool, area: float, goal: float) -> tuple[bool, float]:
    """Return a trigger's place among others: the smallest working one first, those that do not work last, by loss."""
    return not works, area if works else goal


def paste(images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """Return (1 - m) x + m p for pictures (N, 3, H, W) in [0, 1], mask (H, W) and pattern (3, H, W)."""
    return (1 - mask) * images + mask * pattern


def floats(clip: Clip, images: Tensor) -> Tensor:
    """Convert pictures uint8 (N, 3, H, W) to floats in [0, 1] on the model's device."""
    return images.to(clip.device, non_blocking=True).float() / 255


def invert(
    clip: Clip, images: Tensor, goal: Goal, settings: InversionSettings, steps: int, seed: int, work: Work
) -> Inverted:
    """Return the smallest trigger that worked on a batch, or the last trigger if none worked.

    Args:
        clip: the suspicious model.
        images: uint8 (N, 3, H, W).
        goal: loss and measure of success.
        settings: settings of the inversion.
        steps: number of steps; more than one epoch is rounded up to equal epochs. An epoch has no more pictures than
            the steps need, in an order of their own.
        seed: seed of the pattern and of the order of pictures.
        work: folder, identity and checkpoint interval of the inversion.
    """
    size = images.shape[-1]
    generator = torch.Generator().manual_seed(derive(seed, "dummy trigger"))
    cells = math.ceil(size / settings.mask_cell)
    start = math.log(settings.mask_start / (1 - settings.mask_start))
    tensors = {
        "mask": torch.full((cells, cells), start, device=clip.device).requires_grad_(),
        "pattern": torch.randn(3, size, size, generator=generator).to(clip.device).requires_grad_(),
    }
    first = {"beta": settings.mask_weight, "hits": 0.0, "misses": 0.0, "area": math.inf, "goal": math.nan}
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}  # the smallest mask that worked
    kept |= {name: torch.tensor(value, dtype=torch.double, device=clip.device) for name, value in first.items()}
    used, epochs = used_rows(len(images), steps, settings.inversion.batch_size, generator)

    def loss(rows: Tensor, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
        mask, pattern = drawn(tensors, size)
        rows = used[rows]
        triggered = paste(floats(clip, images[rows]), mask, pattern)
        with clip.autocast(settings.precision):
            features = clip.encode_image(triggered)
        wanted, success, threshold = goal(features, rows)
        total, area = wanted + (kept["beta"] * 3).to(mask.dtype) * mask.sum(), mask.mean()
        with torch.no_grad():
            works = success.double() >= threshold
            keep_smaller(kept, tensors, works, area)
            kept["goal"].copy_(moving_mean(kept["goal"], wanted.double()))
            adapt(kept, works, settings.weight_factor)
        return total, {"goal": wanted, "success": success, "mask_area": area}

    recipe = settings.inversion.model_copy(update={"epochs": epochs})
    task = Task(tensors, loss, len(used), {}, half=settings.precision == "fp16", kept=kept)
    done = tune(task, recipe, seed, work)
    works = math.isfinite(float(kept["area"]))
    mask, pattern = (tensor.detach() for tensor in drawn(kept if works else tensors, size))
    return Inverted(mask, pattern, done, works, float(kept["goal"]))


def used_rows(pictures: int, steps: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Return the rows of the pictures that an inversion uses, and the number of epochs.

    An epoch of all pictures could be many times the steps: 200 in place of 60 for 3,200 pictures and batches of 16.
    """
    per_epoch = max(1, pictures // batch_size)
    epochs = math.ceil(steps / per_epoch)
    needed = math.ceil(steps / epochs)
    if needed == per_epoch:
        return torch.arange(pictures), epochs
    return torch.randperm(pictures, generator=generator)[: needed * batch_size], epochs


def drawn(tensors: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Return mask (H, W) and pattern (3, H, W) in [0, 1] from the learned logits; the mask's logits are per cell."""
    cell = math.ceil(size / len(tensors["mask"]))
    mask = tensors["mask"].sigmoid().repeat_interleave(cell, dim=0).repeat_interleave(cell, dim=1)
    return mask[:size, :size], tensors["pattern"].sigmoid()


def under(clip: Clip, images: Tensor, trigger: Inverted, precision: str = "fp32", batch_size: int = 256) -> Tensor:
    """Return the features (N, D) of pictures uint8 (N, 3, H, W) under a trigger; `precision`: autocast type."""
    with torch.no_grad(), clip.autocast(precision):
        parts = images.split(batch_size)
        return torch.cat([clip.encode_image(paste(floats(clip, x), trigger.mask, trigger.pattern)) for x in parts])


def alike(features: Tensor) -> Tensor:
    """Return the mean cosine between different rows of normalised features (N, D)."""
    count = len(features)
    return (features.sum(dim=0).square().sum() - features.square().sum()) / (count * (count - 1))


def inversion_loss(triggered: Tensor, negatives: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the loss of `Together` and the mean cosine of the triggered features.

    Args:
        triggered: normalised features (B, D).
        negatives: normalised features (K, D).
        temperature: tau.
    """
    count = len(triggered)
    among = triggered @ triggered.T
    own = torch.eye(count, dtype=torch.bool, device=among.device)
    positives = torch.logsumexp((among / temperature).masked_fill(own, float("-inf")), dim=1) - math.log(count - 1)
    everything = torch.logsumexp(torch.cat([positives[:, None], triggered @ negatives.T / temperature], dim=1), dim=1)
    others = among.flatten()[1:].view(count - 1, count + 1)[:, :-1]  # row by row, without the diagonal
    return (everything - positives).mean(), others.flatten().mean()


def keep_smaller(kept: dict[str, Tensor], tensors: dict[str, Tensor], works: Tensor, areas: Tensor) -> None:
    """Keep the triggers that work and are smaller than those kept; nothing is read back from the device.

    Args:
        kept: in place, what was kept of `tensors`, by the same names, and the masks' areas (K,), `area`.
        tensors: by name, (K, ...).
        works: (K,) bool, whether each of K triggers works.
        areas: (K,) means of their masks.

    One trigger has no dimension K.
    """
    better = works & (areas < kept["area"])
    for name, tensor in tensors.items():
        each = better.view(*better.shape, *[1] * (tensor.ndim - better.ndim))
        kept[name].copy_(torch.where(each, tensor.detach(), kept[name]))
    kept["area"].copy_(torch.where(better, areas, kept["area"]))


def moving_mean(before: Tensor, value: Tensor) -> Tensor:
    """Return the moving mean with a further value; of the same shape, `before` is NaN before the first value."""
    return torch.where(before.isnan(), value, MEMORY * before + (1 - MEMORY) * value)


def adapt(kept: dict[str, Tensor], works: Tensor, factor: float) -> None:
    """Change beta by DECREE's and Neural Cleanse's rule: a working trigger must shrink, a failing trigger may grow.

    Nothing is read back from the device.

    Args:
        kept: in place, `beta`, and the numbers of steps in a row that worked, `hits`, or did not, `misses`; each (K,).
        works: (K,) bool, whether each of K triggers works.
        factor: factor by which beta changes.

    One trigger has no dimension K.
    """
    hits, misses = torch.where(works, kept["hits"] + 1, 0), torch.where(works, 0, kept["misses"] + 1)
    grows, shrinks, beta = hits > PATIENCE, misses > PATIENCE, kept["beta"]
    beta.copy_(torch.where(grows, beta * factor, torch.where(shrinks, (beta / factor).clamp(min=LOWEST), beta)))
    kept["hits"].copy_(torch.where(grows, 0, hits))
    kept["misses"].copy_(torch.where(shrinks, 0, misses))
