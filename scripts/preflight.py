"""Estimate a study before the run: jobs by stage, disk space, hours at this device's rates, and missing inputs.

The exit status is 1 if an input is missing. On a CPU, measure a large model with a small --batch-size.
"""

import argparse
import math
import sys
from pathlib import Path

from antidote.base import command_line
from antidote.base.disk import gigabytes
from antidote.base.errors import UserError, out_of_memory
from antidote.base.files import DATA
from antidote.base.lazy import torch
from antidote.base.settings import read_mapping
from antidote.clip.folder import create_model
from antidote.clip.known import model_config
from antidote.clip.model import Clip
from antidote.study import device_memory, preflight
from antidote.study.activation_memory import CUSTOM
from antidote.study.caption_counts import asked_of_tables
from antidote.study.checks import not_run
from antidote.study.preflight import Rates, Stage
from antidote.study.study import Study
from antidote.summary.page import size
from antidote.training.recipe import TrainSettings


def run(arguments: argparse.Namespace) -> None:
    """Write the result of the script to standard output."""
    study = Study(read_mapping(arguments.file), arguments.file)
    found, faults = preflight.stages(study, arguments.results), preflight.missing(study)
    faults += preflight.too_few_pairs(study)
    faults += preflight.further_weights(study)
    counts, too_few = asked_of_tables(study, preflight.downloads(study))
    faults += too_few
    clip = _model(study, faults)
    recipe = study.file.poisoning
    recipe = recipe.model_copy(update={"batch_size": arguments.batch_size or recipe.batch_size})
    rates, source = _rates(clip, recipe, arguments.rates, faults)
    needed = preflight.disk(study, found, clip.size, rates.parameters)
    faults += preflight.too_full(needed, arguments.results)
    trainings, encodings = device_memory.trainings(study), device_memory.encodings(study)
    faults += device_memory.too_large(study, arguments.memory * 1e9 if arguments.memory else _memory(clip))
    disk = ", ".join(f"{name} {gigabytes(count)}" for name, count in needed.items() if count)
    free = ", ".join(f"{gigabytes(preflight.free(folder))} at {folder}/" for folder in (DATA, arguments.results))
    lines = [
        *_report(study, found, rates),
        f"hours of one device: {_rate(rates.trained)} pairs/s trained, {_rate(rates.encoded)} pictures/s encoded; "
        f"{source}",
        f"disk: {disk or 'nothing more'}; in all {gigabytes(sum(needed.values()))}; free {free}",
        *_largest(study, trainings | encodings),
        *_unknown(study, trainings | encodings),
        *(f"not run: {line}" for line in not_run(study)),
        *(f"to be fetched by jobs: {what}" for what in preflight.fetched(study)),
        *(f"captions: {line}" for line in counts),
        "what is there may be stale: snakemake -n tells",
        *([f"missing: {fault}" for fault in faults] or ["nothing is missing"]),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if faults:
        sys.exit(1)


def _model(study: Study, faults: list[str]) -> Clip:
    """Return the study's model; if its weights are not available, a model of the same shape to measure rates."""
    try:
        return create_model(study.file.model, 0)
    except UserError as error:
        faults.append(str(error))
        return create_model(study.file.model.model_copy(update={"pretrained": None}), 0)


def _rates(clip: Clip, recipe: TrainSettings, given: list[float] | None, faults: list[str]) -> tuple[Rates, str]:
    """Return the rates and a text about their source; NaN rates if the device is too small for a step."""
    if given:
        return Rates(*given, preflight.parameter_count(clip)), f"given; this machine: {_device(clip)}"
    try:
        return preflight.measured(clip, recipe), f"measured: {_device(clip)}, batch {recipe.batch_size}"
    except (UserError, RuntimeError, MemoryError) as error:
        where = out_of_memory(error)
        if where is None and not isinstance(error, UserError):
            raise
        reason = f"a step with batch {recipe.batch_size} needs more than {where}" if where else str(error)
        faults.append(f"device: {_device(clip)}: {reason}")
        return Rates(math.nan, math.nan, preflight.parameter_count(clip)), "not measured"


def _memory(clip: Clip) -> float:
    """Return the memory of the current GPU in bytes; infinity without a GPU."""
    return torch.cuda.get_device_properties(clip.device).total_memory if clip.device.type == "cuda" else math.inf


def _largest(study: Study, steps: dict[str, float]) -> list[str]:
    """Return a line with the largest step's estimated GPU memory, and one per kind of job; empty without steps."""
    if not steps:
        return []
    key = max(steps, key=steps.get)
    lines = [f"memory of one GPU, estimated: up to {gigabytes(steps[key])} for a step of {key}"]
    kinds: dict[str, dict[str, dict[str, None]]] = {}
    for name in sorted(steps, key=steps.get, reverse=True):
        kind, rest = _unswept(study, name)
        kinds.setdefault(kind, {}).setdefault(gigabytes(steps[name]), {})[rest] = None
    for kind, sizes in kinds.items():
        lines.append(f"  {kind}: " + "; ".join(f"{size} {', '.join(names)}".strip() for size, names in sizes.items()))
    return lines


def _unswept(study: Study, key: str) -> tuple[str, str]:
    """Return the kind of a job and the rest of its key, with the name of the sweep for that of a swept entry."""
    kind, _, rest = key.partition(".")
    for entry in study.entries.get(kind.removesuffix("s"), ()):
        if entry.sweep and f"{rest}.".startswith(f"{entry.name}."):
            return kind, entry.sweep + rest.removeprefix(entry.name)
    return kind, rest


def _unknown(study: Study, steps: dict[str, float]) -> list[str]:
    """Return a line with the jobs whose memory is not estimated, and why; empty for a study of small pictures."""
    if steps:
        return [f"  not estimated: {key} ({reason})" for key, reason in device_memory.not_estimated(study).items()]
    custom = model_config(study.file.model.name).keys() & CUSTOM
    return [f"memory of one GPU: not estimated for {study.file.model.name}, no plain CLIP"] if custom else []


def _rate(number: float) -> str:
    return "-" if math.isnan(number) else f"{number:,.0f}"


def _report(study: Study, found: list[Stage], rates: Rates) -> list[str]:
    """Return a line per stage: number of jobs, finished jobs, remaining work, and remaining hours."""
    seeds = len(study.file.seeds)
    matrix = f"{len(study.attacks)} attacks x {len(study.defenses)} defenses x {seeds} seed{'s' * (seeds > 1)}"
    lines = [f"{study.name}: {study.file.model.name}, {matrix}: {seeds * len(study.cells):,} cells", ""]
    lines.append(f"{'stage':18}{'jobs':>8}{'there':>8}{'pairs trained':>18}{'pictures encoded':>18}{'hours':>10}")
    for stage in found:
        trained, encoded = (f"{stage.left * amount:,.0f}" for amount in (stage.trained, stage.encoded))
        jobs = f"{stage.name:18}{len(stage.outputs):8,}{stage.done:8,}"
        lines.append(f"{jobs}{trained:>18}{encoded:>18}{_hours(rates.hours(stage)):>10}")
    jobs, done = (sum(count(stage) for stage in found) for count in (lambda s: len(s.outputs), lambda s: s.done))
    return [*lines, f"{'total':18}{jobs:8,}{done:8,}{_hours(sum(map(rates.hours, found))):>46}", ""]


def _hours(number: float) -> str:
    return "-" if math.isnan(number) else f"{number:,.1f}"


def _device(clip: Clip) -> str:
    if clip.device.type != "cuda":
        return f"CPU, {torch.get_num_threads()} threads"
    peak, whole = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(clip.device).total_memory
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {size(peak)} of {size(whole)} used"


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this script."""
    parser = command_line.parser(__doc__)
    parser.add_argument("file", metavar="FILE", help="study file, such as configs/paper.yaml")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all studies")
    parser.add_argument(
        "--batch-size", type=command_line.positive_count, help="pairs per measured step; default: as in the study"
    )
    rates = "pairs and pictures per second of another device, in place of what is measured here"
    parser.add_argument("--rates", type=command_line.positive, nargs=2, metavar=("TRAINED", "ENCODED"), help=rates)
    memory = "of one GPU; what a step is estimated to need more than that is listed; by default that of the GPU at hand"
    parser.add_argument("--memory", type=command_line.positive, metavar="GB", help=memory)
    return parser


if __name__ == "__main__":
    command_line.main(run, arguments())
