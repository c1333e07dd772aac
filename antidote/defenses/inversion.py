"""Inversion of a trigger: a mask m in [0, 1]^(H x W) and a pattern p in [0, 1]^(3 x H x W), x' = (1 - m) x + m p, as
small as still works.

    L = G(f(x')) + beta 3 |m|_1

G is a goal in feature space. beta follows DECREE (arXiv 2303.15180) and Neural Cleanse: times a factor after more than
5 steps in a row in which the trigger works, divided by it after more than 5 in a row in which it does not. By DECREE's
factor of 5, beta is far too large when the trigger fails at last, and the mask does not recover; hence Neural
Cleanse's. What is returned is the smallest mask that worked on a batch, as there, and not the last one.

A goal of one class c (`TowardClass`; Neural Cleanse's, with CLIP's class embeddings t):

    G = mean_i CE(cos(z_i, t) / tau, c)                      works: the share of a batch that gets c

A goal without a class (`Together`; DECREE's and CBPT's, as far as known), n_k features of clean pictures:

    G = -mean_i log (P_i / (P_i + sum_k e^{cos(z_i, n_k) / tau})),  P_i = mean over j != i of e^{cos(z_i, z_j) / tau}
                                                             works: the mean of cos(z_i, z_j)
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
from antidote.training.tuning import Task, TuneSettings, part, tune

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.training.session import Work

PATIENCE, LOWEST = 5, 1e-7  # DECREE's rule for beta
MEMORY = 0.8  # share of a moving mean that a step keeps


class InversionSettings(Settings):
    """All numbers are ours, but where a source is named."""

    positives: Literal["text", "pictures"] = Field(
        "text",
        description="what triggered pictures are pulled towards: `text`, the embedding of one candidate class after "
        "another (Neural Cleanse; ours for CLIP); `pictures`, one another, which names no class (DECREE)",
    )
    temperature: float = Field(0.07, gt=0, description="tau of the inversion (InfoNCE's usual value)")
    mask_weight: float = Field(1e-3, gt=0, description="first beta, weight of the mask's sum over 3 channels (DECREE)")
    weight_factor: float = Field(2.0, gt=1, description="by which beta changes (Neural Cleanse: 2; DECREE: 5)")
    hit_rate: float = Field(
        0.97,
        gt=0,
        le=1,
        description="of `text`: share of a batch that gets the class when the trigger works (Neural Cleanse: 0.99)",
    )
    collapsed: float = Field(
        0.85,
        gt=0,
        le=1,
        description="of `pictures`: how far the mean cosine of triggered features is on the way from that of the clean "
        "ones to 1 where the trigger works; the attacker's own triggers reach 0.87 to 0.92 on the embedded data "
        "(DECREE: a cosine of 0.99, for OpenAI's encoder, whose clean pictures are more alike)",
    )
    mask_cell: int = Field(4, ge=1, description="side of the squares that the mask is made of, pixels")
    mask_start: float = Field(0.1, gt=0, lt=1, description="the mask's value at the start, everywhere")
    candidates: int = Field(
        8, ge=1, description="of `text`: classes that a trigger is inverted for; of more, those that give way soonest"
    )
    screening_steps: int = Field(60, ge=1, description="steps of the universal patch per class that chooses them")
    screening_batch: int = Field(16, ge=2, description="pictures per step of it")
    inversion_steps: int = Field(1000, ge=1, description="steps of each inversion (open in CBPT's paper)")
    inversion: TuneSettings = Field(
        TuneSettings(optimizer="adam", lr=0.1, schedule="constant", batch_size=64),
        description="of mask and pattern; its epochs do not count. The rate is one of DECREE's (0.5, 0.1, 0.05): from "
        "0.01 by a cosine, Adam moves a logit by at most 5 in 1,000 steps, and the mask starts at -2.2. Constant, so "
        "that the mask can still shrink at the end",
    )


class Goal(Protocol):
    """What an inversion wants of triggered features."""

    def __call__(self, features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return, of triggered features (B, D) of some rows, the loss, a measure of success and its threshold."""


@dataclass(frozen=True)
class TowardClass:
    """All pictures get class `target` of the normalised class embeddings `texts` (C, D)."""

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
    """All pictures get one feature, away from `negatives` (K, N, D): the pictures' own, those under other triggers."""

    negatives: Tensor
    temperature: float
    collapsed: float

    def __call__(self, features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        negatives = self.negatives[:, rows]
        loss, likeness = inversion_loss(features, negatives.flatten(0, 1), self.temperature)
        clean = float(alike(negatives[0]))
        return loss, likeness, clean + self.collapsed * (1 - clean)


@dataclass(frozen=True)
class Inverted:
    """A trigger: mask (H, W), pattern (3, H, W), the steps it took, whether it ever worked, the goal's value over the
    last steps, a moving mean."""

    mask: Tensor
    pattern: Tensor
    steps: int
    works: bool
    goal: float

    @property
    def area(self) -> float:
        return float(self.mask.mean())


def paste(images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """Return (1 - m) x + m p for pictures (N, 3, H, W) in [0, 1], mask (H, W), pattern (3, H, W)."""
    return (1 - mask) * images + mask * pattern


def floats(clip: Clip, images: Tensor) -> Tensor:
    """Return pictures (N, 3, H, W) uint8 as numbers in [0, 1] on the model's device."""
    return images.to(clip.device).float() / 255


def invert(
    clip: Clip, images: Tensor, goal: Goal, settings: InversionSettings, steps: int, seed: int, work: Work
) -> Inverted:
    """Return the smallest trigger that worked on a batch of pictures (N, 3, H, W) uint8; the last one if none did."""
    size = images.shape[-1]
    generator = torch.Generator().manual_seed(derive(seed, "dummy trigger"))
    cells = math.ceil(size / settings.mask_cell)
    start = math.log(settings.mask_start / (1 - settings.mask_start))
    tensors = {
        "mask": torch.full((cells, cells), start, device=clip.device).requires_grad_(),
        "pattern": torch.randn(3, size, size, generator=generator).to(clip.device).requires_grad_(),
    }
    best = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    state = {"beta": settings.mask_weight, "collapsed": 0.0, "spread": 0.0, "area": math.inf, "goal": math.nan}

    def loss(rows: Tensor, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
        mask, pattern = drawn(tensors, size)
        wanted, success, threshold = goal(clip.encode_image(paste(floats(clip, images[rows]), mask, pattern)), rows)
        works, area = float(success.detach()) >= threshold, float(mask.detach().mean())
        total = wanted + state["beta"] * 3 * mask.sum()
        if works and area < state["area"]:
            state["area"] = area
            for name, tensor in tensors.items():
                best[name].copy_(tensor.detach())
        reached = float(wanted.detach())
        state["goal"] = reached if math.isnan(state["goal"]) else MEMORY * state["goal"] + (1 - MEMORY) * reached
        adapt(state, works, settings.weight_factor)
        return total, {"goal": wanted, "success": success, "mask_area": mask.mean()}

    per_epoch = max(1, len(images) // settings.inversion.batch_size)
    recipe = settings.inversion.model_copy(update={"epochs": math.ceil(steps / per_epoch)})
    done = tune(Task(tensors, loss, len(images), state, best), recipe, seed, work)
    works = math.isfinite(state["area"])
    mask, pattern = (tensor.detach() for tensor in drawn(best if works else tensors, size))
    return Inverted(mask, pattern, done, works, state["goal"])


def drawn(tensors: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Return mask (H, W) and pattern (3, H, W) in [0, 1] from what is learned: logits, the mask's in coarse cells."""
    cell = math.ceil(size / len(tensors["mask"]))
    mask = tensors["mask"].sigmoid().repeat_interleave(cell, dim=0).repeat_interleave(cell, dim=1)
    return mask[:size, :size], tensors["pattern"].sigmoid()


def candidates(
    clip: Clip, images: Tensor, texts: Tensor, settings: InversionSettings, seed: int, work: Work
) -> tuple[list[int], int]:
    """Return the classes to invert a trigger for, and the steps done: all, or those that gain most under a universal
    patch of a few steps, each class under one towards itself. A backdoor's target gives way soonest; one patch towards
    no class finds others, which large patterns of their own reach.

    Args:
        images: (N, 3, H, W) uint8.
        texts: (C, D), class embeddings.
    """
    if len(texts) <= settings.candidates:
        return list(range(len(texts))), 0
    recipe = settings.inversion.model_copy(update={"batch_size": min(settings.screening_batch, len(images))})
    short, losses, steps = settings.model_copy(update={"inversion": recipe}), [], 0
    for kind in range(len(texts)):
        goal = TowardClass(texts, kind, settings.temperature, settings.hit_rate)
        place = part(work, f"screening{kind}")
        patch = invert(clip, images, goal, short, settings.screening_steps, derive(seed, "screening", kind), place)
        losses, steps = [*losses, patch.goal], steps + patch.steps
    return sorted(sorted(range(len(texts)), key=losses.__getitem__)[: settings.candidates]), steps


def under(clip: Clip, images: Tensor, trigger: Inverted, batch_size: int = 256) -> Tensor:
    """Return the features (N, D) of pictures (N, 3, H, W) uint8 under a trigger."""
    with torch.no_grad():
        parts = images.split(batch_size)
        return torch.cat([clip.encode_image(paste(floats(clip, x), trigger.mask, trigger.pattern)) for x in parts])


def alike(features: Tensor) -> Tensor:
    """Return the mean cosine of two different ones of normalised features (N, D)."""
    count = len(features)
    return (features.sum(dim=0).square().sum() - features.square().sum()) / (count * (count - 1))


def inversion_loss(triggered: Tensor, negatives: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the loss of `Together` and the mean cosine of triggered features (B, D); negatives (K, D)."""
    count = len(triggered)
    among = triggered @ triggered.T
    own = torch.eye(count, dtype=torch.bool, device=among.device)
    positives = torch.logsumexp((among / temperature).masked_fill(own, float("-inf")), dim=1) - math.log(count - 1)
    everything = torch.logsumexp(torch.cat([positives[:, None], triggered @ negatives.T / temperature], dim=1), dim=1)
    return (everything - positives).mean(), among[~own].mean()


def adapt(state: dict[str, float], works: bool, factor: float) -> None:
    """Change beta as DECREE and Neural Cleanse do: the trigger has to shrink while it works, and may grow where not."""
    state["collapsed"] = state["collapsed"] + 1 if works else 0.0
    state["spread"] = 0.0 if works else state["spread"] + 1
    if state["collapsed"] > PATIENCE:
        state.update(beta=state["beta"] * factor, collapsed=0.0)
    if state["spread"] > PATIENCE:
        state.update(beta=max(LOWEST, state["beta"] / factor), spread=0.0)
