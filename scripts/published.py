"""Fill a page with what papers report of the defenses at full size, from data/published.yaml.

Without `--page` the table is printed.
"""

import argparse
import sys
from pathlib import Path

from antidote.base import command_line
from antidote.summary.full_size import full_size
from antidote.summary.published import read_published
from antidote.summary.text import fill


def run(arguments: argparse.Namespace) -> None:
    """Write the table into the page, or print it."""
    content = full_size(read_published())
    if arguments.page:
        fill(arguments.page, "published", content)
    else:
        sys.stdout.write(content)


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this script."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--page", type=Path, help="page to fill, between its `published` marks")
    return parser


if __name__ == "__main__":
    command_line.main(run, arguments())
