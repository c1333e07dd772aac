"""A linear probe: class weights fitted on the picture encoder's features of clean labelled pictures.

    min_W  mean_i CE(W z_i, y_i) + |W|^2 / (2 c N),   z_i the normalised feature

Logistic regression by L-BFGS over all pictures at once, as CLIP's authors probe (Radford et al. 2021, the example in
their repository), so that nothing is random. Ours: normalised features, and no bias, so that scores are products of
features and class weights as in zero-shot use. Attack success is counted as in zero-shot use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.data.pairs import Pairs
from antidote.evaluation.base import Inputs, Measure, ScoredSet, ZeroShotSettings
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import batches, encode

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 4096  # pictures whose scores are in memory at a time
HISTORY = 10  # steps that L-BFGS remembers (scikit-learn's number)


class Probe(ScoredSet, Measure):
    """Clean labelled pictures, of the evaluation's classes, that a linear probe is fitted on for every cell."""

    held_out = False  # it is trained on them, and scored on the evaluation's
    split: str = Field(description="one of its splits, not that of the evaluation")
    c: float = Field(
        31.6,
        gt=0,
        description="inverse strength of the L2 penalty, as scikit-learn's C, for features of length 1 (CLIP's "
        "example: 0.316 for features of length about 10)",
    )
    steps: int = Field(1000, ge=1, description="of L-BFGS, at most (CLIP's example)")

    looks: ClassVar = 1  # the probe is fitted on clean pictures, and scored in the pass of the zero-shot scores
    columns: ClassVar = ("ca1_probe", "asr1_probe")
    floors: ClassVar = {"asr1_": "floor_"}

    def check(self, evaluation: ZeroShotSettings, size: int, classes: str | None) -> None:
        if (self.dataset, self.split) == (evaluation.dataset, evaluation.split):
            raise ValueError(f"split: {self.split!r} is what the probe is scored on; it needs other pictures")
        if self.dataset != evaluation.dataset and classes != evaluation.classes:
            raise ValueError(
                f"dataset: the classes of {self.dataset} are {classes!r}, the evaluation's are {evaluation.classes!r}"
            )

    def head(self, subject: Subject, inputs: Inputs) -> Tensor:
        return fit_probe(subject, inputs.labelled(self, len(subject.classes)), self, inputs.settings)


def fit_probe(subject: Subject, pictures: Pairs, probe: Probe, settings: ZeroShotSettings) -> Tensor:
    """Return class weights (D, C) fitted on labelled pictures, where the model is.

    Raises:
        UserError: a class without a picture.
    """
    clip, classes = subject.clip, subject.classes
    missing = sorted(set(range(len(classes))) - set(pictures.labels.tolist()))
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"evaluation.probe: its pictures show no {classes[missing[0]]!r}{more}")
    with torch.no_grad():
        clip.network.eval()
        shown = batches(pictures, settings.batch_size, None, clip.device)
        parts = [encode(clip, images, settings.precision) for images, *_ in shown]
    features, labels = torch.cat(parts), pictures.labels.to(clip.device)
    return logistic_regression(features, labels, len(classes), probe.c, probe.steps)


def logistic_regression(features: Tensor, labels: Tensor, classes: int, c: float, steps: int) -> Tensor:
    """Return the weights (D, C) of a logistic regression of features (N, D), labels (N,), at most `steps` steps."""
    weights = torch.zeros(features.shape[1], classes, device=features.device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weights], max_iter=steps, history_size=HISTORY, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        total = weights.square().sum() / (2 * c * len(features))
        total.backward()
        total = total.detach()
        for part, truth in zip(features.split(BLOCK), labels.split(BLOCK), strict=True):
            loss = F.cross_entropy(part @ weights, truth, reduction="sum") / len(features)
            loss.backward()
            total = total + loss.detach()
        return total

    solver.step(closure)
    return weights.detach()
