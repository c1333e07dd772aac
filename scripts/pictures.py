"""Decode and resize the pictures of a split once, for all models that are scored on them."""

import argparse
import os
from pathlib import Path

from antidote.base import command_line
from antidote.data import fitted


def run(arguments: argparse.Namespace) -> None:
    cost = command_line.Cost()
    threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count()
    count = fitted.write(arguments.data, arguments.size, arguments.pictures, threads)
    cost.write(arguments.cost, pairs=count)


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the split; the pictures are put there")
    parser.add_argument("--size", type=int, required=True, help="side of the pictures in pixels")
    parser.add_argument("--pictures", type=int, help="how many, evenly over the split; all by default")
    parser.add_argument("--cost", type=Path, help="cost.json to write")
    command_line.main(run, parser)
