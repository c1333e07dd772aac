"""Features of a suspicious model, computed in batches, without gradients."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from antidote.base.errors import UserError
from antidote.base.lazy import functional, torch
from antidote.clip.adapted import raw_features

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs

ENCODED = 256  # pictures or texts per batch
FEWEST = 16  # different pictures or captions from which the score of a model means something (ours: one small batch)


class FeatureFile:
    """Raw picture features (N, D) float32 in a file, as `images` of pairs whose pictures are encoded already.

    Indexing reads a batch of rows at a time; `whole` reads all rows, once. Usage:

        pairs = Pairs(keys, FeatureFile(Path("features.f32"), 512), captions, labels)
        picture_features(clip, pairs, normalised=False)[torch.tensor([3, 1])]  # (2, 512)
    """

    def __init__(self, path: Path, width: int) -> None:
        """Open `path`, which holds N x `width` numbers in the order of the pairs."""
        self._path, self._width = path, width
        self._count = path.stat().st_size // (4 * width)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the features (n, D) of rows (n,)."""
        size = 4 * self._width
        with self._path.open("rb", buffering=0) as file:
            parts = [os.pread(file.fileno(), size, row * size) for row in rows.tolist()]
        return torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.float32).view(-1, self._width)

    def whole(self) -> Tensor:
        """Return all features (N, D), in memory."""
        return torch.from_numpy(np.fromfile(self._path, np.float32)).view(-1, self._width)


def picture_features(clip: Clip, pairs: Pairs, normalised: bool = True) -> Tensor | FeatureFile:
    """Return picture features (N, D) float32 on the CPU: unit length, or as encoded if not `normalised`.

    Both are features of the model as it is used, with its adapter.

    Raw features of pairs that are encoded already stay in their file.
    """
    if isinstance(pairs.images, FeatureFile):
        return functional.normalize(pairs.images.whole(), dim=1) if normalised else pairs.images
    clip.network.eval()

    def encode(images: Tensor) -> Tensor:
        return clip.encode_image(images) if normalised else raw_features(clip, images)

    starts = range(0, len(pairs), ENCODED)
    with torch.no_grad():
        return torch.cat([encode(pairs.images[start : start + ENCODED]).cpu() for start in starts])


def text_features(clip: Clip, texts: list[str]) -> Tensor:
    """Return text features (N, D) float32 of unit length on the CPU."""
    clip.network.eval()
    starts = range(0, len(texts), ENCODED)
    with torch.no_grad():
        return torch.cat([clip.encode_text(texts[start : start + ENCODED]).cpu() for start in starts])


def different(name: str, pairs: Pairs, count: int) -> Pairs:
    """Return the pairs of the first different pictures, at most `count`, if these are enough for a score.

    Args:
        name: name of the detector, for the message.
        pairs: clean pairs.
        count: number of pictures that the detector uses.

    Raises:
        UserError: fewer than `FEWEST` of the pictures differ, or fewer than `count` where the detector uses fewer.
    """
    rows = pairs.different.first(count)
    check_different(name, len(rows), count, "pictures")
    return pairs.take(rows)


def check_different(name: str, found: int, count: int, what: str) -> None:
    """Raise UserError if fewer than `FEWEST` of at most `count` pictures or captions differ."""
    least = min(FEWEST, count)
    if found < least:
        raise UserError(f"{name}: {found} different {what} are given; at least {least} are needed")
