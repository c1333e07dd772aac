"""Rebound: how much of a backdoor comes back when the user of a defended model fine-tunes the model on clean pairs.

A defense may hide a backdoor rather than remove it; a few steps of CLIP's own training on clean pairs then bring the
backdoor back. The rebound of a cell is the highest ASR@1 (or the figure that an attack has in its place) on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from antidote.base.lazy import torch
from antidote.base.settings import Settings
from antidote.clip.model import Clip
from antidote.training.loop import train
from antidote.training.objectives import Batch, Contrastive, Views
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.data.pairs import Pairs

RATES = ("ca1", "score")


class ReboundSettings(Settings):
    """A short benign fine-tuning of every model under test, and how often the attack is measured meanwhile."""

    training: TrainSettings = Field(
        TrainSettings(epochs=1, batch_size=128, warmup=0), description="the recipe; CLIP's loss on the defense pool"
    )
    every: int = Field(10, ge=1, description="steps between two measurements (ours; the last step is one as well)")


def rebound(
    clip: Clip,
    pairs: Pairs,
    prompts: Iterable[str],
    measure: Callable[[Clip], dict[str, float]],
    settings: ReboundSettings,
    seed: int,
    work: Work,
) -> list[dict[str, float]]:
    """Fine-tune `clip` in place; return per measurement the steps done, CA@1 and the attack's score, fractions.

    Args:
        prompts: every text that `measure` encodes.
        measure: returns `ca1` and `score` of a model: ASR@1, or the figure that the attack has in its place.

    Raises:
        UserError: fewer pairs than one batch.
    """
    watched = Watched(pairs, clip, prompts, measure, settings.every)
    report = train(clip, watched, settings.training, seed, work)
    watched.measure(report.steps)
    return [
        {"step": int(step), **dict(zip(RATES, map(float, rates), strict=True))} for step, *rates in watched.measured
    ]


class Watched(Contrastive):
    """CLIP's loss; before every n-th step the model is measured, which does not change the model."""

    parallel = None  # each process would measure

    def __init__(
        self, pairs: Pairs, clip: Clip, prompts: Iterable[str], measure: Callable[[Clip], dict[str, float]], every: int
    ) -> None:
        super().__init__(pairs)
        self.measured: list[list[float]] = []
        self._clip, self._prompts, self._measure, self._every = clip, list(prompts), measure, every

    def texts(self) -> Iterable[str]:
        return [*self.pairs.captions, *self._prompts]

    def views(self, batch: Batch) -> Views:
        if batch.step and batch.step % self._every == 0:
            self.measure(batch.step)
        return super().views(batch)

    def measure(self, step: int) -> None:
        scores = self._measure(self._clip)
        self._clip.network.train()
        self.measured.append([step, *(scores[rate] for rate in RATES)])

    def state(self) -> dict[str, Tensor]:
        return {"measured": torch.tensor(self.measured, dtype=torch.double).reshape(-1, 1 + len(RATES))}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.measured = state["measured"].tolist()
