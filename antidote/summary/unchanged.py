"""Whether what was measured belongs to a study as its file is now: entries, seeds, and the settings of its jobs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.clip.files import STARTED_FROM_FOLDER
from antidote.study.data_jobs import matrix
from antidote.study.layout import DETECTIONS, NO_DEFENSE, Layout
from antidote.study.slices import adaptation_slice, backdoor_slice, training_slice, victim_slice
from antidote.study.study import Study
from antidote.study.tracks import MACHINE
from antidote.summary.csv_files import read_frame
from antidote.summary.persistence import WORST


def changed(now: Mapping[str, Any], then: Mapping[str, Any], free: Collection[str] = ()) -> tuple[str, Any, Any] | None:
    """Return the first setting that differs, as key, present value and former value; None if all agree.

    A setting that only one side knows came or went since, and does not count.

    Args:
        free: keys that may differ, at any depth.
    """
    for key in sorted((now.keys() & then.keys()) - set(free)):
        mine, theirs = now[key], then[key]
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            if inner := changed(mine, theirs, free):
                return f"{key}.{inner[0]}", inner[1], inner[2]
        elif mine != theirs:
            return key, mine, theirs
    return None


def other_experiment(now: Mapping[str, Any], then: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Return the first setting by which two results are of two experiments, as `changed` does.

    How a machine computed a training does not count: a track leaves these keys free. `check_cell` counts them, since a
    changed key runs the jobs of the study again.
    """
    return changed(now, then, free=MACHINE)


def check_cell(study: Study, kept: Layout, attack: str, defense: str) -> None:
    """Refuse a cell whose models or triggers were made with other settings than their jobs would get now.

    Raises:
        UserError: names the file, the setting and both values.
    """
    settings = study.attacks[attack]
    if study.few_shot(attack):
        model = json.loads(victim_slice(settings))
    else:  # the slice leaves out an `alternate` that is off, which the card has
        model = {"alternate": False, **json.loads(backdoor_slice(study, attack))}
    for seed in study.file.seeds:
        job = {"attack": attack, "seed": seed}
        card = kept.path("backdoored_model", "card", **job)
        _check(card, study, model)
        _check(card, study, settings.poison_settings(), "poisoned_with")
        if not study.few_shot(attack):
            _check_start(card, study, attack)
        _check(kept.path("trigger", "description", **job), study, settings.trigger_settings())
        if defense != NO_DEFENSE:
            _check(kept.path("defend", "card", **job, defense=defense), study, _dump(study.defenses[defense]))


def check_cells(study: Study, kept: Layout, cells: pd.DataFrame) -> None:
    """Refuse a summary that was made before entries, seeds or settings of the study changed; without its detections.

    Adaptations count with all their measurements.

    Args:
        cells: the summary's cells.csv, a row per cell and seed. Settings of an attack and a defense count where a cell
            was scored, those of the clean models always.

    Raises:
        UserError: names the summary, the study file and a cell that is in one of them only; or the file of a model or
            trigger, the setting and both values.
    """
    _check_names(study, cells, kept.path("summary", "cells"))
    _check_clean(study, kept)
    scored = cells[cells["ca1"].notna() & (cells["attack"] != "clean")]
    for attack, defense in scored[["attack", "defense"]].drop_duplicates().itertuples(index=False):
        check_cell(study, kept, attack, defense)
    for stage in ("persistence", "persistence_clean"):
        for names in matrix(study).jobs(stage):
            now = json.loads(adaptation_slice(study, names["adaptation"]))
            _check(kept.path(stage, "curve", **names), study, now)


def check_persistence(study: Study, frame: pd.DataFrame, path: Path) -> None:
    """Refuse a summary with adaptations that the study does not measure now.

    Args:
        frame: content of `path`, the summary's persistence.csv.

    Raises:
        UserError: names the summary, the study file and what is only in the summary.
    """
    _check_left(study, frame[["attack", "defense", "adaptation"]], set(study.adapted), path)


def check_detections(study: Study, kept: Layout) -> None:
    """Refuse detections by detectors that had other settings than the study has now, or another name.

    Raises:
        UserError: names the file, the setting and both values; or the summary and a detector that the study has not.
    """
    jobs = matrix(study)
    for stage in ("detect", "detect_clean", "detect_population"):
        for names in jobs.jobs(stage):
            _check(kept.path(stage, "detection", **names), study, _dump(study.detectors[names["detector"]]))
    path = kept.path("summary") / DETECTIONS["detections"]
    if study.detectors and path.is_file():
        there = read_frame(path, ("detector",))["detector"].dropna()
        if left := sorted(set(there.astype(str)) - study.detectors.keys()):
            raise UserError(
                f"{path}: is a summary of another state of {study.where}: the detector {left[0]} is only in {path}, "
                f"not in {study.where}; run the study again"
            )


def _check_clean(study: Study, kept: Layout) -> None:
    """Refuse clean references and surrogates that were trained in another way than their jobs would now."""
    clean = json.loads(training_slice(study.file.model, study.file.pretraining))
    for seed in study.file.seeds:
        _check(kept.path("clean_model", "card", seed=seed), study, clean)
        for name, one in study.file.surrogates.items():
            now = json.loads(training_slice(one.model, one.pretraining))
            _check(kept.path("surrogate_model", "card", surrogate=name, seed=seed), study, now)


def _check_names(study: Study, cells: pd.DataFrame, path: Path) -> None:
    """Refuse other entries or seeds than those of the study."""
    file = study.where
    seeds = study.file.seeds
    wanted = {("clean", "none", seed) for seed in seeds}
    wanted |= {(attack, defense, seed) for attack in study.attacks for defense in study.defenses for seed in seeds}
    there = set(zip(cells["attack"], cells["defense"], cells["seed"].astype(int), strict=True))
    if different := sorted(wanted ^ there):
        attack, defense, seed = different[0]
        where, other = (file, path) if different[0] in wanted else (path, file)
        raise UserError(
            f"{path}: is a summary of another state of {file}: {attack}, {defense}, seed {seed} is only in {where}, "
            f"not in {other}; run the study again, or name its seeds in the file"
        )
    if WORST in cells:
        adapted = cells.loc[cells[WORST].notna(), ["attack", "defense"]]
        _check_left(study, adapted, {(attack, defense) for attack, defense, _ in study.adapted}, path)


def _check_left(study: Study, names: pd.DataFrame, wanted: set[tuple[str, ...]], path: Path) -> None:
    """Refuse a summary that has persistence of more than the study measures now; an earlier one may have less."""
    if left := sorted(set(names.itertuples(index=False, name=None)) - wanted):
        raise UserError(
            f"{path}: is a summary of another state of {study.where}: persistence of {', '.join(left[0])} is only in "
            f"{path}, not in {study.where}; run the study again"
        )


def _dump(settings: Any) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude={"label"})


def _check_start(card: Path, study: Study, attack: str) -> None:
    """Compare where the training on the poisoned pairs starts, of which the card says what the weights are from."""
    if origin := _told(card).get("started_from"):
        then = {"poisoning.start": "clean" if origin == STARTED_FROM_FOLDER else "model"}
        _compare(card, study, {"poisoning.start": study.poisoning(attack).start}, then)


def _check(file: Path, study: Study, now: dict[str, Any], key: str = "settings") -> None:
    """Compare with the settings in a card, a trigger's description, a curve or a detection."""
    then = _told(file).get(key)
    if isinstance(then, dict):
        _compare(file, study, now, then)


def _compare(file: Path, study: Study, now: dict[str, Any], then: dict[str, Any]) -> None:
    if other := changed(now, then):
        key, mine, theirs = other
        raise UserError(f"{file}: was made with {key}: {theirs}, and {study.where} has {mine}; run the study again")


def _told(file: Path) -> dict[str, Any]:
    """Return the content of a file; one that is gone says nothing."""
    found = read_json(file) if file.is_file() else None
    return found if isinstance(found, dict) else {}
