"""Fill the measured parts of a page of the documentation from a finished study, such as docs/attacks.md.

Two marks in the page enclose the table: `results`, or `figures` for the figures of single attacks, `resistance` for
perturbation resistance, `detections` for what detectors find; `--mark` names others, for a second study on a page. A
picture with the name of the page is replaced by the study's gallery or plane, but for a second study.
"""

import argparse
import shutil
from pathlib import Path

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.settings import read_mapping
from antidote.study.layout import Layout
from antidote.study.slices import summary_plan
from antidote.study.study import Study
from antidote.summary import detections as detected
from antidote.summary.csv_files import read_frame, read_table
from antidote.summary.documents import attacks, defenses, resistance, single
from antidote.summary.figures import figures
from antidote.summary.plan import SummarySettings
from antidote.summary.text import fill
from antidote.summary.unchanged import check_cells

PICTURES = {"attacks": "gallery", "defenses": "plane"}


def run(arguments: argparse.Namespace) -> None:
    study = Study(read_mapping(str(arguments.study)), str(arguments.study))
    kept = Layout(arguments.results / study.name)
    folder, file = kept.path("summary"), kept.path("summary", "table")
    if not file.is_file():
        raise UserError(f"{file}: no such file; run {arguments.study} first")
    plan = SummarySettings.read(read_mapping(summary_plan(study)), "the study")
    table, cells = read_table(file), read_frame(kept.path("summary", "cells"))
    check_cells(study, cells, kept.path("summary", "cells"))
    part = "results" if arguments.table in PICTURES else arguments.table
    if part == "resistance":
        content = resistance(plan, table, cells, folder)
    elif part == "detections":
        costs = read_frame(kept.path("summary", "costs"))
        content = detected.markdown(detected.tables(plan, detected.read_detections(plan, kept.results), costs))
    elif part == "figures":
        content = single(figures(plan, cells, kept.results))
    else:
        content = attacks(plan, table, cells) if arguments.table == "attacks" else defenses(plan, table, cells, folder)
    if not content.strip():
        raise UserError(f"{arguments.study}: has no {arguments.table}; nothing to fill in {arguments.page}")
    picture, source = arguments.page.with_suffix(".png"), PICTURES.get(arguments.table)
    if source and not kept.path("summary", source).is_file():
        raise UserError(f"{kept.path('summary', source)}: no such file; run the summary again")
    fill(arguments.page, arguments.mark or part, content)
    shown = f"]({picture.name})" in arguments.page.read_text(encoding="utf-8")  # photographs may not be published
    if source and shown and not arguments.mark:
        shutil.copyfile(kept.path("summary", source), picture)
        command_line.log.info("wrote %s", picture)


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("--study", type=Path, required=True, help="study file")
    tables = [*PICTURES, "figures", "resistance", "detections"]
    parser.add_argument("--table", choices=tables, required=True, help="content of the table")
    parser.add_argument("--page", type=Path, required=True, help="page to fill, between its marks")
    parser.add_argument("--mark", help="name of the marks; default: that of the table")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all studies")
    command_line.main(run, parser)
