"""A finished study: its settings, and the tables of its summary."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from antidote.base.errors import UserError
from antidote.base.settings import read_mapping
from antidote.study.layout import DETECTIONS, PERSISTENCE, Layout
from antidote.study.slices import summary_plan
from antidote.study.study import Study
from antidote.study.tracks import Noise, tracks
from antidote.summary.cells import read_cells
from antidote.summary.costs import read_costs
from antidote.summary.csv_files import read_frame, read_table
from antidote.summary.plan import SummarySettings
from antidote.summary.tables import summarise
from antidote.summary.unchanged import check_cells, check_detections, check_persistence

CELLS = ("attack", "defense", "seed", "ca1", "asr1", "floor")  # columns of cells.csv without which nothing is told


@dataclass
class Finished:
    """A finished study: its settings by entry, and the tables of its summary.

    Attributes:
        disputed: attack and defense of the cells that are left out of the tables while a dispute is open.
    """

    study: Study
    cells: pd.DataFrame
    table: pd.DataFrame
    costs: pd.DataFrame
    detections: pd.DataFrame | None
    persistence: pd.DataFrame | None
    noise: Noise | None
    swept: dict[str, str] = field(default_factory=dict)
    disputed: frozenset[tuple[str, str]] = frozenset()

    @property
    def track(self) -> str:
        return str(self.study.file.track) if self.study.file.track else ""

    @classmethod
    def read(cls, file: Path, results: Path, *, part: bool = False) -> Finished:
        """Read a study file and the summary of the study.

        Args:
            results: folder of all studies.
            part: read the scores that are there, of a study that may be unfinished, in place of the summary;
                persistence and detections are left out.

        Raises:
            UserError: the study is not valid, names no track, has no summary, or one of other entries, seeds or
                settings.
        """
        study = Study(read_mapping(str(file)), str(file))
        if study.file.track is None:
            raise UserError(f"{file}: track: is missing; results are compared within a track")
        kept = Layout(results / study.name)
        noise = tracks()[study.file.track.name].noise.get(study.file.model.name)
        swept = {entry.name: entry.sweep for entry in study.entries["defense"]}
        if part:
            plan = SummarySettings.read(json.loads(summary_plan(study)), str(file))
            scored = read_cells(plan, kept.results)
            check_cells(study, kept, scored)
            costs = read_costs(plan, kept.results, Path("data"))
            return cls(study, scored, summarise(scored, plan), costs, None, None, noise, swept)
        folder, cells = kept.path("summary"), kept.path("summary", "cells")
        if not cells.is_file():
            raise UserError(f"{cells}: no such file; run {file} first")
        table = read_frame(cells, CELLS)
        check_cells(study, kept, table)
        check_detections(study, kept)
        detections = folder / DETECTIONS["detections"]
        return cls(
            study,
            table,
            read_table(kept.path("summary", "table")),
            read_frame(kept.path("summary", "costs"), ("stage", "attack", "defense", "seconds")),
            read_frame(detections) if study.detectors and detections.is_file() else None,
            read_adapted(study, kept),
            noise,
            swept,
        )


def read_adapted(study: Study, kept: Layout) -> pd.DataFrame | None:
    """Return the summary's persistence.csv; None if the study measures no persistence, or has none yet.

    A summary of a study without persistence leaves the file of an earlier one where it is.

    Raises:
        UserError: the file has adaptations that the study does not measure now.
    """
    path = kept.path("summary") / PERSISTENCE["persistence"]
    if study.file.persistence is None or not path.is_file():
        return None
    frame = read_frame(path)
    check_persistence(study, frame, path)
    return frame
