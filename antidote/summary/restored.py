"""A finished study from its results files: tables and claims without the runs themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from antidote.base.errors import UserError
from antidote.base.settings import Settings, read_mapping
from antidote.study.layout import NO_DEFENSE
from antidote.study.slices import summary_plan
from antidote.study.study import Study
from antidote.study.tracks import tracks
from antidote.summary.cells import COLUMNS
from antidote.summary.exchange import DETECTION, PER_RUN, Figure, Result, one_file_per_cell, read_result
from antidote.summary.finished import Finished
from antidote.summary.plan import SummarySettings
from antidote.summary.relations import PERSISTED
from antidote.summary.tables import summarise
from antidote.summary.unchanged import other_experiment


def restored(file: Path, leaderboard: Path) -> Finished:
    """Return a study as its measured results files have it; arguments and errors are those of `measured`."""
    return finished(*measured(file, leaderboard))


def measured(file: Path, leaderboard: Path) -> tuple[Study, list[Result]]:
    """Return a study and its measured results, in the order of their files.

    Args:
        file: the study.
        leaderboard: folder of the results files, {track}-{version}/{study}/.

    Raises:
        UserError: the study is not valid or names no track; no file of the study; a file that is not valid, of another
            entry or seed, or measured with other settings than the study has now.
    """
    study = Study(read_mapping(str(file)), str(file))
    if study.file.track is None:
        raise UserError(f"{file}: track: is missing; results are compared within a track")
    folder = leaderboard / f"{study.file.track.name}-{study.file.track.version}" / study.name
    read = {path: read_result(path) for path in sorted(folder.glob("*.json"))}
    found = {path: result for path, result in read.items() if result.status == "measured"}
    one_file_per_cell(found)
    if not found:
        raise UserError(
            f"{folder}: holds no measured results file; "
            f"`python -m scripts.results write {file}` writes them after a run"
        )
    for path, result in found.items():
        _same(study, file, path, result)
    _same_clean_models(found)
    return study, list(found.values())


def finished(study: Study, results: list[Result]) -> Finished:
    """Return a study as its measured results have it; cells without a result, and disputed ones, are empty."""
    disputed = frozenset((one.attack.name, one.defense.name) for one in results if one.disputed)
    results = [one for one in results if not one.disputed]
    plan = SummarySettings.read(read_mapping(summary_plan(study)), "the study")
    cells = _cells(study, results)
    return Finished(
        study,
        cells,
        table=summarise(cells, plan),
        costs=_costs(results),
        detections=_detections(results) if study.detectors else None,
        persistence=_persistence(results) if study.file.persistence else None,
        noise=tracks()[study.file.track.name].noise.get(study.file.model.name),
        swept={entry.name: entry.sweep for entry in study.entries["defense"]},
        disputed=disputed,
    )


def _same(study: Study, file: Path, path: Path, result: Result) -> None:
    """Refuse a result that the study, as it is now, would not measure."""
    setup = study.file
    for what, then, now in (
        ("track", result.track, setup.track),
        ("model", result.model, setup.model.name),
        ("target", result.target, setup.target),
        ("evaluation", result.evaluation, setup.evaluation.dataset),
    ):
        if then != now:
            raise UserError(
                f"{path}: {what}: is {then}, and {file} has {now}; run the study and write its results anew"
            )
    for kind, entry, known in (
        ("attack", result.attack, study.attacks),
        ("defense", result.defense, study.defenses),
    ):
        if entry.name not in known:
            raise UserError(f"{path}: {kind} {entry.name}: {file} has no such entry; remove the file or run the study")
        _same_settings(known[entry.name], entry.settings, f"{path}: {kind} {entry.name}", file)
    if not study.few_shot(result.attack.name):
        _same_settings(study.poisoning(result.attack.name), result.poisoning, f"{path}: poisoning", file)
    parts = {"persistence": {one.adaptation: {"kind": one.kind, **one.settings} for one in result.persistence}}
    parts["detector"] = {one.detector.name: one.detector.settings for one in result.detections}
    measured = {"persistence": setup.persistence.adaptations if setup.persistence else {}, "detector": study.detectors}
    for kind, found in parts.items():
        for name, settings in found.items():
            if name in measured[kind]:
                _same_settings(measured[kind][name], settings, f"{path}: {kind} {name}", file)
    seeds = {seed for figure in result.figures.values() for seed in figure.seeds}
    if other := sorted(seeds - {str(seed) for seed in study.file.seeds}):
        raise UserError(f"{path}: seed {other[0]}: {file} has only {', '.join(map(str, study.file.seeds))}")


def _same_clean_models(found: dict[Path, Result]) -> None:
    """Refuse results with another clean reference: floors and fitted triggers depend on it; old files name none."""
    seen: dict[str, tuple[str, Path]] = {}
    for path, result in found.items():
        for seed, weights in result.hashes.clean.items():
            first, where = seen.setdefault(seed, (weights, path))
            if weights != first:
                raise UserError(
                    f"{path}: hashes.clean: the clean reference of seed {seed} is another than in {where}; run the "
                    "study and write its results anew"
                )


def _same_settings(settings: Settings, then: dict[str, Any], place: str, file: Path) -> None:
    """Refuse another value of a setting; a setting that only one side knows came or went since."""
    if other := other_experiment(settings.model_dump(mode="json", exclude={"method", "label"}), then):
        key, now, then = other
        raise UserError(
            f"{place}: was measured with {key}: {then}, and {file} has {now}; run the study and write its results anew"
        )


def _cells(study: Study, results: list[Result]) -> pd.DataFrame:
    """Return one row per cell and seed, `clean, none` first; cells without a results file hold NaN."""
    known = {(result.attack.name, result.defense.name): result.figures for result in results}
    known["clean", NO_DEFENSE] = next((result.clean for result in results if result.clean), {})
    names = [("clean", NO_DEFENSE), *((attack, defense) for attack in study.attacks for defense in study.defenses)]
    rows = []
    for attack, defense in names:
        figures = known.get((attack, defense), {})
        for seed in study.file.seeds:
            row = {"attack": attack, "defense": defense, "seed": seed}
            rows.append(row | {name: figure.seeds.get(str(seed)) for name, figure in figures.items()})
    extra = sorted({name for row in rows for name in row} - set(COLUMNS))
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *extra])
    return frame.astype(dict.fromkeys([*COLUMNS[3:], *extra], float))


def _costs(results: list[Result]) -> pd.DataFrame:
    rows = [{"stage": "defend", **_names(result), **result.costs} for result in results if result.costs]
    return pd.DataFrame(rows, columns=["stage", "attack", "defense", *PER_RUN])


def _persistence(results: list[Result]) -> pd.DataFrame:
    """Return a row per cell, adaptation, model and seed."""
    rows = []
    for result in results:
        for curve in result.persistence:
            names = {"adaptation": curve.adaptation, "kind": curve.kind, "pool": curve.pool, "model": curve.model}
            rows += [{**_names(result), **names, **row} for row in _by_seed(curve.figures)]
    columns = ["attack", "defense", "adaptation", "kind", "pool", "model", "seed", *PERSISTED]
    return pd.DataFrame(rows, columns=columns).astype({"seed": float})


def _detections(results: list[Result]) -> pd.DataFrame:
    """Return a row per detector, cell and seed; a detector of models has one row without a seed."""
    rows = []
    for result in results:
        for one in result.detections:
            names = {"detector": one.detector.name, "subject": one.subject, "adaptive": one.adaptive}
            rows += [{**_names(result), **names, **row} for row in _by_seed(one.figures)]
    columns = ["attack", "defense", "detector", "seed", "subject", "adaptive", *DETECTION]
    return pd.DataFrame(rows, columns=columns).astype({"seed": float})


def _names(result: Result) -> dict[str, str]:
    return {"attack": result.attack.name, "defense": result.defense.name}


def _by_seed(figures: dict[str, Figure]) -> list[dict[str, Any]]:
    """Return a row per seed; of figures over all seeds, one row without a seed."""
    seeds = sorted({int(seed) for figure in figures.values() for seed in figure.seeds})
    rows = [{"seed": seed} | {name: one.seeds.get(str(seed)) for name, one in figures.items()} for seed in seeds]
    return rows or [{"seed": None} | {name: one.mean for name, one in figures.items()}]
