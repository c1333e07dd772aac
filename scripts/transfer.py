"""Collect the transfer matrix of learned triggers from finished studies, one victim model each.

Prints T / U in percent for each surrogate and victim: ASR@1 on the poisoned victim, and ASR@1 on the clean victim. With
`--leaderboard`, the figures come from the results files of studies that were run elsewhere:

    python scripts/transfer.py --leaderboard leaderboard --study configs/transfer-rn.yaml configs/vit.yaml
"""

import argparse
import sys
from pathlib import Path

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.summary.csv_files import write_csv
from antidote.summary.text import fill
from antidote.summary.transfer import matrix, of_files, of_run, transfer


def run(arguments: argparse.Namespace) -> None:
    """Write the result of the script to standard output.

    Raises:
        UserError: a study cannot be read, or the output cannot be written.
    """
    output = arguments.output
    if output and (output.is_dir() or not output.parent.is_dir()):
        raise UserError(f"--output: {output}: should be a file in a folder that is there")
    if arguments.leaderboard:
        table = transfer(of_files(Path(study), arguments.leaderboard) for study in arguments.study)
    else:
        table = transfer(of_run(arguments.results / study) for study in arguments.study)
    if output:
        write_csv(table, output)
    if arguments.page:
        fill(arguments.page, "transfer", matrix(table))
    sys.stdout.write(matrix(table))


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "--study", nargs="+", required=True, help="names of the studies; with --leaderboard, their files"
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all studies")
    parser.add_argument("--leaderboard", type=Path, help="folder of results files, in place of runs")
    parser.add_argument("--output", type=Path, help="CSV file to write")
    parser.add_argument("--page", type=Path, help="page to fill, between its `transfer` marks")
    command_line.main(run, parser)
