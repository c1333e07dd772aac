"""Steps that scripts which train a model share: arguments, identity and work folder of a run, the model folder."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from antidote.base.cache import Shared, identity
from antidote.base.command_line import Cost, seed
from antidote.base.errors import UserError
from antidote.clip.files import TRAINING_LOG
from antidote.clip.folder import save_model
from antidote.clip.model import Clip
from antidote.data.pools import drawn_from
from antidote.data.streaming import Reading
from antidote.training import parallel
from antidote.training.session import Report, Work


def training_arguments(arguments: argparse.ArgumentParser) -> None:
    """Add the arguments that every training script takes."""
    arguments.add_argument("--pools", type=Path, nargs="+", default=[], help="files of the pools to draw on")
    arguments.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets")
    arguments.add_argument("--seed", type=seed, default=0)
    arguments.add_argument("--output", type=Path, required=True, help="model folder to write")
    arguments.add_argument("--work", type=Path, help="folder for checkpoints; OUTPUT.work by default")
    arguments.add_argument("--checkpoint-seconds", type=float, default=120.0, help="time between checkpoints")
    arguments.add_argument("--cost", type=Path, help="cost.json to write")
    reading_arguments(arguments)
    arguments.add_argument("--processes", type=int, default=1,
                           help="that train together, each on a GPU where there are some; 0 is 1 as well")  # fmt: skip


def reading_arguments(arguments: argparse.ArgumentParser) -> None:
    """Add the arguments of how pictures are read; they change no result."""
    usual = Reading()
    arguments.add_argument("--in-memory-mb", type=int, default=usual.in_memory >> 20,
                           help="pictures that take more are streamed from their shards")  # fmt: skip
    arguments.add_argument("--workers", type=int, default=usual.workers,
                           help="processes that read what is streamed, for each that trains")  # fmt: skip


def reading_of(arguments: argparse.Namespace) -> Reading:
    """Return how pictures are read; processes that train together share the memory for pictures.

    Raises:
        UserError: a number is negative.
    """
    for name in ("in_memory_mb", "workers"):
        if getattr(arguments, name) < 0:
            raise UserError(f"--{name.replace('_', '-')}: {getattr(arguments, name)} should be 0 or more")
    processes = max(getattr(arguments, "processes", 1), 1)  # each of them would hold all pictures
    return Reading((arguments.in_memory_mb << 20) // processes, arguments.workers)


def work_of(arguments: argparse.Namespace, settings: Any, inputs: Iterable[Path], *modules: str) -> Work:
    """Return the work of a run; its identity covers settings, seed, the content of the inputs and the reachable code.

    Args:
        settings: plain values that the run depends on.
        inputs: files that the run reads, the datasets left out.
        modules: whose code, and all that they import, the run depends on.
    """
    made_from = _made_from(arguments, settings, inputs, modules)
    folder = arguments.work or arguments.output.with_name(arguments.output.name + ".work")
    return Work(folder, made_from, arguments.checkpoint_seconds)


def common_of(arguments: argparse.Namespace, work: Work, settings: Any, inputs: Iterable[Path], *modules: str) -> Work:
    """Return the folder, next to the run's work folder, of what runs share that depend on the same; as `work_of`.

    The folder stays when the runs end.
    """
    made_from = _made_from(arguments, settings, inputs, modules)
    return Work(work.folder.parent / f"common-{made_from[:16]}", made_from, work.every)


def _made_from(arguments: argparse.Namespace, settings: Any, inputs: Iterable[Path], modules: Iterable[str]) -> str:
    files = [*inputs, *drawn_from(arguments.pools, arguments.data)]
    return identity([settings, arguments.seed], files, *modules)


def taken(arguments: argparse.Namespace, work: Work, shared: Shared) -> bool:
    """Copy model folder and cost from the cache, if they are there; return whether they were."""
    names = parallel.by_first(lambda: shared.take(arguments.output, arguments.cost))
    if names and parallel.first():
        shutil.rmtree(work.folder, ignore_errors=True)
    return bool(names)


def finish(
    arguments: argparse.Namespace, clip: Clip, card: dict, report: Report, work: Work, cost: Cost, shared: Shared
) -> None:
    """Write the model folder with its training log, then the cost; then delete the work folder."""
    if not parallel.first():
        return
    training_log = work.folder / TRAINING_LOG  # a method that does not train writes none
    kept = [training_log] if training_log.is_file() else []
    names = save_model(arguments.output, report.clip or clip, card, extra=[*kept, *report.files])
    figures = {"trained_parameters": report.trained_parameters, "pairs": report.pairs, "steps": report.steps}
    shared.put(arguments.output, names, cost.write(arguments.cost, report.earlier, **figures))
    shutil.rmtree(work.folder, ignore_errors=True)
