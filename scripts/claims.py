"""Compare the headlines of data/claims.yaml with finished studies, and fill docs/claims.md.

Only studies of a track count. A claim holds, does not hold, is undecided, cannot be tested or is not measured.
"""

import argparse
import sys
from pathlib import Path

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.summary.claims import CLAIMS, page, read_claims
from antidote.summary.finished import Finished
from antidote.summary.published import read_published
from antidote.summary.restored import restored
from antidote.summary.text import fill


def run(arguments: argparse.Namespace) -> None:
    """Write the page, or print its generated part."""
    papers = {key: paper.citation for key, paper in read_published().papers.items()}
    claims = read_claims(papers, arguments.claims, arguments.study)
    board = arguments.leaderboard
    if twice := [file for i, file in enumerate(arguments.study) if file in arguments.study[:i]]:
        raise UserError(f"--study: {twice[0]} is named twice")
    done = [restored(file, board) if board else Finished.read(file, arguments.results) for file in arguments.study]
    content = page(claims, papers, done)
    if not arguments.page:
        sys.stdout.write(content)
        return
    fill(arguments.page, "claims", content)


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this script."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--study", nargs="*", type=Path, default=[], help="study files of finished studies")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all studies")
    parser.add_argument(
        "--leaderboard", type=Path, help="folder of results files, in place of the studies' own results"
    )
    parser.add_argument("--claims", type=Path, default=CLAIMS, help="file of the claims")
    parser.add_argument("--page", type=Path, help="page to fill, between its `claims` marks")
    return parser


if __name__ == "__main__":
    command_line.main(run, arguments())
