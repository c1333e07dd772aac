"""What the two training stages share: the identity of a run, its work folder, its card and cost."""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from antidote import models
from antidote.cli import Cost, to_json
from antidote.data import pools
from antidote.files import sha256
from antidote.fingerprint import fingerprint
from antidote.models import Clip
from antidote.training import Report, Work


def training_arguments(arguments: argparse.ArgumentParser) -> None:
    """Add what both training scripts take."""
    arguments.add_argument("--pools", type=Path, nargs="+", default=[], help="files of the pools to draw on")
    arguments.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--output", type=Path, required=True, help="model folder to write")
    arguments.add_argument("--work", type=Path, help="folder for checkpoints; OUTPUT.work by default")
    arguments.add_argument("--checkpoint-seconds", type=float, default=120.0, help="time between checkpoints")
    arguments.add_argument("--cost", type=Path, help="cost.json to write")


def work_of(arguments: argparse.Namespace, settings: Any, inputs: Iterable[Path], *modules: str) -> Work:
    """Return the run's work folder, bound to settings, seed, the content of its inputs and the code it can reach."""
    drawn = pools.read(arguments.pools)[["dataset", "split"]].drop_duplicates() if arguments.pools else None
    splits = [] if drawn is None else sorted(drawn.itertuples(index=False, name=None))
    manifests = [arguments.data / dataset / split / "manifest.json" for dataset, split in splits]
    contents = [sha256(path) for path in (*inputs, *arguments.pools, *manifests)]
    parts = [to_json(settings), arguments.seed, *contents, fingerprint(*modules)]
    identity = hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()
    folder = arguments.work or arguments.output.with_name(arguments.output.name + ".work")
    return Work(folder, identity, arguments.checkpoint_seconds)


def finish(arguments: argparse.Namespace, clip: Clip, card: dict, report: Report, work: Work, cost: Cost) -> None:
    """Write the model folder with its training log, then the cost; then the work folder is of no more use."""
    training_log = work.folder / "train.jsonl"  # what does not train leaves none
    kept = [training_log] if training_log.is_file() else []
    models.save(arguments.output, report.clip or clip, card, extra=[*kept, *report.files])
    cost.write(arguments.cost, trained_parameters=report.trained_parameters, pairs=report.pairs, steps=report.steps)
    shutil.rmtree(work.folder, ignore_errors=True)
