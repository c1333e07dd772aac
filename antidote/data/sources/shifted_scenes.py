"""The embedded dataset in another style: the same scenes, as a sketch, a negative, a painting, or at night.

For measuring what becomes of a model, and of a backdoor, under a shift of domain. A split with the seed of one of
`scenes` shows that split's scenes, so that the two differ in style alone.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from antidote.data.scenes.draw import generate
from antidote.data.scenes.styles import FACTOR, STYLES
from antidote.data.sources.base import RawPair
from antidote.data.sources.scenes import Scenes, ScenesSplit

CHUNK, CHUNK_PIXELS = 64, 2**21  # pictures, and drawn pixels, at a time: they are drawn larger than they are stored


class ShiftedSplit(ScenesSplit):
    style: Literal["sketch", "negative", "painted", "night"] = Field(description="How the scenes are drawn.")


class ShiftedScenes(Scenes):
    source: Literal["shifted_scenes"] = "shifted_scenes"
    splits: dict[str, ShiftedSplit] = Field(description="Per split the number of pairs, the seed and the style.")

    def iterate(self, split: str) -> Iterator[RawPair]:
        wanted = self.split(split)
        chunk = max(1, min(CHUNK, CHUNK_PIXELS // (self.size * FACTOR) ** 2))
        for start in range(0, wanted.pairs, chunk):
            count = min(chunk, wanted.pairs - start)
            images, captions, labels = generate(wanted.seed, start, count, self.size * FACTOR)
            images = STYLES[wanted.style](images)
            for row in range(count):
                yield RawPair(f"{split}-{start + row:07d}", images[row], [captions[row]], int(labels[row]))
