"""Many inversions of triggers at once: K masks and patterns that each seek the smallest working trigger of one goal.

x' = (1 - m_k) x + m_k p_k,   L = sum_k [G_k(f(x')) + beta_k 3 |m_k|_1]

Trigger, rule for beta and choice of the smallest working mask are those of one inversion
(`antidote/training/inversion.py`). All K triggers are drawn on the same batch and encoded together. Adam works on each
number separately and the network is in evaluation mode, so that no search depends on the others; but in fp16, where one
gradient too large for 16 bits skips the step of all that are run at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.base.settings import Settings
from antidote.training.inversion import adapt, floats, keep_smaller, moving_mean
from antidote.training.tuning import Task, TuneSettings, part, tune

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.training.session import Work

# Takes the features (K, B, D) under K triggers and the rows (B,) of the pictures; returns loss (K,) and success (K,).
Goal = Callable[["Tensor", "Tensor"], tuple["Tensor", "Tensor"]]
PIXELS = 64 * 224**2  # of the pictures whose gradients are computed at once; RN50 takes 5 GB for them


class SearchSettings(Settings):
    """Search of the smallest working triggers. All numbers are ours, except where a source is named."""

    pictures: int = Field(
        256, ge=2, description="clean pictures on which triggers are drawn, the first different ones of the pool"
    )
    steps: int = Field(150, ge=1, description="steps of a search, rounded up to whole passes over the pictures")
    batch_size: int = Field(16, ge=2, description="pictures per step (DECREE, Neural Cleanse: 32)")
    lr: float = Field(0.1, gt=0, description="rate of Adam for mask and pattern (Neural Cleanse, SSL-Cleanse: 0.1)")
    temperature: float = Field(0.07, gt=0, description="tau of the cosines (InfoNCE's usual value)")
    mask_weight: float = Field(1e-3, gt=0, description="first beta, weight of the mask's sum over 3 channels (DECREE)")
    weight_factor: float = Field(2.0, gt=1, description="factor by which beta changes (Neural Cleanse: 2; DECREE: 5)")
    mask_cell: int = Field(
        1, ge=1, description="side of the mask's square cells, in pixels (1: a mask per pixel, as in all papers)"
    )
    mask_start: float = Field(0.1, gt=0, lt=1, description="initial value of the mask, everywhere")
    together: int = Field(
        32,
        ge=1,
        description="searches that are run at once, of large pictures fewer: 64 pictures of 224 pixels at most",
    )

    @property
    def encoded_in(self) -> str:
        """Autocast type in which pictures are encoded; losses, masks and patterns have 32 bits."""
        return "fp32"

    @property
    def optimisation(self) -> TuneSettings:
        """Optimiser, rate and schedule of mask and pattern; batch size and epochs are those of `recipe`."""
        return TuneSettings(optimizer="adam", lr=self.lr, schedule="constant")

    def recipe(self, pictures: int) -> TuneSettings:
        """Return the recipe of a search on a number of pictures."""
        size = min(self.batch_size, pictures)
        epochs = math.ceil(self.steps / max(1, pictures // size))
        return self.optimisation.model_copy(update={"batch_size": size, "epochs": epochs})


@dataclass(frozen=True)
class Found:
    """The triggers of K searches.

    Attributes:
        masks: (K, H, W) in [0, 1].
        patterns: (K, 3, H, W) in [0, 1].
        works: (K,) bool; whether the trigger worked on any batch. The last trigger is kept if none worked.
        areas: (K,) mean of the mask; 1 if no trigger worked.
        goals: (K,) moving mean of the goal's loss over the last steps.
    """

    masks: Tensor
    patterns: Tensor
    works: Tensor
    areas: Tensor
    goals: Tensor


@contextmanager
def still(network: torch.nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode without gradients of its parameters; restore both afterwards."""
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    training = {module for module in network.modules() if module.training}
    network.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


def search(
    clip: Clip,
    images: Tensor,
    goals: Callable[[Tensor], Goal],
    wanted: float,
    count: int,
    settings: SearchSettings,
    seed: int,
    work: Work,
    kind: type[Search] | None = None,
) -> Found:
    """Return the smallest working trigger of each of `count` searches, on the CPU.

    Args:
        clip: the suspicious model.
        images: uint8 (N, 3, H, W).
        goals: takes the numbers (K,) of the searches that are run at once; returns their goal.
        wanted: a trigger works if the goal's success on a batch is at least this.
        count: number of searches.
        settings: settings of the search.
        seed: seed of the patterns and of the order of pictures.
        work: folder, identity and checkpoint interval.
        kind: class with another rule for the weight of the mask; None: the rule of DECREE and Neural Cleanse.
    """
    parts = torch.arange(count).split(at_once(settings.together, settings.batch_size, images.shape[-1]))
    with still(clip.network):
        found = [
            (kind or Search)(clip, images, goals(numbers.to(clip.device)), wanted, settings).run(
                numbers, seed, part(work, f"search{place}")
            )
            for place, numbers in enumerate(parts)
        ]
    return Found(*(torch.cat([getattr(one, name) for one in found]) for name in Found.__dataclass_fields__))


def at_once(together: int, pictures: int, size: int) -> int:
    """Return how many searches are run at once: `together`, or as few as memory asks for. Only fp16 depends on it.

    Args:
        together: the setting.
        pictures: number of pictures of one search.
        size: side of a picture in pixels.
    """
    return max(1, min(together, PIXELS // (pictures * size**2)))


def draw(images: Tensor, masks: Tensor, patterns: Tensor) -> Tensor:
    """Return (K B, 3, H, W), pictures (B, 3, H, W) in [0, 1] under K masks (K, H, W) and patterns (K, 3, H, W)."""
    masks = masks[:, None, None]
    return ((1 - masks) * images + masks * patterns[:, None]).flatten(0, 1)


class Search:
    """K searches that are run at once."""

    def __init__(self, clip: Clip, images: Tensor, goal: Goal, wanted: float, settings: SearchSettings) -> None:
        self.clip, self.images, self.goal, self.wanted, self.settings = clip, images, goal, wanted, settings
        self.size = images.shape[-1]

    def run(self, numbers: Tensor, seed: int, work: Work) -> Found:
        settings, count, device = self.settings, len(numbers), self.clip.device
        cells, start = math.ceil(self.size / settings.mask_cell), settings.mask_start
        patterns = [
            torch.randn(
                3, self.size, self.size, generator=torch.Generator().manual_seed(derive(seed, "pattern", number))
            )
            for number in numbers.tolist()
        ]
        self.tensors = {
            "mask": torch.full((count, cells, cells), math.log(start / (1 - start)), device=device).requires_grad_(),
            "pattern": torch.stack(patterns).to(device).requires_grad_(),
        }
        self.kept = {name: tensor.detach().clone() for name, tensor in self.tensors.items()} | {
            "beta": torch.full((count,), settings.mask_weight, device=device),
            "area": torch.full((count,), math.inf, device=device),
            "hits": torch.zeros(count, device=device),
            "misses": torch.zeros(count, device=device),
            "goal": torch.full((count,), math.nan, device=device),
        }
        half = settings.encoded_in == "fp16"
        task = Task(self.tensors, self.loss, len(self.images), {}, half=half, kept=self.kept)
        tune(task, settings.recipe(len(self.images)), seed, work)
        works = self.kept["area"].isfinite()
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                self.kept[name][~works] = tensor[~works]
            masks, patterns = self._drawn(self.kept)
        areas = torch.where(works, self.kept["area"], torch.ones_like(self.kept["area"]))
        return Found(*(one.cpu() for one in (masks, patterns, works, areas, self.kept["goal"])))

    def _drawn(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return masks (K, H, W) and patterns (K, 3, H, W) in [0, 1] from their logits."""
        cell = self.settings.mask_cell
        masks = tensors["mask"].sigmoid().repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)
        return masks[:, : self.size, : self.size], tensors["pattern"].sigmoid()

    def loss(self, rows: Tensor, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
        masks, patterns = self._drawn(self.tensors)
        pictures = floats(self.clip, self.images[rows])
        with self.clip.autocast(self.settings.encoded_in):
            features = self.clip.encode_image(draw(pictures, masks, patterns))
        features = features.unflatten(0, (len(masks), -1))
        wanted, success = self.goal(features, rows)
        total = (wanted + self.kept["beta"] * 3 * masks.sum(dim=(1, 2))).sum()
        areas = masks.detach().mean(dim=(1, 2))
        with torch.no_grad():
            self._note(wanted.detach(), success.detach(), areas)
        return total, {"goal": wanted.mean(), "success": success.mean(), "mask_area": areas.mean()}

    def _note(self, wanted: Tensor, success: Tensor, areas: Tensor) -> None:
        """Keep the smallest masks that worked, and change beta; all arguments are (K,)."""
        keep_smaller(self.kept, self.tensors, success >= self.wanted, areas)
        self.kept["goal"].copy_(moving_mean(self.kept["goal"], wanted))
        self._weigh(wanted, success)

    def _weigh(self, wanted: Tensor, success: Tensor) -> None:
        """Change beta by the rule of DECREE and Neural Cleanse."""
        adapt(self.kept, success >= self.wanted, self.settings.weight_factor)


def toward(centres: Tensor, temperature: float) -> Callable[[Tensor], Goal]:
    """Return the goals of searches towards the centres (C, D), class embeddings or clusters, one search each.

    Loss: cross-entropy of the cosines divided by the temperature. Success: share of pictures whose nearest centre is
    the search's own.
    """

    def goals(numbers: Tensor) -> Goal:
        def goal(features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            scores = features @ centres.T
            own = numbers[:, None].expand(scores.shape[:2])
            loss = F.cross_entropy((scores / temperature).flatten(0, 1), own.flatten(), reduction="none")
            hits = (scores.detach().argmax(dim=2) == own).double().mean(dim=1)
            return loss.unflatten(0, own.shape).mean(dim=1), hits

        return goal

    return goals


def together(numbers: Tensor) -> Goal:
    """Return the goal without a class: loss is the negative mean cosine between pictures, success the mean cosine."""

    def goal(features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        count = features.shape[1]
        alike = features.sum(dim=1).square().sum(dim=1) - features.square().sum(dim=(1, 2))
        alike = alike / (count * (count - 1))
        return -alike, alike.detach()

    return goal
