"""Collect the transfer matrix of learned triggers from finished studies, one victim model each.

Prints T / U in percent for each surrogate and victim: ASR@1 on the poisoned victim, and ASR@1 on the clean victim.
"""

import argparse
import sys
from pathlib import Path

from antidote.base import command_line
from antidote.summary.csv_files import write_csv
from antidote.summary.text import fill
from antidote.summary.transfer import matrix, transfer


def run(arguments: argparse.Namespace) -> None:
    """Write the result of the script to standard output."""
    table = transfer([arguments.results / study for study in arguments.study])
    if arguments.output:
        write_csv(table, arguments.output)
    if arguments.page:
        fill(arguments.page, "transfer", matrix(table))
    sys.stdout.write(matrix(table))


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("--study", nargs="+", required=True, help="names of the studies")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all studies")
    parser.add_argument("--output", type=Path, help="CSV file to write")
    parser.add_argument("--page", type=Path, help="page to fill, between its `transfer` marks")
    command_line.main(run, parser)
