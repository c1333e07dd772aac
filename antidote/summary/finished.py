"""A finished study: its settings, and the tables of its summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from antidote.base.errors import UserError
from antidote.base.settings import read_mapping
from antidote.study.layout import DETECTIONS, PERSISTENCE, Layout
from antidote.study.study import Study
from antidote.study.tracks import Noise, tracks
from antidote.summary.csv_files import read_table


@dataclass
class Finished:
    """A finished study: its settings by entry, and the tables of its summary."""

    study: Study
    cells: pd.DataFrame
    table: pd.DataFrame
    costs: pd.DataFrame
    detections: pd.DataFrame | None
    persistence: pd.DataFrame | None
    noise: Noise | None
    swept: dict[str, str] = field(default_factory=dict)

    @property
    def track(self) -> str:
        return str(self.study.file.track) if self.study.file.track else ""

    @classmethod
    def read(cls, file: Path, results: Path) -> Finished:
        """Read a study file and the summary of the study.

        Raises:
            UserError: the study is not valid, names no track, has no summary, or one of other entries or seeds.
        """
        study = Study(read_mapping(str(file)), str(file))
        if study.file.track is None:
            raise UserError(f"{file}: track: is missing; results are compared within a track")
        kept = Layout(results / study.name)
        folder, cells = kept.path("summary"), kept.path("summary", "cells")
        if not cells.is_file():
            raise UserError(f"{cells}: no such file; run {file} first")
        table = _frame(cells)
        _same_cells(study, table, cells, file)
        further = [folder / DETECTIONS["detections"], folder / PERSISTENCE["persistence"]]
        return cls(
            study,
            table,
            read_table(kept.path("summary", "table")),
            _frame(kept.path("summary", "costs")),
            *(_frame(path) if path.is_file() else None for path in further),
            noise=tracks()[study.file.track.name].noise.get(study.file.model.name),
            swept={entry.name: entry.sweep for entry in study.entries["defense"]},
        )


def _same_cells(study: Study, table: pd.DataFrame, path: Path, file: Path) -> None:
    """Refuse a summary that was made before entries or seeds of the study changed."""
    seeds = study.file.seeds
    wanted = {("clean", "none", seed) for seed in seeds}
    wanted |= {(attack, defense, seed) for attack in study.attacks for defense in study.defenses for seed in seeds}
    there = set(zip(table["attack"], table["defense"], table["seed"].astype(int), strict=True))
    if different := sorted(wanted ^ there):
        attack, defense, seed = different[0]
        where, other = (file, path) if different[0] in wanted else (path, file)
        raise UserError(
            f"{path}: is a summary of another state of {file}: {attack}, {defense}, seed {seed} is only in {where}, "
            f"not in {other}; run the study again, or name its seeds in the file"
        )


def _frame(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"attack": str, "defense": str}, keep_default_na=False, na_values=[""])
