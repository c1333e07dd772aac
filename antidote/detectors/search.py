"""Search of the smallest working triggers for detectors: as `antidote/training/patches.py`, with a steady weight.

The papers' weight of the mask, beta, changes by a large factor after several steps in a row that work or do not work.
Over thousands of steps the mask swings around the smallest working one. In the few hundred steps that a search has on a
CPU, a mask that starts small first vanishes, then covers a quarter of the picture, and is still swinging at the end.
Here, as in DECREE's code, a mask starts at half, where the pattern already works, and beta moves a little every step,

    beta <- beta f^s,   s = clip((success - wanted) / (1 - wanted), -1, 1),   f: `weight_factor`

so that the mask shrinks evenly until the trigger works half of the time. Compared on clean models by the size of the
smallest working mask alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

from antidote.base.lazy import torch
from antidote.training import patches
from antidote.training.inversion import LOWEST, floats
from antidote.training.patches import Found, Goal, SearchSettings, draw, still
from antidote.training.tuning import part

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
    with still(clip.network):
        found = [
            _Steady(clip, images, goals(numbers.to(clip.device)), wanted, settings).run(
                numbers, seed, part(work, f"search{place}")
            )
            for place, numbers in enumerate(torch.arange(count).split(settings.together))
        ]
    return Found(*(torch.cat([getattr(one, name) for one in found]) for name in Found.__dataclass_fields__))


def steady(beta: Tensor, success: Tensor, wanted: float, factor: float) -> Tensor:
    """Return the next weights (K,) of masks whose triggers had `success` (K,), for a wanted success below 1."""
    excess = (success - wanted) / max(1 - wanted, LOWEST)
    return (beta * factor ** excess.clamp(-1, 1)).clamp(min=LOWEST)


class _Steady(patches._Search):
    """K searches at once, whose weights change a little in every step."""

    def loss(self, rows: Tensor, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
        masks, patterns = self._drawn(self.tensors)
        pictures = floats(self.clip, self.images[rows])
        features = self.clip.encode_image(draw(pictures, masks, patterns)).unflatten(0, (len(masks), -1))
        wanted, success = self.goal(features, rows)
        total = (wanted + self.kept["beta"] * 3 * masks.sum(dim=(1, 2))).sum()
        areas = masks.detach().mean(dim=(1, 2))
        with torch.no_grad():
            self._keep(success.detach().float(), areas)
        return total, {"goal": wanted.mean(), "success": success.mean(), "mask_area": areas.mean()}

    def _keep(self, success: Tensor, areas: Tensor) -> None:
        """Keep the smallest masks that worked, and change beta."""
        kept, better = self.kept, (success >= self.wanted) & (areas < self.kept["area"])
        for name, tensor in self.tensors.items():
            kept[name][better] = tensor.detach()[better]
        kept["area"][better] = areas[better]
        kept["beta"].copy_(steady(kept["beta"], success, self.wanted, self.settings.weight_factor))
