"""Search of the smallest working triggers for detectors: as `antidote/training/patches.py`, with a steady weight.

The papers' weight of the mask, beta, changes by a large factor after several steps in a row that work or do not work.
Over thousands of steps the mask swings around the smallest working one. In the few hundred steps that a search has on a
CPU, a mask that starts small first vanishes, then covers a quarter of the picture, and is still swinging at the end.
Here, as in DECREE's code, a mask starts at half, where the pattern already works, and beta moves a little every step,

    beta <- beta f^s,   s = clip((success - wanted) / (1 - wanted), -1, 1),   f: `weight_factor`

so that the mask shrinks evenly until the trigger works half of the time. Compared on clean models by the size of the
smallest working mask alone.

A trigger works if it reaches the wanted success on one batch, as small as `batch_size`. Neural Cleanse takes the mean
over the batches of a pass, and SSL-Cleanse's code tests on 1,000 pictures. A single batch is ours: a search of a few
hundred steps has a dozen passes, too few for a mask to shrink by. The smallest mask of so many batches is one of a
lucky batch. `rates` therefore measures the kept triggers on all pictures. The rates are evidence, and the size of a
mask counts whatever the rate is: hardly any trigger that succeeded on a lucky batch reaches 0.99 on all pictures, so
that a second test would discard nearly all searches, and with them the sizes that the index compares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

from antidote.base.lazy import torch
from antidote.detectors.features import ENCODED
from antidote.training import patches
from antidote.training.inversion import LOWEST, floats
from antidote.training.patches import Found, Goal, SearchSettings, draw, still

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.training.session import Work


class SteadySettings(SearchSettings):
    """Search of the smallest working triggers. All numbers are ours, except where a source is named."""

    steps: int = Field(200, ge=1, description="steps of a search, rounded up to whole passes over the pictures")
    weight_factor: float = Field(
        1.05,
        gt=1,
        description="largest factor by which beta changes per step (Neural Cleanse: 2 after 5 steps; DECREE: 5)",
    )
    mask_start: float = Field(
        0.5, gt=0, lt=1, description="initial value of the mask, everywhere (DECREE: uniform between 0 and 1)"
    )


def smallest(
    clip: Clip,
    images: Tensor,
    goals: Callable[[Tensor], Goal],
    wanted: float,
    count: int,
    settings: SteadySettings,
    seed: int,
    work: Work,
) -> Found:
    """Return the smallest working trigger of each of `count` searches, on the CPU; arguments as of `patches.search`."""
    return patches.search(clip, images, goals, wanted, count, settings, seed, work, _Steady)


def steady(beta: Tensor, success: Tensor, wanted: float, factor: float) -> Tensor:
    """Return the next weights (K,) of masks whose triggers had `success` (K,), for a wanted success below 1."""
    excess = (success - wanted) / max(1 - wanted, LOWEST)
    return (beta * factor ** excess.clamp(-1, 1)).clamp(min=LOWEST)


def rates(clip: Clip, images: Tensor, goals: Callable[[Tensor], Goal], found: Found) -> list[float]:
    """Return the success of every trigger on all pictures, in [0, 1], one per search.

    A search keeps the smallest mask that worked on one batch. Of hundreds of batches, the one that decides is a lucky
    one, so that the rate on all pictures is below the rate that was asked for.

    Args:
        clip: the suspicious model.
        images: uint8 (N, 3, H, W), those of the search.
        goals: as of the search.
        found: triggers of K searches.
    """
    every, reached = torch.arange(len(images)), []
    with still(clip.network), torch.no_grad():
        for number in range(len(found.masks)):
            mask, pattern = (one[number, None].to(clip.device) for one in (found.masks, found.patterns))
            parts = images.split(ENCODED)
            features = torch.cat([clip.encode_image(draw(floats(clip, part), mask, pattern)) for part in parts])
            goal = goals(torch.tensor([number], device=clip.device))
            reached.append(goal(features[None], every)[1])
    return torch.cat(reached).tolist()


class _Steady(patches.Search):
    """K searches at once, whose weights change a little in every step."""

    def _weigh(self, wanted: Tensor, success: Tensor) -> None:
        beta = self.kept["beta"]
        beta.copy_(steady(beta, success.float(), self.wanted, self.settings.weight_factor))
