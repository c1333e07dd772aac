"""Gather the transfer matrix of learned triggers from finished studies, one victim model each.

Prints T / U in percent for each surrogate and victim: ASR@1 on the poisoned victim, and on the clean one.
"""

import argparse
import sys
from pathlib import Path

from antidote import cli
from antidote.summary.sheets import write_csv
from antidote.transfer import matrix, transfer


def run(arguments: argparse.Namespace) -> None:
    """Write to standard output: this text is the script's result."""
    table = transfer([arguments.results / study for study in arguments.study])
    if arguments.output:
        write_csv(table, arguments.output)
    sys.stdout.write(matrix(table))


if __name__ == "__main__":
    parser = cli.parser(__doc__)
    parser.add_argument("--study", nargs="+", required=True, help="names of the studies")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all studies")
    parser.add_argument("--output", type=Path, help="CSV file to write")
    cli.main(run, parser)
