"""Print the table of a study, and the paths of its report and plots."""

import argparse
import sys
from pathlib import Path

from antidote.base import command_line
from antidote.base.errors import UserError, nearest
from antidote.study.layout import Layout
from antidote.summary.csv_files import read_table
from antidote.summary.tables import shown
from antidote.summary.text import plain


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this script."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--study", required=True, help="name of the study")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all studies")
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the result of the script to standard output."""
    kept = Layout(args.results / args.study)
    folder, table = kept.path("summary"), kept.path("summary", "table")
    if not table.exists():
        known = [path.name for path in args.results.glob("*") if Layout(path).path("summary", "table").exists()]
        raise UserError(f"{args.study}: no summary at {folder}; run the study first{nearest(args.study, known)}")
    plots = ", ".join(sorted(path.name for path in folder.glob("*.png")))
    sys.stdout.write(f"{plain(shown(read_table(table)))}\nreport  {kept.path('summary', 'page')}\n")
    sys.stdout.write(f"plots   {folder}/: {plots}\n")
