"""The scores of one cell: what is read for it, and which measures run."""

from __future__ import annotations

import argparse
from pathlib import Path

from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError, nearest
from antidote.data import fitted
from antidote.data.pairs import Pairs
from antidote.evaluation.settings import EvaluationSettings, Probe, Retrieval, Shift


def target_index(target: str, classes: list[str], settings: EvaluationSettings) -> int:
    """Return the place of the target among the classes."""
    if target not in classes:
        raise UserError(f"--target: {target!r} is not a class of {settings.classes}{nearest(target, classes)}")
    return classes.index(target)


def evaluated_pictures(data: Path, settings: EvaluationSettings | Shift | Probe, size: int, classes: int) -> Pairs:
    """Return the pictures to score on, which stay on disk: all of the split, or every n-th of it."""
    folder = data / settings.dataset / settings.split
    pictures = fitted.load(folder, size, settings.pictures)
    if pictures.labels.min() < 0 or pictures.labels.max() >= classes:
        raise UserError(f"{folder}: every picture needs a label from 0 to {classes - 1}; {folder}/index.parquet has "
                        f"{int(pictures.labels.min())} to {int(pictures.labels.max())}")  # fmt: skip
    return pictures


def captioned_pictures(data: Path, settings: Retrieval, size: int) -> tuple[Pairs, list[list[str]]]:
    """Return the pictures for retrieval, and of each its captions."""
    folder = data / settings.dataset / settings.split
    pictures = fitted.load(folder, size, settings.pictures)
    return pictures, fitted.captions(folder, settings.pictures, settings.captions)


def check_trigger(trigger: Trigger | None, size: int, arguments: argparse.Namespace) -> None:
    """Raise UserError where a trigger is made for pictures of another size, or for another target."""
    if trigger is None:
        return
    if trigger.attack.size != size:
        raise UserError(
            f"{arguments.trigger}: made for pictures of {trigger.attack.size} pixels, the model reads {size}"
        )
    if trigger.attack.target != arguments.target:
        raise UserError(f"{arguments.trigger}: aims at {trigger.attack.target!r}, not at {arguments.target!r}")
