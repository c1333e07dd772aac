"""Results files: one JSON file per cell of a track's study, with a published JSON Schema.

Rates are fractions. A result is `measured`, by this project's code with hashes of models and code, or `reported`, with
its source.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, model_validator

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import read_json, sha256
from antidote.base.registry import method
from antidote.base.settings import Settings
from antidote.study.layout import NO_DEFENSE, Layout
from antidote.study.study import Study
from antidote.study.tracks import TrackSettings
from antidote.summary.cells import COLUMNS
from antidote.summary.costs import CostFacts
from antidote.summary.finished import Finished
from antidote.summary.origin import origin, present
from antidote.summary.persistence import read_trajectory
from antidote.summary.relations import PERSISTED, is_rate

FORMAT = 1
NAMES = ("attack", "defense", "seed")
DETECTION = ("auroc", "tpr_at_fpr1")  # figures of detectors
PER_RUN = ("seconds", "peak_memory_bytes", "peak_gpu_memory_bytes", "trained_parameters", "pairs", "steps")
ROUNDING, MEAN, STD = 1e-9, 1e-6, 1e-5  # of a rate, and of a mean and a deviation of values that were rounded


class Entry(Settings):
    """An attack, a defense or a detector."""

    name: str = Field(description="entry of the study")
    method: str = Field(description="name in the registry; of a reported result, also a method that is not in it")
    label: str = ""
    access: str = Field("", description="of a defense or detector: what it needs; of an attack: the threat model")
    reconstruction: bool = Field(False, description="the paper leaves parts open, which are built from what is known")
    settings: dict[str, Any] = {}


class Figure(Settings):
    """One figure of a cell; rates are fractions."""

    mean: float
    std: float | None = Field(None, ge=0, description="standard deviation over seeds (n - 1); null for one seed")
    seeds: dict[str, float] = Field({}, description="value by seed; empty for a reported result that gives none")

    @model_validator(mode="after")
    def _of_its_seeds(self) -> Figure:
        if self.seeds and abs(statistics.fmean(self.seeds.values()) - self.mean) > MEAN:
            raise ValueError(f"mean: {self.mean:g} is not the mean of its seeds")
        if len(self.seeds) > 1 and self.std is None:
            raise ValueError(f"std: is null, and {len(self.seeds)} seeds have a standard deviation")
        if len(self.seeds) == 1 and self.std is not None:
            raise ValueError(f"std: is {self.std:g}, and one seed has no standard deviation; should be null")
        return self


class Point(Settings):
    """One measurement while the model is adapted to clean pairs; rates are fractions, means over seeds."""

    step: int = Field(ge=0, description="optimisation steps of the adaptation; 0 is the model as delivered")
    ca1: float
    score: float = Field(description="ASR@1, or the figure in its place in an attack without ASR")


class Curve(Settings):
    """Persistence: one adaptation of the model under test, or of its control."""

    adaptation: str = Field(description="entry of the study")
    kind: str = Field(description="what is adapted: full, projection, lora or other_domain")
    pool: str = Field(description="pool of the clean pairs")
    settings: dict[str, Any] = Field({}, description="of the adaptation, all of them; empty in older files")
    model: Literal["backdoored", "clean"] = Field(description="the model under test; clean: the control")
    seeds: int = Field(ge=1, description="number of seeds behind each point")
    points: list[Point] = Field(min_length=1)
    figures: dict[str, Figure] = Field(
        {}, description="of the score: delivered, before the first step; worst, the highest; delta; area, the mean"
    )


class Detected(Settings):
    """What a detector finds in the cell: the model, its training pairs, or the pictures that it is shown."""

    detector: Entry
    subject: Literal["model", "pairs", "pictures"]
    adaptive: bool = Field(False, description="the attack is made against this detector")
    figures: dict[str, Figure] = Field(
        min_length=1,
        description="auroc; tpr_at_fpr1: true positive rate at 1 % false positives. Of a detector of models, over the "
        "models of all seeds, without values by seed",
    )


class Hashes(Settings):
    """What the figures of a measured result belong to."""

    models: dict[str, str] = Field(description="SHA-256 of the weights of the model under test, by seed")
    clean: dict[str, str] = Field({}, description="SHA-256 of the weights of the clean reference, by seed")
    code: str = Field(description="fingerprint of the code of the jobs; comments do not count. See `recorded`")
    commit: str = Field(
        "",
        description="Git commit of the checkout, `, ` between several; `+changes`: with changes that are not in it; "
        "empty outside of a checkout. See `recorded`",
    )
    recorded: bool = Field(
        False,
        description="code and commit are those with which the jobs ran; false, and in older files: those of the moment "
        "at which the file was written, which may be later; older files do not mark changes",
    )


class Source(Settings):
    """Where a result is from."""

    title: str = Field(description="title of a paper or of a log; of a measured result, the name of the study")
    url: str = ""
    place: str = Field("", description="table, figure or file")


class Result(Settings):
    """One cell: an attack, a defense, a model, and their figures within a track."""

    format: Literal[1] = Field(FORMAT, description="version of this schema")
    track: TrackSettings
    status: Literal["measured", "reported"]
    model: str
    target: str = ""
    evaluation: str = Field(description="evaluation set")
    poisoning: dict[str, Any] = Field(
        {}, description="training on the poisoned pairs and its start; empty in older files, and of few-shot attacks"
    )
    attack: Entry
    defense: Entry
    figures: dict[str, Figure] = Field(min_length=1)
    clean: dict[str, Figure] = Field(
        {}, description="of the clean reference, the model of the same recipe without poisoned pairs"
    )
    persistence: list[Curve] = Field([], description="curves of the study's adaptations; empty if none was measured")
    detections: list[Detected] = Field([], description="the study's detectors, controls among them; empty for none")
    costs: dict[str, float] = Field({}, description="one run of the defense: mean seconds, the largest of the rest")
    devices: list[str] = Field(
        [], description="processors or GPUs of the jobs behind the figures; empty in older files"
    )
    hashes: Hashes | None = None
    source: Source
    unreliable: str = Field(
        "",
        description="why the figures decide nothing: the gate, or missing seeds. That one or two seeds decide nothing "
        "without a noise floor of the track is told where the file is read",
    )
    disputed: str = Field(
        "", description="what is said to be wrong while a dispute is open: the cell counts for no claim or noise floor"
    )

    @model_validator(mode="after")
    def _known(self) -> Result:
        if self.status == "measured" and (self.hashes is None or not self.hashes.models):
            raise ValueError("hashes.models: a measured result needs the hashes of its models")
        if self.status == "reported" and not self.source.url:
            raise ValueError("source.url: a reported result needs its source")
        parts = {"figures": self.figures, "clean": self.clean}
        for key, found in (("persistence", self.persistence), ("detections", self.detections)):
            parts |= {f"{key}.{i}.figures": one.figures for i, one in enumerate(found)}
        measured = parts if self.status == "measured" else {}  # papers round
        for part, name, one in ((part, *item) for part, figures in measured.items() for item in figures.items()):
            spread = statistics.stdev(one.seeds.values()) if len(one.seeds) > 1 else one.std
            if one.std is not None and abs(spread - one.std) > STD:
                raise ValueError(f"{part}.{name}: std: {one.std:g} is not the standard deviation of its seeds (n - 1)")
        for part, figures in parts.items():
            for name in (name for name in figures if is_rate(name) or name in PERSISTED):
                low, one = -1 if name == "delta" else 0, figures[name]
                for value in (one.mean, one.std or 0, *one.seeds.values()):
                    if not low - ROUNDING <= value <= 1 + ROUNDING:
                        raise ValueError(f"{part}.{name}: {value:g} is no fraction; rates are from {low} to 1")
        return self


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a results file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Result.model_json_schema()}


def read_result(path: Path) -> Result:
    """Return the result of a file.

    Raises:
        UserError: the file cannot be read or is not valid.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold keys and values, not {type(values).__name__}")
    return Result.read(values, str(path))


def place(result: Result) -> str:
    """Return the path of a result's file below the folder of all, `{track}-{version}/{study or source}/{cell}.json`."""
    cell = safe(f"{result.attack.name}--{result.defense.name}.json")
    return f"{result.track.name}-{result.track.version}/{safe(result.source.title)}/{cell}"


def safe(text: str) -> str:
    """Return text as the name of a file: other characters than letters, digits, `_`, `.` and `-` become `-`."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in text).strip(".-") or "unnamed"


def one_file_per_cell(results: Mapping[Path, Result]) -> None:
    """Check that no two files of a folder hold the same cell.

    Raises:
        UserError: names both files.
    """
    seen: dict[tuple[str, str], Path] = {}
    for path, result in results.items():
        cell = result.attack.name, result.defense.name
        if (first := seen.setdefault(cell, path)) != path:
            raise UserError(f"{path}: {', '.join(cell)} is in {first} too; remove one of the two")


def results_of(done: Finished, results: Path) -> list[Result]:
    """Return a result per cell that was run; swept defenses with each setting.

    A cell is left out, with a warning, if the model of a seed that was scored is gone.

    Args:
        results: folder of all studies.

    Raises:
        UserError: no cell was run whose models are there.
    """
    rows = done.table[(done.table["attack"] != "clean") & (done.table["ca1_n"] > 0)]
    kept, found = Layout(results / done.study.name), []
    for _, row in rows.iterrows():
        result = _result(done, row, kept)
        found += [result] if result else []
    if not found:
        raise UserError(f"{kept.results}: no cell was run whose models are there; run the study first")
    return found


def _result(done: Finished, row: pd.Series, kept: Layout) -> Result | None:
    attack, defense = row["attack"], row["defense"]
    cells = done.cells[(done.cells["attack"] == attack) & (done.cells["defense"] == defense)]
    study, methods = done.study, (done.study.attacks[attack], done.study.defenses[defense])
    figures = _figures(cells)
    models = _models(kept, attack, defense, figures["ca1"].seeds)  # a further seed may be trained and not scored yet
    gone = sorted(set(figures["ca1"].seeds) - set(models))
    if gone:
        command_line.log.warning("%s, %s: left out: no weights of seed %s", attack, defense, ", ".join(gone))
        return None
    code = [method(kind, one.method).__module__ for kind, one in zip(("attack", "defense"), methods, strict=True)]
    ran = origin(kept, attack, defense, figures["ca1"].seeds) or present(*code)
    return Result(
        track=study.file.track,
        status="measured",
        model=study.file.model.name,
        target=study.file.target,
        evaluation=study.file.evaluation.dataset,
        poisoning={} if study.few_shot(attack) else study.poisoning(attack).model_dump(mode="json"),
        attack=_entry("attack", attack, methods[0]),
        defense=_entry("defense", defense, methods[1]),
        figures=figures,
        clean=_figures(done.cells[done.cells["attack"] == "clean"]),
        persistence=curves_of(study, done.persistence, attack, defense, kept.results),
        detections=_detections(done, attack, defense),
        costs=_costs(done.costs, attack, defense),
        devices=_devices(done.costs, attack, defense),
        hashes=Hashes(models=models, clean=_weights(kept, "clean_model", study.file.seeds), **ran),
        source=Source(title=study.name),
        unreliable=_unreliable(row, len(study.file.seeds)),
    )


def _entry(kind: str, name: str, settings: Any) -> Entry:
    known = method(kind, settings.method)
    access = known.threat_model if kind == "attack" else known.access
    own = {"name": name, "method": settings.method, "label": settings.label or "", "access": access}
    own["reconstruction"] = bool(getattr(known, "reconstruction", False))
    return Entry(**own, settings=settings.model_dump(mode="json", exclude={"method", "label"}))


def _figures(cells: pd.DataFrame) -> dict[str, Figure]:
    names = [name for name in cells.columns if name not in NAMES and not name.endswith(("_low", "_high"))]
    found = {}
    for name in [*filter(COLUMNS.__contains__, names), *sorted(set(names) - set(COLUMNS))]:
        figure = _figure(cells, name)
        found |= {name: figure} if figure else {}
    return found


def _figure(rows: pd.DataFrame, name: str) -> Figure | None:
    """Return a figure over the seeds of some rows, None without a value; a row without a seed is over all seeds."""
    values = pd.to_numeric(rows.set_index("seed")[name], errors="coerce").dropna()
    if not len(values):
        return None
    std = float(values.std()) if len(values) > 1 else None
    by_seed = {str(int(seed)): float(value) for seed, value in values.items() if pd.notna(seed)}
    return Figure(mean=float(values.mean()), std=std, seeds=by_seed)


def curves_of(study: Study, frame: pd.DataFrame | None, attack: str, defense: str, results: Path) -> list[Curve]:
    """Return the curves of a cell, by `persistence.csv`: of the model under test, and of its control."""
    if frame is None:
        return []
    mine = frame[(frame["attack"] == attack) & (frame["defense"] == defense)]
    found = []
    for (adaptation, kind, pool, model), rows in mine.groupby(["adaptation", "kind", "pool", "model"], sort=False):
        names = {"attack": attack, "defense": defense, "adaptation": adaptation}
        curves = [read_trajectory(results, model, **names, seed=int(seed)) for seed in rows["seed"]]
        points = [(point.step, point.ca1, point.score) for curve in curves if curve for point in curve.curve]
        if not points:
            continue
        frame = pd.DataFrame(points, columns=["step", "ca1", "score"]).groupby("step")
        means = [
            Point(step=int(step), ca1=float(row["ca1"]), score=float(row["score"]))
            for step, row in frame.mean().iterrows()
        ]
        counted = int(frame.size().min())
        settings = study.file.persistence.adaptations[adaptation].model_dump(mode="json")
        names = {"adaptation": adaptation, "kind": kind, "pool": pool, "settings": settings}
        names |= {"model": model, "seeds": counted}
        figures = {name: _figure(rows, name) for name in PERSISTED}
        found.append(Curve(**names, points=means, figures={name: one for name, one in figures.items() if one}))
    return found


def _detections(done: Finished, attack: str, defense: str) -> list[Detected]:
    """Return the figures of the detectors that were run on a cell, in the order of the study."""
    if done.detections is None:
        return []
    mine = done.detections[(done.detections["attack"] == attack) & (done.detections["defense"] == defense)]
    found = []
    for name, settings in done.study.detectors.items():
        rows = mine[mine["detector"] == name]
        figures = {figure: _figure(rows, figure) for figure in DETECTION}
        figures = {figure: value for figure, value in figures.items() if value}
        if figures:
            one = _entry("detector", name, settings)
            subject, adaptive = rows["subject"].iloc[0], bool(rows["adaptive"].iloc[0])
            found.append(Detected(detector=one, subject=subject, adaptive=adaptive, figures=figures))
    return found


def _costs(costs: pd.DataFrame, attack: str, defense: str) -> dict[str, float]:
    mine = costs[(costs["stage"] == "defend") & (costs["attack"] == attack) & (costs["defense"] == defense)]
    found = {}
    for name in (name for name in PER_RUN if name in CostFacts.model_fields and name in mine):
        values = pd.to_numeric(mine[name], errors="coerce").dropna()
        if len(values):
            found[name] = float(values.mean() if name == "seconds" else values.max())
    return found


def _devices(costs: pd.DataFrame, attack: str, defense: str) -> list[str]:
    """Return the devices of the jobs behind a cell's figures, those of the clean reference among them."""
    if "device" not in costs:  # a summary of an earlier version
        return []
    mine = costs["attack"].isin([attack, "clean"]) & costs["defense"].isin([None, NO_DEFENSE, defense])
    return sorted(costs["device"][mine].dropna().unique())


def _models(kept: Layout, attack: str, defense: str, seeds: Iterable[str]) -> dict[str, str]:
    """Return the hash of the weights by seed; of an undefended cell, those of the backdoored model."""
    stage = "backdoored_model" if defense == NO_DEFENSE else "defend"
    names = {"attack": attack} if defense == NO_DEFENSE else {"attack": attack, "defense": defense}
    return _weights(kept, stage, seeds, **names)


def _weights(kept: Layout, stage: str, seeds: Iterable[int | str], **names: str) -> dict[str, str]:
    """Return the hash of the weights of a stage by seed; seeds without weights are left out."""
    paths = {str(seed): kept.path(stage, "weights", **names, seed=seed) for seed in seeds}
    return {seed: sha256(path) for seed, path in paths.items() if path.is_file()}


def _unreliable(row: pd.Series, planned: int) -> str:
    """Return why a cell decides nothing, as far as its own study tells: the gate, or missing seeds."""
    reasons = [] if row["gate"] == "passed" else [f"gate: {row['gate_reason']}"]
    if row["ca1_n"] < planned:
        reasons.append(f"{int(row['ca1_n'])} of {planned} seeds")
    return "; ".join(reasons)
