"""Names of figures that not every cell has: of further evaluation sets, of optional measures, of single attacks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from antidote.base.registry import ATTACKS, method
from antidote.base.settings import read_mapping
from antidote.evaluation.base import as_floor
from antidote.evaluation.settings import EvaluationSettings


def study_files(root: Path) -> list[Path]:
    """Return the studies of a checkout, the default study first."""
    return [path for path in [root / "config.yaml", *sorted((root / "configs").glob("*.yaml"))] if path.is_file()]


def further_figures(studies: Iterable[Path]) -> set[str]:
    """Return the columns of all measures and the own figures of all attacks, such as `asr1_sketch`.

    Args:
        studies: study files, whose evaluation sets count; they are read, not checked.

    Raises:
        UserError: a file holds no keys and values.
    """
    found = {figure for name in ATTACKS for figure in method("attack", name).figures}
    evaluations = [read_mapping(str(file)).get("evaluation") for file in studies]
    for field, kind in EvaluationSettings.measure_classes().items():
        entries = [evaluation.get(field) for evaluation in evaluations if isinstance(evaluation, dict)]
        keys = {key for entry in entries if isinstance(entry, dict) for key in entry}
        for column in [*kind.columns, *as_floor(dict.fromkeys(kind.columns), kind.floors)]:
            found |= {column.format(name=key) for key in keys} if "{name}" in column else {column}
    return found
