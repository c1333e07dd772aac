"""Synthetic pairs for benchmarks: smooth pictures, about as large as photographs when they are encoded."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from antidote.data import pools
from antidote.data.sources.base import RawPair, SourceSettings
from antidote.data.store import ingest, shards
from antidote.data.store.images import encode_jpeg

WORDS = ("photo", "red", "banana", "table", "near", "boat", "small", "blue", "cactus", "ball", "front", "the")
SPLIT = "waves/train"


class Waves(SourceSettings):
    """JPEG pictures, shorter side 256 pixels, with captions of ten words."""

    source: str = "waves"
    splits: dict[str, int]

    def iterate(self, split: str) -> Iterator:
        rng = np.random.default_rng(0)
        x, y = np.meshgrid(np.arange(340), np.arange(256))
        for number in range(self.splits[split]):
            waves = [np.sin(x * a + y * b + c) for a, b, c in rng.uniform(0, 0.3, (3, 3))]
            picture = 127 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 4, (256, 340, 3))
            yield RawPair(f"k{number:06d}", encode_jpeg(picture.clip(0, 255).astype(np.uint8)), [caption(rng)], None)


def caption(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, 10))


def write(folder: Path, pictures: int, pairs: int | None = None, files: int = 1) -> Path:
    """Write a split, in so many shards, and the file of a pool of all of it; return the latter.

    Where more pairs are asked than pictures, the index names each picture several times, under keys of its own.
    """
    split = folder / SPLIT
    asked = {"splits": {"train": pictures}, "pairs_per_shard": -(-pictures // files)}
    ingest.write(Waves.read(asked, "waves"), "waves", "train", split)
    index = shards.open_index(split)
    if pairs:
        rng = np.random.default_rng(1)
        index = index.iloc[np.arange(pairs) % len(index)].assign(
            key=[f"{number:09d}" for number in range(pairs)],
            caption=[f"{caption(rng)} {number}" for number in range(pairs)],
        )
        index.to_parquet(split / "index.parquet")
    table = pd.DataFrame({"key": index["key"], "dataset": "waves", "split": "train", "pool": "training"})
    pools.write(folder / "pools.parquet", table.assign(position=range(len(table)))[pools.COLUMNS])
    return folder / "pools.parquet"
