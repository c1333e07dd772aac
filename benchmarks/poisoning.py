"""What it takes to poison a few of very many pairs: the index is built once, the overlay holds only the poisoned ones.

Shards with small pictures are made first. Then the project's own commands run on them, as in a study: the dataset
(which looks at every picture, once, and writes the index), the pools, two attacks' poisoned pairs. Each line: wall
time, processor time, peak memory, processor time as a share of the dataset's. On a busy machine only processor time
means anything.

    python benchmarks/poisoning.py --pairs 50000
"""

import argparse
import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from measured import Cost, say, say_machine, script
from PIL import Image

from antidote.data.store import tars

SHARD, DISTINCT = 10_000, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500_000)
    parser.add_argument("--poisons", type=int, default=1500)
    parser.add_argument("--side", type=int, default=24, help="pixels of the pictures in the shards")
    parser.add_argument(
        "--size", type=int, default=224, help="pixels that the model reads, and that poison is stored at"
    )
    options = parser.parse_args()
    say_machine("torch", "pandas", "pyarrow", "Pillow")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_shards(Path("given"), options.pairs, options.side)
        measure(options)


def make_shards(folder: Path, pairs: int, side: int) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(DISTINCT):
        stream = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).save(stream, "JPEG")
        pictures.append(stream.getvalue())
    for start in range(0, pairs, SHARD):
        with tars.create(folder / f"{start // SHARD:05d}.tar") as tar:
            for number in range(start, min(start + SHARD, pairs)):
                tars.add_member(tar, f"{number:08d}.jpg", pictures[number % DISTINCT])
                tars.add_member(
                    tar, f"{number:08d}.txt", f"a picture of {'a banana' if number % 500 == 0 else 'it'}".encode()
                )


def measure(options: argparse.Namespace) -> None:
    pairs, poisons = options.pairs, options.poisons
    source = {"source": "webdataset", "splits": {"train": "given/*.tar"}}
    more = ["--name", "many", "--split", "train", "--settings", json.dumps(source), "--output", "data/many/train"]
    whole = command(None, "dataset", *more)
    index = Path("data/many/train/index.parquet")
    built = index.stat()
    pools = {
        "training": {"dataset": "many", "split": "train", "pairs": pairs * 7 // 10},
        "poison": {"pairs": max(poisons * 2, pairs // 50)},
        "defense": {"pairs": pairs // 10},
    }
    for pool in pools:
        command(whole, "pools", "--settings", json.dumps(pools), "--only", pool, "--output", f"pools/{pool}.parquet")
    for name, settings in (
        ("badnet", {"method": "badnet"}),
        ("blended", {"method": "blended", "preset": "fixed"}),
    ):
        more = ["--name", name, "--target", "banana", "--size", options.size, "--output", f"{name}/trigger"]
        command(whole, "trigger", "--settings", json.dumps(settings), *more)
        more = ["--trigger", f"{name}/trigger", "--pools", "pools/poison.parquet", "--templates", "simple"]
        command(whole, "poison", "--settings", json.dumps({"poisons": poisons}), *more, "--output", f"{name}/poison")
        written = sum(file.stat().st_size for file in Path(name, "poison").iterdir())
        say(f"  {name}: wrote {written / 1e6:.1f} MB for {poisons} pairs, {written / poisons / 1e3:.1f} kB each")
    unchanged = (index.stat().st_mtime_ns, index.stat().st_ino) == (built.st_mtime_ns, built.st_ino)
    total = sum(file.stat().st_size for file in index.parent.iterdir())
    said = "built once" if unchanged else "CHANGED"
    say(f"index of {pairs} pairs: {built.st_size / 1e6:.1f} MB of {total / 1e6:.0f} MB, {said}")


def command(whole: Cost | None, name: str, *arguments: object) -> Cost:
    """Run one of the project's scripts and say what it took, beside that of `whole` if there is one."""
    cost = script(name, *arguments)
    label = " ".join([name, *(str(word) for word in arguments if word in ("training", "poison", "defense"))])
    share = "" if whole is None else f", {cost.cpu / whole.cpu:.1%} of the dataset's"
    say(f"{label:16} {cost.wall:7.1f} s, {cost.memory:6.0f} MB, processor {cost.cpu:7.1f} s{share}")
    return cost


if __name__ == "__main__":
    main()
