"""Fill the measured parts of a page of the documentation from a finished study, such as docs/attacks.md.

Two marks in the page enclose the table: `results`, or `figures` for the figures of single attacks, `resistance` for
perturbation resistance, `persistence` for what comes back, `detections` for what detectors find; `--mark` names others,
for a second study on a page. A picture with the name of the page is replaced by the study's gallery or plane, but for a
second study. With `--leaderboard` the tables of defenses, attacks and persistence come from the study's results files,
without its run; the gallery stays as it is, since it needs the triggers.
"""

import argparse
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.settings import read_mapping
from antidote.study.layout import Layout
from antidote.study.slices import summary_plan
from antidote.study.study import Study
from antidote.summary import detections as detected
from antidote.summary.csv_files import read_frame, read_table
from antidote.summary.documents import attacks, defenses, persistence, resistance, single
from antidote.summary.exchange import curves_of
from antidote.summary.figures import figures
from antidote.summary.finished import read_adapted
from antidote.summary.plan import SummarySettings
from antidote.summary.plane import plane
from antidote.summary.restored import finished, measured
from antidote.summary.tables import with_disputes
from antidote.summary.text import fill
from antidote.summary.unchanged import check_cells, check_detections

PICTURES = {"attacks": "gallery", "defenses": "plane"}
RESTORED = ("attacks", "defenses", "persistence")  # tables of which results files hold every figure


def run(arguments: argparse.Namespace) -> None:
    if arguments.leaderboard and arguments.table not in RESTORED:
        known = f"{', '.join(RESTORED[:-1])} and {RESTORED[-1]}"
        raise UserError(f"--leaderboard: fills the tables {known} alone, not {arguments.table}; run the study")
    content, draw = _of_files(arguments) if arguments.leaderboard else _of_run(arguments)
    if not content.strip():
        raise UserError(f"{arguments.study}: has no {arguments.table}; nothing to fill in {arguments.page}")
    part = "results" if arguments.table in PICTURES else arguments.table
    fill(arguments.page, arguments.mark or part, content)
    if draw and (picture := _picture(arguments)):
        draw(picture)
        command_line.log.info("wrote %s", picture)


def _of_files(arguments: argparse.Namespace) -> tuple[str, Callable[[Path], object] | None]:
    """Return the table from the results files, and what draws the page's picture; None: only a run can draw it."""
    study, results = measured(arguments.study, arguments.leaderboard)
    done, plan = finished(study, results), SummarySettings.read(read_mapping(summary_plan(study)), "the study")
    table = with_disputes(done.table, done.disputed)
    if arguments.table == "persistence":
        counted = [result for result in results if not result.disputed]
        curves = {(result.attack.name, result.defense.name): result.persistence for result in counted}
        return persistence(plan, table, curves), None
    if arguments.table == "attacks":
        return attacks(plan, table, done.cells), None
    return defenses(plan, table, done.cells, done.costs), partial(plane, table, plan)


def _of_run(arguments: argparse.Namespace) -> tuple[str, Callable[[Path], object]]:
    """Return the content from the study's own results, and what copies the page's picture."""
    study = Study(read_mapping(str(arguments.study)), str(arguments.study))
    kept = Layout(arguments.results / study.name)
    file = kept.path("summary", "table")
    if not file.is_file():
        raise UserError(f"{file}: no such file; run {arguments.study} first")
    picture = kept.path("summary", PICTURES.get(arguments.table, "table"))
    if not picture.is_file():
        raise UserError(f"{picture}: no such file; run the summary again")
    plan = SummarySettings.read(read_mapping(summary_plan(study)), "the study")
    table, cells = read_table(file), read_frame(kept.path("summary", "cells"))
    check_cells(study, kept, cells)
    if arguments.table == "detections":
        check_detections(study, kept)
    return _content(arguments, study, plan, table, cells), partial(shutil.copyfile, picture)


def _content(
    arguments: argparse.Namespace, study: Study, plan: SummarySettings, table: pd.DataFrame, cells: pd.DataFrame
) -> str:
    kept = Layout(arguments.results / study.name)
    if arguments.table == "resistance":
        return resistance(plan, table, cells, kept.path("summary"))
    if arguments.table == "figures":
        return single(figures(plan, cells, kept.results))
    if arguments.table == "attacks":
        return attacks(plan, table, cells)
    if arguments.table == "persistence":
        frame = read_adapted(study, kept)
        names = {(row["attack"], row["defense"]) for _, row in table.iterrows()}
        return persistence(plan, table, {cell: curves_of(study, frame, *cell, kept.results) for cell in names})
    costs = read_frame(kept.path("summary", "costs"))
    if arguments.table == "detections":
        return detected.markdown(detected.tables(plan, detected.read_detections(plan, kept.results), costs))
    return defenses(plan, table, cells, costs)


def _picture(arguments: argparse.Namespace) -> Path | None:
    """Return the picture that the page shows, None if it shows none of its name: photographs may not be published."""
    picture = arguments.page.with_suffix(".png")
    if arguments.table not in PICTURES or arguments.mark:
        return None
    return picture if f"]({picture.name})" in arguments.page.read_text(encoding="utf-8") else None


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this script."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--study", type=Path, required=True, help="study file")
    tables = [*PICTURES, "figures", "resistance", "persistence", "detections"]
    parser.add_argument("--table", choices=tables, required=True, help="content of the table")
    parser.add_argument("--page", type=Path, required=True, help="page to fill, between its marks")
    parser.add_argument("--mark", help="name of the marks; default: that of the table")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all studies")
    parser.add_argument("--leaderboard", type=Path, help="folder of results files, in place of the study's own results")
    return parser


if __name__ == "__main__":
    command_line.main(run, arguments())
