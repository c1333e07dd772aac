"""Checks of a results file beyond its schema: the track's recipe, and what every measured result has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from antidote.base.errors import UserError, nearest
from antidote.base.registry import KINDS
from antidote.study.tracks import Track
from antidote.summary.exchange import Result
from antidote.summary.relations import CELLS, is_rate

LIKE_RATE = re.compile(r"(acc|asr|ca|pa)\d*(_.*)?")  # a figure of such a name that is no rate is a slip
OF_TRIGGER = re.compile(r"floor(_.*)?|psnr|ssim")  # measured on the clean model, also where a seed has no scores yet
SEED = re.compile(r"0|[1-9]\d*")


def check_result(result: Result, track: Track, where: str) -> None:
    """Check a result against its track and, if it is measured, for what the project's own runs always have.

    Args:
        where: name of the file, for messages.

    Raises:
        UserError: names the key, the fault, and what would be right.
    """
    faults = [_costs(result)]
    if result.track.version == track.version:
        faults.append(_recipe(result, track))
    if result.status == "measured":
        faults += [_figures(result), _methods(result), _curves(result)]
    for fault in chain(*faults):
        raise UserError(f"{where}: {fault}")


def _recipe(result: Result, track: Track) -> Iterator[str]:
    """Yield values that the track does not allow; a reported result may leave the target out."""
    values = {
        "target": ("target", result.target),
        "model": ("model.name", result.model),
        "evaluation": ("evaluation.dataset", result.evaluation),
    }
    if result.status == "reported" and not result.target:
        del values["target"]
    for key, (fixed, value) in values.items():
        allowed = track.fixes.get(fixed, [value])
        if value not in allowed:
            yield f"{key}: the track {result.track} has {' or '.join(map(repr, allowed))}, not {value!r}"


def _figures(result: Result) -> Iterator[str]:
    """Yield figures that a run of the project cannot have."""
    if "ca1" not in result.figures:
        yield "figures.ca1: is missing; every measured result has it"
    for part, figures in {"figures": result.figures, "clean": result.clean}.items():
        hashes = result.hashes.models if part == "figures" else result.hashes.clean
        key = "hashes.models" if part == "figures" else "hashes.clean"
        for name, figure in figures.items():
            where = f"{part}.{name}"
            if LIKE_RATE.fullmatch(name) and not is_rate(name):
                yield f"{where}: unknown figure; rates are {', '.join(CELLS)}, and asr1_NAME of a further set"
            if not figure.seeds:
                yield f"{where}.seeds: is empty; a measured figure has its value by seed"
            for seed in figure.seeds:
                if not SEED.fullmatch(seed):
                    yield f"{where}.seeds: {seed!r} is no seed; should be a whole number"
                needed = not OF_TRIGGER.fullmatch(name) if part == "figures" else bool(hashes)  # older files: none
                if seed not in hashes and needed:
                    yield f"{key}: has no hash for seed {seed} of {where}, only for {', '.join(hashes)}"
    for seed in result.hashes.models:
        if "ca1" in result.figures and seed not in result.figures["ca1"].seeds:
            yield f"hashes.models: seed {seed} has no value in figures.ca1.seeds"


def _methods(result: Result) -> Iterator[str]:
    """Yield methods that the registry does not have."""
    detectors = [("detector", f"detections.{i}.detector", one.detector) for i, one in enumerate(result.detections)]
    named = [("attack", "attack", result.attack), ("defense", "defense", result.defense), *detectors]
    for kind, key, entry in named:
        if entry.method not in KINDS[kind]:
            yield f"{key}.method: unknown {kind} {entry.method!r}{nearest(entry.method, KINDS[kind])}"


def _curves(result: Result) -> Iterator[str]:
    """Yield points of persistence that are no fractions or out of order, and seeds without a model."""
    for i, curve in enumerate(result.persistence):
        where, models = f"persistence.{i}", len(result.hashes.models)
        if curve.seeds > models:
            yield f"{where}.seeds: {curve.seeds} is more than the {models} of hashes.models"
        for j, point in enumerate(curve.points):
            for name in ("ca1", "score"):
                value = getattr(point, name)
                if not 0 <= value <= 1:
                    yield f"{where}.points.{j}.{name}: {value:g} is no fraction; rates are from 0 to 1"
        steps = [point.step for point in curve.points]
        if steps != sorted(set(steps)):
            yield f"{where}.points: steps should rise from point to point"


def _costs(result: Result) -> Iterator[str]:
    """Yield costs that are negative."""
    for name, value in result.costs.items():
        if value < 0:
            yield f"costs.{name}: {value:g} should be 0 or more"
