"""The embedded dataset in another style: the same scenes as a sketch, a negative, a painting, or at night.

Measures a model, and a backdoor, under a domain shift. A split with the same seed as a split of `scenes` shows the same
scenes, so that the two splits differ in style alone.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from antidote.data.scenes.draw import generate
from antidote.data.sources.base import RawPair
from antidote.data.sources.scenes import Scenes, ScenesSplit
from antidote.data.styles import FACTOR, StyleSettings, styled

CHUNK, CHUNK_PIXELS = 64, 2**21  # pictures and pixels per chunk; pictures are drawn FACTOR times larger than stored


class ShiftedSplit(StyleSettings, ScenesSplit):
    """A split of `scenes`, in a style."""


class ShiftedScenes(Scenes):
    source: Literal["shifted_scenes"] = "shifted_scenes"
    splits: dict[str, ShiftedSplit] = Field(description="Per split the number of pairs, the seed and the style.")

    def iterate(self, split: str) -> Iterator[RawPair]:
        wanted = self.split(split)
        chunk = max(1, min(CHUNK, CHUNK_PIXELS // (self.size * FACTOR) ** 2))
        for start in range(0, wanted.pairs, chunk):
            count = min(chunk, wanted.pairs - start)
            images, captions, labels = generate(wanted.seed, start, count, self.size * FACTOR)
            images = styled(images, wanted.style, wanted.strength)
            for row in range(count):
                yield RawPair(f"{split}-{start + row:07d}", images[row], [captions[row]], int(labels[row]))
