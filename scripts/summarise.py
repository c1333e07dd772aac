"""Collect all scores and costs of a study into tables, plots and one report page."""

import argparse
from pathlib import Path

from antidote.base import command_line
from antidote.base.files import whole_folder, write_json
from antidote.study.layout import DETECTIONS, PERSISTENCE, SUMMARY
from antidote.summary.cells import pictures, read_cells
from antidote.summary.costs import read_costs
from antidote.summary.csv_files import write_csv
from antidote.summary.curves import curves
from antidote.summary.detection_plots import auroc_map, roc_curves
from antidote.summary.detections import markdown as detection_text
from antidote.summary.detections import read_detections, tables
from antidote.summary.figures import figures
from antidote.summary.gallery import gallery
from antidote.summary.heatmap import heatmap
from antidote.summary.inverted import inverted
from antidote.summary.metrics import metrics
from antidote.summary.page import render
from antidote.summary.pending import pending
from antidote.summary.persistence import plot as persistence_plot
from antidote.summary.persistence import read_persistence
from antidote.summary.persistence import tables as persistence_tables
from antidote.summary.plan import SummarySettings
from antidote.summary.plane import plane
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
    """Read all inputs first, so that a broken file stops the job before any file is written."""
    cost = command_line.Cost()
    plan = SummarySettings.read(args.settings, "settings")
    cells = read_cells(plan, args.results)
    costs = read_costs(plan, args.results, args.data)
    table = summarise(cells, plan)
    found = read_detections(plan, args.results) if plan.detectors else None
    detected = tables(plan, found, costs) if found else None
    adapted = read_persistence(plan, args.results) if plan.adaptations else None
    persistent = persistence_tables(plan, adapted) if adapted is not None else None
    left = pending(plan, args.results)
    with whole_folder(args.output) as folder:
        files = {key: folder / name for key, name in SUMMARY.items()}
        write_csv(cells, files["cells"])
        write_csv(costs, files["costs"])
        write_csv(table, files["table"])
        write_json(files["metrics"], metrics(table))
        text = markdown(shown(table), plan.study) + detection_text([*(persistent or []), *(detected or [])])
        files["markdown"].write_text(text, encoding="utf-8")
        heatmap(shown(table), files["heatmap"])
        plane(table, plan, files["plane"])
        gallery(plan, args.results, table, files["gallery"])
        curves(plan, args.results, files["curves"])
        triggers = inverted(plan, args.results)
        own = figures(plan, cells, args.results)
        if adapted is not None:
            write_csv(adapted, folder / PERSISTENCE["persistence"])
            persistence_plot(plan, args.results, table, folder / PERSISTENCE["persistence_plot"])
        if found:
            write_csv(found.frame, folder / DETECTIONS["detections"])
            auroc_map(plan, found, folder / DETECTIONS["detection"])
            roc_curves(plan, found, folder / DETECTIONS["roc"])
        shown_pictures = pictures(plan, args.results)
        page = render(plan, cells, costs, table, shown_pictures, triggers, own, folder, detected, persistent, left)
        files["page"].write_text(page, encoding="utf-8")
    run_cells = (cells["ca1"].notna() | cells["asr1"].notna()).sum()
    report = args.output / SUMMARY["page"]
    command_line.log.info("%d of %d cells have scores; report: %s", run_cells, len(cells), report)
    cost.write(args.cost)


if __name__ == "__main__":
    command_line.main(run, arguments())
