"""The paths of all results: one row per stage, with its folder, files and log.

A stage consists of a rule, a script and a row in `STAGES`. The rules take outputs and logs from the row.
Reserved names, leftovers, costs, preflight and the summary's inputs are derived from the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from antidote.attacks.trigger_files import DESCRIPTION, TENSORS
from antidote.base.files import DATA
from antidote.clip import files as clip
from antidote.data.overlay_files import MANIFEST, TAR

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # name of a study, an attack, a defense or a surrogate
NO_DEFENSE = "none"
SEED = "seed{seed}"
CLEAN, ATTACK = f"clean/{SEED}", f"{{attack}}/{SEED}"
CELL = f"{ATTACK}/{{defense}}"
LOGS, WORK, DETECT, ADAPTED = "logs", "work", "detect", "persistence"
DRAWN = "drawn"
COST = {"cost": "cost.json"}
ADAPTATION = {"curve": "{adaptation}.json", "cost": "{adaptation}.cost.json"}
DETECTION = {"detection": "detection.json", "scores": "scores.parquet", **COST}
MODEL = {
    "weights": clip.WEIGHTS, "config": clip.CONFIG, "card": clip.CARD, "log": clip.TRAINING_LOG,
    "adapter": clip.ADAPTER, "adapter_weights": clip.ADAPTER_WEIGHTS, **COST,
}  # fmt: skip
SUMMARY = {
    "cells": "cells.csv", "costs": "costs.csv", "table": "table.csv", "metrics": "metrics.json", "markdown": "table.md",
    "heatmap": "heatmap.png", "plane": "plane.png", "curves": "curves.png",
    "gallery": "gallery.png", "page": "report.html",
}  # fmt: skip
PERSISTENCE = {"persistence": "persistence.csv", "persistence_plot": "persistence.png"}
DETECTIONS = {"detections": "detections.csv", "detection": "detection.png", "roc": "roc.png"}
PUBLISHED = DATA / "published.yaml"  # figures of papers, beside a study's own
UNREAD = ("card", "log", "counts", "examples", "cost")  # keys of files that no later job reads


@dataclass(frozen=True)
class Stage:
    """One row of the table. Names in braces are the wildcards of the stage's rule.

    Attributes:
        folder: path below the study's folder, or below `data` if all studies share the stage.
        files: file names by the rule's output key. The first file marks the job as done; `cost` holds the job's cost.
        name: name of the log; default: the folder, with - for /.
        shared: whether the folder is in `data`.
        work: folder of the checkpoints from which a killed job resumes; empty: none.
        spent: name of the stage in costs.csv; default: the key in `STAGES`.
        title: name of the stage in the table of preflight; empty: not listed, since the stage takes seconds.
        summarised: key of the file that the summary reads; empty: no file.
        undefended: whether the stage also runs for cells without a defense.
        control: whether the stage runs on the clean reference, as a control of persistence.
    """

    folder: str
    files: Mapping[str, str]
    name: str = ""
    shared: bool = False
    work: str = ""
    spent: str = ""
    title: str = ""
    summarised: str = ""
    undefended: bool = True
    control: bool = False

    @property
    def wildcards(self) -> tuple[str, ...]:
        """Return the names in braces of the folder and the first file."""
        return _gaps(f"{self.folder}/{next(iter(self.files.values()))}")


STAGES: dict[str, Stage] = {
    "download": Stage("{dataset}/{split}",
                      {"report": "download.json", "ids": "ids.parquet", "cost": "download.cost.json"},
                      "{dataset}-{split}-download", shared=True, work="downloads/{dataset}/{split}"),
    "dataset": Stage("{dataset}/{split}", {"manifest": "manifest.json", "index": "index.parquet", **COST},
                     shared=True, title="data"),
    "pool": Stage("pools", {"pool": "{pool}.parquet", "counts": "{pool}.json", "cost": "{pool}.cost.json"},
                  "pool-{pool}", spent="pools"),
    "clean_model": Stage(f"{CLEAN}/model", MODEL, work=f"clean-{SEED}", spent="pretrain", title="clean model"),
    "surrogate_model": Stage(f"surrogates/{{surrogate}}/{SEED}/model", MODEL, f"surrogate-{{surrogate}}-{SEED}-model",
                             work=f"surrogate-{{surrogate}}-{SEED}", spent="pretrain", title="surrogate models"),
    "trigger": Stage(f"{ATTACK}/trigger", {"description": DESCRIPTION, "tensors": TENSORS, **COST}, title="triggers",
                     summarised="description"),
    "poison": Stage(f"{ATTACK}/poison", {"manifest": MANIFEST, "tar": TAR, **COST}, title="poisoned pairs"),
    "backdoored_model": Stage(f"{ATTACK}/model", MODEL, work=f"{{attack}}-{SEED}", spent="backdoor",
                              title="backdoored models"),
    "defend": Stage(f"{CELL}/model", MODEL, work=f"{{attack}}-{SEED}-{{defense}}", title="defended models",
                    undefended=False),
    # A further output of some jobs of `defend`, in the model folder.
    "finding": Stage(f"{CELL}/model", {"suspicious": clip.SUSPICIOUS}, spent="defend", undefended=False),
    "pictures": Stage("{dataset}/{split}",
                      {"array": "pictures-{fit}.npy", "description": "pictures-{fit}.json",
                       "cost": "pictures-{fit}.cost.json"}, "{dataset}-{split}-pictures-{fit}", shared=True),
    "evaluate_clean": Stage(f"{CLEAN}/{NO_DEFENSE}", {"scores": "scores.json", **COST}, f"clean-{SEED}-scores",
                            spent="evaluate", summarised="scores"),
    "evaluate": Stage(CELL, {"scores": "scores.json", **COST}, f"{{attack}}-{SEED}-{{defense}}-scores", title="scores",
                      summarised="scores"),
    "floor": Stage(f"{ATTACK}/floor", {"scores": "scores.json", "examples": "examples.png", **COST},
                   summarised="scores"),
    # Controls of persistence: the clean reference under a defense, and the same adaptations of the clean models.
    "defend_clean": Stage(f"{CLEAN}/{{defense}}/model", MODEL, work=f"clean-{SEED}-{{defense}}",
                          title="defended clean models", undefended=False, control=True),
    "persistence": Stage(f"{CELL}/{ADAPTED}", ADAPTATION, f"{{attack}}-{SEED}-{{defense}}-{ADAPTED}-{{adaptation}}",
                         work=f"{{attack}}-{SEED}-{{defense}}-{ADAPTED}-{{adaptation}}", title="persistence",
                         summarised="curve"),
    "persistence_clean": Stage(f"{CELL}/{ADAPTED}/clean", ADAPTATION,
                               f"{{attack}}-{SEED}-{{defense}}-control-{{adaptation}}",
                               work=f"{{attack}}-{SEED}-{{defense}}-control-{{adaptation}}",
                               title="persistence, clean models", summarised="curve", control=True),
    "detect_clean": Stage(f"{CLEAN}/{NO_DEFENSE}/{DETECT}/{{detector}}", DETECTION, f"clean-{SEED}-detect-{{detector}}",
                          work=f"clean-{SEED}-detect-{{detector}}", spent="detect", summarised="detection"),
    "detect_population": Stage(f"surrogates/{{surrogate}}/{SEED}/{DETECT}/{{detector}}", DETECTION,
                               f"surrogate-{{surrogate}}-{SEED}-detect-{{detector}}",
                               work=f"surrogate-{{surrogate}}-{SEED}-detect-{{detector}}", spent="detect",
                               title="detections, population", summarised="detection"),
    "detect": Stage(f"{CELL}/{DETECT}/{{detector}}", DETECTION, f"{{attack}}-{SEED}-{{defense}}-detect-{{detector}}",
                    work=f"{{attack}}-{SEED}-{{defense}}-detect-{{detector}}", title="detections",
                    summarised="detection"),
    # Its work folder holds triggered pictures that the cells of an attack and seed share; useless once all are scored.
    "summary": Stage("summary", SUMMARY, work=DRAWN),
    # Further outputs of the summary if the study measures persistence, or has detectors.
    "persistences": Stage("summary", PERSISTENCE, "persistences"),
    "detections": Stage("summary", DETECTIONS, "detections"),
}  # fmt: skip


COSTLY = {name: stage.spent or name for name, stage in STAGES.items() if "cost" in stage.files}  # and name in costs.csv


def _folders() -> Iterator[tuple[str, str]]:
    """Yield (pattern of the parent, name) of every folder of a study whose name the layout fixes."""
    yield from (("", name) for name in (LOGS, WORK))
    for stage in STAGES.values():
        parts = [] if stage.shared else stage.folder.split("/")
        yield from (("/".join(parts[:depth]), part) for depth, part in enumerate(parts) if "{" not in part)


def fixed(above: str) -> set[str]:
    """Return the fixed names of subfolders of `above`, the pattern of a folder; "": of the study's own folder."""
    return {name for parent, name in _folders() if parent == above}


# No entry of a study may have these names: the results would mix with the results of a stage.
RESERVED = frozenset(name for _, name in _folders()) - {NO_DEFENSE}


@dataclass(frozen=True)
class Layout:
    """The paths of one study.

    Attributes:
        results: the study's folder.
        data: the folder of the datasets.
    """

    results: Path
    data: Path = Path("data")

    def root(self, stage: str) -> Path:
        """Return the parent folder of a stage's folder pattern."""
        return self.data if STAGES[stage].shared else self.results

    def pattern(self, stage: str, file: str = "") -> str:
        """Return the pattern of a stage's folder, or of the file with the key `file`, with the rule's wildcards."""
        known = STAGES[stage]
        return "/".join([str(self.root(stage)), known.folder, *([known.files[file]] if file else [])])

    def path(self, stage: str, file: str = "", **names: Any) -> Path:
        """Return the folder of one job, or the file with the key `file`; `names` are the values of the wildcards."""
        known = STAGES[stage]
        return self.root(stage) / "/".join([known.folder, *([known.files[file]] if file else [])]).format(**names)

    def found(self, stage: str, file: str, **names: Any) -> list[Path]:
        """Return the existing files of a stage, sorted; a wildcard that is not in `names` matches any value."""
        anything = dict.fromkeys(STAGES[stage].wildcards, "*")
        pattern = f"{STAGES[stage].folder}/{STAGES[stage].files[file]}".format(**{**anything, **names})
        return sorted(self.root(stage).glob(pattern))

    def outputs(self, stage: str) -> dict[str, str]:
        """Return a rule's outputs: the pattern of each file by key."""
        return {key: self.pattern(stage, key) for key in STAGES[stage].files}

    def inputs(self, name: str, stage: str) -> dict[str, str]:
        """Return the patterns of the files that later jobs read: the first as `name`, the others as `name_key`."""
        first, *others = (key for key in STAGES[stage].files if key not in UNREAD)
        return {name: self.pattern(stage, first), **{f"{name}_{key}": self.pattern(stage, key) for key in others}}

    def files(self, stage: str, **names: Any) -> list[str]:
        """Return a job's files that later jobs read, without card, logs and costs; without `names`, the patterns."""
        keys = [key for key in STAGES[stage].files if key not in UNREAD]
        return [str(self.path(stage, key, **names)) if names else self.pattern(stage, key) for key in keys]

    def log(self, stage: str) -> str:
        """Return the pattern of a stage's log."""
        return f"{self.root(stage)}/{LOGS}/{_name(stage)}.log"

    def work(self, stage: str) -> str:
        """Return the pattern of the folder of checkpoints from which a killed job of a stage resumes."""
        return f"{self.root(stage)}/{'' if STAGES[stage].shared else f'{WORK}/'}{STAGES[stage].work}"

    def drawn(self, **names: Any) -> Path:
        """Return the folder of the triggered pictures that the cells and adaptations of an attack and seed share."""
        return Path(self.work("summary"), f"{{attack}}-{SEED}".format(**names))


def _name(stage: str) -> str:
    return STAGES[stage].name or STAGES[stage].folder.replace("/", "-")


def _gaps(pattern: str) -> tuple[str, ...]:
    return tuple(name for _, name, _, _ in Formatter().parse(pattern) if name)


@dataclass(frozen=True)
class Matrix:
    """The values of the wildcards of a study's jobs.

    Attributes:
        seeds: the seeds of the study.
        cells: (attack, defense) of each cell that is run.
        surrogates, pools: names of the entries.
        splits: (dataset, split) of each split that is read.
        scored: (dataset, split, fit) of each picture set that is scored.
        detections: (attack, defense, detector) of each detection.
        adapted: (attack, defense, adaptation) of each measurement of persistence.
        clean_defenses: defenses under which the clean references are adapted as well.
        on_clean: names of the detectors that also score the clean references and the population.
        population: names of the surrogates that are the population.
    """

    seeds: list[int]
    cells: list[tuple[str, str]]
    surrogates: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    splits: tuple[tuple[str, str], ...] = ()
    scored: tuple[tuple[str, str, str], ...] = ()
    detections: tuple[tuple[str, str, str], ...] = ()
    on_clean: tuple[str, ...] = ()
    adapted: tuple[tuple[str, str, str], ...] = ()
    clean_defenses: tuple[str, ...] = ()
    population: tuple[str, ...] = ()

    def jobs(self, stage: str) -> Iterator[dict[str, Any]]:
        """Yield the values of the wildcards of each job of a stage: attacks, then defenses, then seeds."""
        known = STAGES[stage]
        wanted = set(known.wildcards)
        for values in self._values(wanted - {"seed"}, known):
            for seed in self.seeds if "seed" in wanted else [None]:
                yield values if seed is None else {**values, "seed": seed}

    def _values(self, wanted: set[str], stage: Stage) -> list[dict[str, Any]]:
        cells = [(a, d) for a, d in self.cells if stage.undefended or d != NO_DEFENSE]
        controls = [name for name in self.clean_defenses if stage.undefended or name != NO_DEFENSE]
        values: dict[tuple[str, ...], Iterable[tuple[str, ...]]] = {
            (): [()],
            ("attack",): dict.fromkeys((attack,) for attack, _ in cells),
            ("attack", "defense"): cells,
            ("attack", "defense", "detector"): self.detections,
            ("attack", "defense", "adaptation"): [
                row for row in self.adapted if not stage.control or row[1] in self.clean_defenses
            ],
            ("detector",): [(name,) for name in self.on_clean],
            ("defense",): [(name,) for name in controls],
            ("surrogate", "detector"): [(name, one) for name in self.population for one in self.on_clean],
            ("surrogate",): [(name,) for name in self.surrogates],
            ("pool",): [(name,) for name in self.pools],
            ("dataset", "split"): self.splits,
            ("dataset", "split", "fit"): self.scored,
        }
        names = next(names for names in values if set(names) == wanted)
        return [dict(zip(names, row, strict=True)) for row in values[names]]
