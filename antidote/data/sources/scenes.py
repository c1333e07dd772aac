"""The embedded dataset: generated pictures with captions, without a download."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from antidote.base.settings import Seed, Settings
from antidote.data.scenes.draw import CHUNK, generate
from antidote.data.sources.base import RawPair, SourceSettings


class ScenesSplit(Settings):
    pairs: int = Field(ge=1, description="Number of pairs to generate.")
    seed: Seed = Field(description="Splits with different seeds share no picture.")


class Scenes(SourceSettings):
    source: Literal["scenes"] = "scenes"
    size: int = Field(32, ge=16, le=1024, description="Pixels per side.")
    splits: dict[str, ScenesSplit] = Field(description="Per split the number of pairs and the seed.")
    classes: str | None = "scenes"
    templates: str = "scenes"
    lexicon: str = "scenes"
    pairs_per_shard: int = Field(2_000, ge=1, description="Pairs per tar file.")

    def iterate(self, split: str) -> Iterator[RawPair]:
        wanted = self.split(split)
        for start in range(0, wanted.pairs, CHUNK):
            count = min(CHUNK, wanted.pairs - start)
            images, captions, labels = generate(wanted.seed, start, count, self.size)
            for row in range(count):
                yield RawPair(f"{split}-{start + row:07d}", images[row], [captions[row]], int(labels[row]))
