"""Pictures in class folders, shown in another style: as a sketch, a negative, a painting, or at night.

A domain shift for photographs of which no second domain is at hand: the pictures differ from those of `folder` in style
alone. A real second domain, such as ImageNet-Sketch, differs in more.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from antidote.data.sources.base import RawPair, Skipped
from antidote.data.sources.folder import Folder
from antidote.data.store.images import UnreadablePicture, decode, fit
from antidote.data.styles import FACTOR, StyleSettings, styled


class RestyledSplit(StyleSettings):
    folder: str = Field(description="Folder under root.")


class RestyledFolder(Folder):
    source: Literal["restyled_folder"] = "restyled_folder"
    splits: dict[str, RestyledSplit] = Field(description="Per split its folder and the style.")

    def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
        wanted = self.split(split)
        for pair in super().iterate(split):
            yield self._restyled(pair, wanted) if isinstance(pair, RawPair) else pair

    def place(self, split: str) -> Path:
        return Path(self.root) / self.split(split).folder

    def _restyled(self, pair: RawPair, wanted: RestyledSplit) -> RawPair:
        """Return a pair with the centre of its picture, square, in a style; one that cannot be read stays as it is.

        Lines and strokes are drawn on pixels finer by FACTOR, and the picture has its former shorter side again, or
        `image_size`.
        """
        try:
            picture = decode(pair.image)
        except UnreadablePicture:
            return pair  # counted with its reason where pairs are taken in
        side = min(*picture.size, self.image_size or min(picture.size))
        return replace(pair, image=styled(fit(picture, FACTOR * side)[None], wanted.style, wanted.strength)[0])
