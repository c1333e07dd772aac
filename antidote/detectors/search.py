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

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

from antidote.training import patches
from antidote.training.inversion import LOWEST
from antidote.training.patches import Found, Goal, SearchSettings

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


class _Steady(patches.Search):
    """K searches at once, whose weights change a little in every step."""

    def _weigh(self, wanted: Tensor, success: Tensor) -> None:
        beta = self.kept["beta"]
        beta.copy_(steady(beta, success.float(), self.wanted, self.settings.weight_factor))
