"""Write the training set of a study's model, poisoned pairs included, as shards that other trainers read.

The shards are webdataset tars as img2dataset writes them, 00000.tar with 000000000.png and 000000000.txt, in the order
of the pools' files. Pictures have the resolution of the model. `antidote scan` and the dataset kind `webdataset` read
them. pairs.csv, beside them, has dataset, split and key of each pair in the study and whether the pair is poisoned.
"""

import argparse
from pathlib import Path
from tarfile import TarFile

import pandas as pd

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import whole_folder
from antidote.data import pools
from antidote.data.overlay import read_manifest
from antidote.data.pairs import Pairs, load_pools
from antidote.data.store import images, tars
from antidote.data.streaming import Reading

POOLS = ["training", "poison"]  # what a model of a study is trained on
PLACE = ["dataset", "split", "key"]
AT_A_TIME = 256  # pictures in memory
TRUTH = "pairs.csv"


def run(arguments: argparse.Namespace) -> None:
    if arguments.output.exists() and not arguments.output.is_dir():
        raise UserError(f"--output: {arguments.output}: is a file; name a new folder")
    if arguments.output.exists() and any(arguments.output.iterdir()):
        raise UserError(f"--output: {arguments.output}: is not empty; name a new folder")
    pairs = load_pools(arguments.pools, POOLS, arguments.data, arguments.size, arguments.poison, Reading(in_memory=0))
    table = pools.read(arguments.pools)
    table = table[table["pool"].isin(POOLS)][PLACE].reset_index(drop=True)
    named = read_manifest(arguments.poison)[PLACE] if arguments.poison else table[:0]
    poisoned = pd.MultiIndex.from_frame(table).isin(pd.MultiIndex.from_frame(named))
    with whole_folder(arguments.output) as folder:
        for shard, first in enumerate(range(0, len(pairs), arguments.shard)):
            with tars.create(folder / f"{shard:05d}.tar") as tar:
                _add(tar, pairs, range(first, min(first + arguments.shard, len(pairs))))
        keys = [f"{row:09d}" for row in range(len(pairs))]
        table.assign(poisoned=poisoned.astype(int)).set_axis(keys).to_csv(folder / TRUTH, index_label="name")
    command_line.log.info("%s: %d pairs, %d of them poisoned", arguments.output, len(pairs), poisoned.sum())


def _add(tar: TarFile, pairs: Pairs, rows: range) -> None:
    """Add the pairs of some rows to a tar."""
    for start in range(rows.start, rows.stop, AT_A_TIME):
        part = range(start, min(start + AT_A_TIME, rows.stop))
        pictures = pairs.images[part.start : part.stop].permute(0, 2, 3, 1).numpy()
        for row, picture in zip(part, pictures, strict=True):
            tars.add_member(tar, f"{row:09d}.png", images.encode_png(picture))
            tars.add_member(tar, f"{row:09d}.txt", pairs.captions[row].encode())


def _number(word: str) -> int:
    if not word.isascii() or not word.isdigit() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r}; a whole number from 1 on is expected")
    return int(word)


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("--pools", type=Path, nargs="+", required=True, help="files of the pools training and poison")
    parser.add_argument("--poison", type=Path, help="poison folder of an attack, results/STUDY/ATTACK/seedN/poison")
    parser.add_argument("--size", type=_number, required=True, help="side of the pictures in pixels")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets")
    parser.add_argument("--shard", type=_number, default=10_000, help="pairs per tar")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    command_line.main(run, parser)
