"""Scores on shifted domains: the same model and trigger on sets of other pictures, one in memory at a time.

Pictures are classified into all of the evaluation's classes, or into those alone that the set shows (ImageNet-A and -R:
200 of 1000). A set may count them by labels of its own: its class names say which they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from antidote.base.errors import UserError, nearest
from antidote.base.lazy import torch
from antidote.evaluation.metrics import generalisation
from antidote.evaluation.settings import EvaluationSettings, Shift
from antidote.evaluation.zero_shot import evaluate

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.attacks.trigger import Trigger
    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs


def class_places(names: Sequence[str], classes: Sequence[str], where: str) -> list[int]:
    """Return the place of each of a set's class names among the evaluation's classes.

    Raises:
        UserError: begins with `where`; a name is not among them, or stands there twice.
    """
    if list(names) == list(classes):
        return list(range(len(classes)))
    for name in names:
        if name not in classes:
            raise UserError(
                f"{where}: {name!r} is not among the {len(classes)} classes of the evaluation{nearest(name, classes)}"
            )
        if classes.count(name) > 1:
            raise UserError(f"{where}: two classes of the evaluation are named {name!r}; which one is meant?")
    return [classes.index(name) for name in names]


def score_shifts(
    clip: Clip,
    load: Callable[[Shift], tuple[Pairs, list[str], Sequence[int]]],
    trigger: Trigger | None,
    target: int,
    classes: list[str],
    templates: list[str],
    settings: EvaluationSettings,
    embeddings: tuple[Tensor, Tensor],
    known: float | None,
) -> dict[str, float | None]:
    """Return, for every shift NAME, `ca1_NAME` and where there is a trigger to draw `asr1_NAME` and `asr_g_NAME`.

    The latter two are None where the attack's class is not among those that pictures are classified into.

    Args:
        load: returns the pictures of a shift, labelled by its own classes, the names of these, and the labels that the
            whole set shows, also where only some of its pictures are taken.
        known: ASR@1 on the evaluation's own pictures.
        The others are those of `evaluate`.
    """
    scores: dict[str, float | None] = {}
    for name, shift in settings.shifts.items():
        pictures, names, own = load(shift)
        place = torch.tensor(class_places(names, classes, f"evaluation.shifts.{name}.classes"))
        labels = place[pictures.labels]
        shown = place[torch.as_tensor(own)].unique() if shift.among == "own" else torch.arange(len(classes))
        drawn = trigger if trigger is not None and trigger.attack.triggered else None
        aimed = (shown == target).nonzero().flatten().tolist()
        found = evaluate(
            clip,
            replace(pictures, labels=torch.searchsorted(shown, labels)),
            drawn if aimed else None,
            aimed[0] if aimed else 0,
            [classes[label] for label in shown.tolist()],
            templates,
            settings,
            embeddings if shift.among == "all" else tuple(w[:, shown.to(w.device)] for w in embeddings),
        )
        scores[f"ca1_{name}"] = found["ca1"]
        if drawn is not None:
            scores[f"asr1_{name}"], scores[f"asr_g_{name}"] = found["asr1"], generalisation(known, found["asr1"])
        del pictures  # before the next one is loaded
    return scores


def as_floor(scores: dict[str, float | None]) -> dict[str, float | None]:
    """Return the scores of a trigger on the clean reference by their names there: `floor_NAME` for `asr1_NAME`,
    `floor_wordK` for `target_wordK`, and `floor_resistance` for `resistance_trigger`."""
    marks = ("asr1_", "target_")
    floors = {f"floor_{key.partition('_')[2]}": rate for key, rate in scores.items() if key.startswith(marks)}
    own = "resistance_trigger"
    return {**floors, "floor_resistance": scores[own]} if own in scores else floors
