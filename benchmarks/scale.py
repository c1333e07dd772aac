"""Time and memory of the stages that look at every pair of a dataset as large as CC3M, at two sizes ten times apart.

The table of addresses is made: captions of made-up words, as frequent as words are (Zipf), and among them the words
that the study's pools ask for, as often as in CC3M. Then the stages as in `configs/paper.yaml`, its pools made smaller
like the table: the addresses are selected, the index is written, the pools are drawn, pairs are poisoned, the subset is
listed and read. A few hundred pictures serve for all pairs: fetching, decoding and storing pictures is left out, see
`poisoning.py`.

    python benchmarks/scale.py --pairs 3318333

Each stage runs in a process of its own: processor seconds with the start of Python, and peak memory, at both sizes; the
ratios; and the bytes that memory grows by with each pair.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from measured import ROOT, Cost, run, say, say_machine, script

if TYPE_CHECKING:
    import numpy as np

ROWS = 3_318_333  # of CC3M's table for training
NAMED = {"banana": 1920, "canoe": 1048}  # captions of that table; see tests/unit/study/test_caption_counts.py
POISONS = 1500
VOCABULARY, SHIFT = 40_000, 2.7  # words; of Zipf and Mandelbrot's law
AT_A_TIME = 100_000
PICTURES = 300
SPLIT = Path("data/cc3m/train")
SETTINGS = {"source": "url_table", "columns": ["caption", "url"], "splits": {"train": "table.tsv"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=ROWS)
    parser.add_argument("--one", choices=list(STAGES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        STAGES[options.one](options.pairs)
        return
    say_machine("pandas", "pyarrow", "numpy", "torch")
    start, costs = time.perf_counter(), []
    for pairs in (options.pairs // 10, options.pairs):
        with tempfile.TemporaryDirectory() as folder:
            costs.append(measured(Path(folder), pairs))
    for line in table(options.pairs, *costs):
        say(line)
    say(f"{time.perf_counter() - start:.0f} s in all")


def table(pairs: int, small: dict[str, Cost], large: dict[str, Cost]) -> list[str]:
    """Return the lines of a table in Markdown."""
    lines = [
        f"| stage | {pairs // 10:,} pairs, s | {pairs:,}, s | times | {pairs // 10:,} pairs, MB | {pairs:,}, MB "
        "| times | bytes per pair |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for stage, cost in large.items():
        few = small[stage]
        grown = (cost.memory - few.memory) * 2**20 / (pairs - pairs // 10)
        lines.append(
            f"| {stage} | {few.cpu:.1f} | {cost.cpu:.1f} | {cost.cpu / few.cpu:.1f} | {few.memory:,.0f} | "
            f"{cost.memory:,.0f} | {cost.memory / few.memory:.1f} | {grown:.0f} |"
        )
    return lines


def measured(folder: Path, pairs: int) -> dict[str, Cost]:
    """Run every stage in a folder; return what each cost."""
    own = lambda stage: run([sys.executable, ROOT / "benchmarks/scale.py", "--pairs", pairs, "--one", stage], folder)
    own("table")
    costs = {"selecting addresses": own("addresses")}
    own("shards")
    costs["writing the index"] = own("index")
    pools = json.dumps(drawn(pairs))
    for pool in ("training", "poison"):
        output = f"pools/{pool}.parquet"
        costs[f"drawing the pool `{pool}`"] = script(
            "pools", "--settings", pools, "--only", pool, "--output", output, "--target", "banana", folder=folder
        )
    settings = json.dumps({"method": "badnet"})
    more = ["--name", "badnet", "--target", "banana", "--size", 224, "--output", "trigger"]
    script("trigger", "--settings", settings, *more, folder=folder)
    settings = json.dumps({"poisons": max(1, POISONS * pairs // ROWS)})
    more = ["--trigger", "trigger", "--pools", "pools/poison.parquet", "--templates", "simple", "--output", "poison"]
    costs["poisoning"] = script("poison", "--settings", settings, *more, folder=folder)
    listed = ["--ids", "ids.parquet", "--output", "listed.parquet"]
    costs["listing the subset of the pools"] = script("subset", *listed, "--pools", "pools", folder=folder)
    costs["listing all pairs as a subset"] = script("subset", *listed, folder=folder)
    costs["reading that subset"] = own("read")
    return costs


def drawn(pairs: int) -> dict[str, object]:
    """Return the pools of the paper study that need no labels, smaller like the table."""
    from antidote.base.settings import read_mapping

    def smaller(value: object) -> object:
        if isinstance(value, dict):
            return {name: part for name, whole in value.items() if (part := smaller(whole)) != 0}
        return value * pairs // ROWS if isinstance(value, int) else value

    given = read_mapping(str(ROOT / "configs/paper.yaml"))["pools"]
    return {name: smaller(pool) for name, pool in given.items() if name not in ("seed", "shots")}


# --- stages in processes of their own --------------------------------------------------------------------------------


def write_table(pairs: int) -> None:
    """Write the table of captions and addresses, a part at a time."""
    import numpy as np

    rng = np.random.default_rng(0)
    words = made_words(rng)
    weights = 1 / (np.arange(VOCABULARY) + SHIFT)
    ends = weights.cumsum() / weights.sum()
    named = {name: count * pairs // ROWS for name, count in NAMED.items()}
    rows = rng.permutation(pairs)[: sum(named.values())].tolist()
    added = dict(zip(rows, [name for name, count in named.items() for _ in range(count)], strict=True))
    with Path("table.tsv").open("w", encoding="utf-8") as file:
        for start in range(0, pairs, AT_A_TIME):
            lengths = 3 + rng.poisson(7, min(AT_A_TIME, pairs - start))  # CC3M: ten words
            chosen = words[np.searchsorted(ends, rng.random(lengths.sum()))].tolist()
            for row, end, length in zip(range(start, pairs), lengths.cumsum().tolist(), lengths.tolist(), strict=False):
                caption = " ".join(chosen[end - length : end])
                caption += f" {added[row]}" if row in added else ""
                name = hashlib.blake2b(str(row).encode(), digest_size=16).hexdigest()
                file.write(f"{caption}\thttps://pictures.example.org/photographs/large/{name}.jpg\n")


def made_words(rng: "np.random.Generator") -> "np.ndarray":
    """Return different words, short ones first, as frequent words are short."""
    import numpy as np

    letters = np.array([*"abcdefghijklmnopqrstuvwxyz"])
    found: dict[str, None] = {}
    while len(found) < VOCABULARY:
        found["".join(rng.choice(letters, 2 + min(8, len(found).bit_length() // 2)))] = None
    return np.array([*found], object)


def select(pairs: int) -> None:
    """Select the addresses; then write them, and what a download would say of them if all arrived."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from antidote.data.download.addresses import addresses
    from antidote.data.store.datasets import given_settings

    wanted = addresses(given_settings("cc3m", {**SETTINGS, "rows": {"train": pairs}}), "train").list
    ids = pa.schema([(name, pa.string()) for name in ("key", "url", "sha256", "failure")])
    with pq.ParquetWriter("pairs.parquet", pa.schema([("key", pa.string()), ("caption", pa.string())])) as listed, \
            pq.ParquetWriter("ids.parquet", ids) as arrived:  # fmt: skip
        for start in range(0, len(wanted), AT_A_TIME):
            part = wanted.iloc[start : start + AT_A_TIME]
            keys, captions, urls = part["pair"].tolist(), part["caption"].tolist(), part["url"].tolist()
            listed.write_table(pa.table({"key": keys, "caption": captions}))
            digests = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
            columns = {"key": keys, "url": urls, "sha256": digests, "failure": [None] * len(keys)}
            arrived.write_table(pa.table(columns, ids))


def write_shards(pairs: int) -> None:
    """Write the pictures that serve for all pairs."""
    import waves

    waves.write(Path(), PICTURES)
    SPLIT.parent.mkdir(parents=True)
    Path(waves.SPLIT).rename(SPLIT)


def write_index(pairs: int) -> None:
    """Write the index as `ingest.write` does: a key for each name, a row group for each shard's pairs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from antidote.data.sources.base import SourceSettings
    from antidote.data.store import ingest, shards
    from antidote.data.store.keys import Keys

    places = shards.open_index(SPLIT, ["shard", "offset", "size", "format"]).to_dict("records")
    keys, number = Keys(), 0
    with pq.ParquetWriter(SPLIT / "index.parquet", ingest.schema(), compression="zstd") as index:
        for group in groups(SourceSettings.model_fields["pairs_per_shard"].default):
            rows = []
            for origin, caption in group:
                facts = {"key": keys.new(origin), "caption": caption, "captions": [caption], "label": -1}
                rows.append(facts | places[number % len(places)])
                number += 1
            index.write_table(pa.Table.from_pylist(rows, ingest.schema()))


def groups(size: int) -> Iterator[list[tuple[str, str]]]:
    """Yield keys and captions of so many pairs at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile("pairs.parquet") as file:
        for batch in file.iter_batches(size):
            yield [*zip(batch["key"].to_pylist(), batch["caption"].to_pylist(), strict=True)]


def read_listed(pairs: int) -> None:
    from antidote.data.store.subsets import read_subset

    listed = read_subset("listed.parquet").to_dict()
    if len(listed) != pairs:
        sys.exit(f"{len(listed)} of {pairs} pairs are listed")


STAGES: dict[str, Callable[[int], None]] = {
    "table": write_table,
    "addresses": select,
    "shards": write_shards,
    "index": write_index,
    "read": read_listed,
}


if __name__ == "__main__":
    main()
