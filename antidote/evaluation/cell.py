"""The scores of one cell: zero-shot scores, then every further measure that applies to it.

    ca1, asr1, ...   `evaluate`
    extra            the attack's own figures; `control`, `finding`, `visibility` where they apply; every measure that
                     the study asks for, one field of `EvaluationSettings` each

The clean reference with a trigger is scored in the same way; the columns of measures are then called floors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from antidote.evaluation.base import Columns, Inputs, as_floor, evaluated_pictures
from antidote.evaluation.finding import finding
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject, check_trigger, target_index
from antidote.evaluation.visibility import visibility
from antidote.evaluation.zero_shot import evaluate

__all__ = ["Cell", "check_trigger", "evaluated_pictures", "score", "target_index"]  # three for `scripts.detect`


@dataclass(frozen=True)
class Cell:
    """Which figures apply to a cell.

    Attributes:
        floor: whether the model is the clean reference, with the attack's trigger.
        visible: whether to measure how visible the trigger is.
        model, poison: folders of a model that names suspicious pairs, and of the poisoned pairs; without `poison` no
            finding is scored.
    """

    floor: bool = False
    visible: bool = False
    model: Path | None = None
    poison: Path | None = None


def score(subject: Subject, inputs: Inputs, settings: EvaluationSettings, cell: Cell) -> dict[str, Any]:
    """Return what `scores.json` holds beside the names of the cell. Usage:

        score(subject, Inputs(data, clip.size, settings, pictures), settings, Cell())["extra"]["backdoor_z"]

    Raises:
        UserError: the model's scores or features are not finite, or the data of a measure do not fit.
    """
    scores = evaluate(subject, inputs.pictures, settings, heads(subject, inputs, settings))
    columns, beside = further(subject, replace(inputs, scores=scores), settings, cell.floor)
    extra = {**scores.get("extra", {}), **control(subject, inputs)}
    if cell.poison:
        extra |= finding(cell.model, cell.poison)
    if cell.visible and subject.drawn:
        extra |= visibility(inputs.pictures, subject.drawn)
    extra |= columns
    figures = {name: value for name, value in scores.items() if name not in ("extra", "heads")}
    return {**figures, **({"extra": extra} if extra else {}), **beside}


def heads(subject: Subject, inputs: Inputs, settings: EvaluationSettings) -> dict[str, Any]:
    """Return the class weights (D, C) of the measures that have a classifier of their own, by their keys."""
    entries = [item for entries in settings.measures().values() for item in entries.items()]
    found = {key: entry.head(subject, inputs) for key, entry in entries}
    return {key: weights for key, weights in found.items() if weights is not None}


def further(
    subject: Subject, inputs: Inputs, settings: EvaluationSettings, floor: bool
) -> tuple[Columns, dict[str, Any]]:
    """Return the columns of the measures that the study asks for, and their values that are no columns.

    Args:
        inputs: with the zero-shot scores of the cell.
        floor: whether the columns are called floors.
    """
    columns: Columns = {}
    beside: dict[str, Any] = {}
    kinds = settings.measure_classes()
    for field, entries in settings.measures().items():
        found: Columns = {}
        for key in entries:
            found |= inputs.scores.get("heads", {}).get(key, {})
        found |= kinds[field].measure_all(entries, subject, inputs)
        beside |= {name: value for name, value in found.items() if isinstance(value, Mapping)}
        own = {name: value for name, value in found.items() if name not in beside}
        columns |= as_floor(own, kinds[field].floors) if floor else own
    return columns, beside


def control(subject: Subject, inputs: Inputs) -> Columns:
    """Return CA@1 and ASR@1 of the model's control, a classifier that was not attacked, if it has one."""
    if not (subject.clip.control and subject.trigger):
        return {}
    found = evaluate(replace(subject, clip=subject.clip.control), inputs.pictures, inputs.settings)
    return {"ca1_clean_shots": found["ca1"], "asr1_clean_shots": found["asr1"]}
