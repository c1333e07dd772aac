"""Gather every score and cost of a study into tables, plots and one report page."""

import argparse
from pathlib import Path

from antidote.base import command_line
from antidote.base.files import whole_folder, write_json
from antidote.summary.cells import pictures, read_cells
from antidote.summary.costs import read_costs
from antidote.summary.csv_files import write_csv
from antidote.summary.curves import curves
from antidote.summary.figures import figures
from antidote.summary.gallery import gallery
from antidote.summary.heatmap import heatmap
from antidote.summary.inverted import inverted
from antidote.summary.metrics import metrics
from antidote.summary.page import render
from antidote.summary.plan import SummarySettings
from antidote.summary.plane import plane
from antidote.summary.rebounds import rebounds
from antidote.summary.tables import shown, summarise
from antidote.summary.text import markdown


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this script."""
    parser = command_line.parser(__doc__)
    command_line.settings_argument(parser, "the plan: matrix, gate and facts of the study")
    parser.add_argument("--results", type=Path, required=True, help="folder of the study")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets")
    parser.add_argument("--output", type=Path, required=True, help="folder for tables, plots and report")
    parser.add_argument("--cost", help="file for what this job cost")
    return parser


def run(args: argparse.Namespace) -> None:
    """Read everything first: a broken file stops the job before anything is written."""
    cost = command_line.Cost()
    plan = SummarySettings.read(args.settings, "settings")
    cells = read_cells(plan, args.results)
    costs = read_costs(plan, args.results, args.data)
    table = summarise(cells, plan)
    with whole_folder(args.output) as folder:
        write_csv(cells, folder / "cells.csv")
        write_csv(costs, folder / "costs.csv")
        write_csv(table, folder / "table.csv")
        write_json(folder / "metrics.json", metrics(table))
        (folder / "table.md").write_text(markdown(shown(table), plan.study), encoding="utf-8")
        heatmap(shown(table), folder / "heatmap.png")
        plane(table, plan, folder / "plane.png")
        rebounds(plan, args.results, table, folder / "rebound.png")
        gallery(plan, args.results, table, folder / "gallery.png")
        curves(plan, args.results, folder / "curves.png")
        triggers = inverted(plan, args.results)
        own = figures(plan, cells, args.results)
        page = render(plan, cells, costs, table, pictures(plan, args.results), triggers, own, folder)
        (folder / "report.html").write_text(page, encoding="utf-8")
    run_cells = (cells["ca1"].notna() | cells["asr1"].notna()).sum()
    command_line.log.info("%d of %d cells have scores; report: %s", run_cells, len(cells), args.output / "report.html")
    cost.write(args.cost)


if __name__ == "__main__":
    command_line.main(run, arguments())
