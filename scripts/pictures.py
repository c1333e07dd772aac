"""Decode and resize the pictures of a split once, for all models that are scored on them."""

import argparse
from pathlib import Path

from antidote.base import command_line, environment
from antidote.data import fitted


def run(arguments: argparse.Namespace) -> None:
    cost = command_line.Cost()
    count = fitted.write(arguments.data, arguments.size, arguments.pictures, environment.threads())
    cost.write(arguments.cost, pairs=count)


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the split; the pictures are put there")
    parser.add_argument("--size", type=int, required=True, help="side of the pictures in pixels")
    parser.add_argument("--pictures", type=int, help="how many, evenly over the split; all by default")
    parser.add_argument("--cost", type=Path, help="cost.json to write")
    command_line.main(run, parser)
