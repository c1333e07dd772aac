"""Say what a study will take before it starts: jobs by stage, disk, hours at this device's rates, and what is missing.

Ends with status 1 where something is missing. On a CPU, measure a large model with a small --batch-size.
"""

import argparse
import sys
from pathlib import Path

from antidote import cli, preflight
from antidote.errors import UserError
from antidote.lazy import torch
from antidote.models import Clip, create
from antidote.preflight import Rates, Stage
from antidote.settings import read_mapping
from antidote.study import Study
from antidote.summary.page import size


def run(arguments: argparse.Namespace) -> None:
    """Write to standard output: this text is the script's result."""
    study = Study(read_mapping(arguments.file), arguments.file)
    found, faults = preflight.stages(study, arguments.results), preflight.missing(study)
    faults += preflight.further_weights(study)
    clip = _model(study, faults)
    recipe = study.file.poisoning
    recipe = recipe.model_copy(update={"batch_size": arguments.batch_size or recipe.batch_size})
    rates = preflight.measured(clip, recipe)
    if arguments.rates:
        rates = Rates(*arguments.rates, rates.parameters)
    needed, free = preflight.disk(study, found, clip.size, rates.parameters), preflight.free(arguments.results)
    if (total := sum(needed.values())) > free:
        faults.append(f"disk: {size(total)} are needed, {size(free)} are free")
    source = "given" if arguments.rates else f"measured: {_device(clip)}, batch {recipe.batch_size}"
    disk = ", ".join(f"{name} {size(count)}" for name, count in needed.items())
    lines = [
        *_report(study, found, rates),
        f"hours of one device: {rates.trained:,.0f} pairs/s trained, {rates.encoded:,.0f} pictures/s encoded; {source}",
        f"disk: {disk}; free {size(free)}",
        "what is there may be stale: snakemake -n tells",
        *([f"missing: {fault}" for fault in faults] or ["nothing is missing"]),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if faults:
        sys.exit(1)


def _model(study: Study, faults: list[str]) -> Clip:
    """Return the study's model; where its weights cannot be had, one of the same shape, for its rates."""
    try:
        return create(study.file.model, 0)
    except UserError as error:
        faults.append(str(error))
        return create(study.file.model.model_copy(update={"pretrained": None}), 0)


def _report(study: Study, found: list[Stage], rates: Rates) -> list[str]:
    """Return a line per stage: how many jobs, how many of them are there, what is left to do and how long it takes."""
    seeds = len(study.file.seeds)
    matrix = f"{len(study.attacks)} attacks x {len(study.defenses)} defenses x {seeds} seed{'s' * (seeds > 1)}"
    lines = [f"{study.name}: {study.file.model.name}, {matrix}: {seeds * len(study.cells):,} cells", ""]
    lines.append(f"{'stage':18}{'jobs':>8}{'there':>8}{'pairs trained':>18}{'pictures encoded':>18}{'hours':>10}")
    for stage in found:
        trained, encoded = (f"{stage.left * amount:,.0f}" for amount in (stage.trained, stage.encoded))
        jobs = f"{stage.name:18}{len(stage.outputs):8,}{stage.done:8,}"
        lines.append(f"{jobs}{trained:>18}{encoded:>18}{rates.hours(stage):10,.1f}")
    jobs, done = (sum(count(stage) for stage in found) for count in (lambda s: len(s.outputs), lambda s: s.done))
    return [*lines, f"{'total':18}{jobs:8,}{done:8,}{sum(map(rates.hours, found)):46,.1f}", ""]


def _device(clip: Clip) -> str:
    if clip.device.type != "cuda":
        return f"CPU, {torch.get_num_threads()} threads"
    peak, whole = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(clip.device).total_memory
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {size(peak)} of {size(whole)} used"


if __name__ == "__main__":
    parser = cli.parser(__doc__)
    parser.add_argument("file", metavar="FILE", help="study file, such as configs/paper.yaml")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all studies")
    parser.add_argument("--batch-size", type=int, help="pairs per step while measuring; the study's own by default")
    rates = "pairs and pictures per second of another device, in place of what is measured here"
    parser.add_argument("--rates", type=float, nargs=2, metavar=("TRAINED", "ENCODED"), help=rates)
    cli.main(run, parser)
