"""Captioned pictures at the model's resolution, in memory or, for large sets, in shards on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.data import pools, streaming
from antidote.data.overlay import TAR, check_size, read_manifest, read_overlay
from antidote.data.picture_array import PictureArray
from antidote.data.store import shards
from antidote.data.stored import load_stored
from antidote.data.streaming import Pictures, Reading, Texts

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

HASHED = 256  # pictures that are hashed at a time
SHARD_PLACE = np.dtype([("shard", np.int32), ("offset", np.int64)])  # number of the shard, byte in the shard


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures and captions.

    Attributes:
        keys: N names, unique within one dataset split.
        images: uint8 (N, 3, size, size), or pictures on disk that return such a tensor when indexed.
        captions: the first caption of each picture (N); overlays, augmentations and tokens use this caption.
        labels: (N,) class indices; -1: no label.
        places: (N,) of dtype SHARD_PLACE: where the picture of each pair is stored; a poisoned pair has the place of
            its original. None: the pairs are not from the shards of a dataset.
    """

    keys: Sequence[str]
    images: Tensor | PictureArray
    captions: Sequence[str]
    labels: Tensor
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def different(self) -> Different:
        """The rows of different pictures; what was hashed is kept with the pairs."""
        return Different(self.images)

    def take(self, rows: Sequence[int] | Tensor) -> Pairs:
        """Return the pairs of the given rows, in that order."""
        rows = torch.as_tensor(rows, dtype=torch.long)
        images = self.images.take(rows) if isinstance(self.images, PictureArray) else self.images[rows]
        keys, captions = _taken(self.keys, rows), _taken(self.captions, rows)
        places = None if self.places is None else self.places[rows.numpy()]
        return replace(self, keys=keys, images=images, captions=captions, labels=self.labels[rows], places=places)


class Different:
    """Rows of different pictures: of equal ones the first. A picture is hashed when a row beyond it is asked for, once.

    pairs.different.first(256)  # at most 256 rows, in order
    """

    def __init__(self, images: Tensor | PictureArray) -> None:
        self._images, self._hashed = images, 0
        self._rows: dict[bytes, int] = {}  # by hash, as the pictures of a large pool would be a second copy of it

    def first(self, count: int) -> list[int]:
        """Return the rows of the first different pictures, at most `count`."""
        while len(self._rows) < count and self._hashed < len(self._images):
            pictures = self._images[self._hashed : self._hashed + HASHED].cpu().numpy()
            for row, picture in enumerate(pictures, self._hashed):
                self._rows.setdefault(hashlib.sha256(picture.tobytes()).digest(), row)
            self._hashed += len(pictures)
        return list(self._rows.values())[:count]


def _taken(texts: Sequence[str], rows: Tensor) -> Sequence[str]:
    return texts.take(rows.numpy()) if isinstance(texts, Texts) else [texts[i] for i in rows.tolist()]


def load_pools(
    paths: Path | Sequence[Path],
    names: Sequence[str],
    data: Path,
    size: int,
    overlay: Path | None = None,
    reading: Reading | None = None,
) -> Pairs:
    """Load the pairs of pools, in the order of files and positions, resized and cropped to `size`.

    Args:
        paths: files written by `scripts/pools.py`.
        names: names of pools; names that the files do not contain are ignored.
        data: the folder of the datasets.
        size: side of the pictures in pixels.
        overlay: a poison folder; its pairs replace the clean pairs with the same dataset, split and key.
        reading: its memory limit decides whether pictures stay in their shards; None: all are loaded.

    Raises:
        UserError: a file is missing or damaged, no named pool exists, or the overlay poisons other pairs.
    """
    chosen = pools.read(paths)
    chosen = chosen[chosen["pool"].isin(names)].reset_index(drop=True)
    on_disk = reading is not None and not reading.fits(len(chosen), size)
    parts = [
        _on_disk(data / dataset / split, group["key"], size, reading)
        if on_disk
        else load_rows(data / dataset / split, group["key"].tolist(), size, reading)
        for (dataset, split), group in chosen.groupby(["dataset", "split"], sort=False)
    ]
    if not parts:
        files = ", ".join(map(str, [paths] if isinstance(paths, Path) else paths))
        raise UserError(f"{files}: holds none of the pools {', '.join(names)}")
    if len(parts) == 1:
        pairs = parts[0]  # not copied: half a million pictures of 224 pixels are 75 GB
    else:
        # Grouping keeps the order within each split; the order of the pools' file is restored over all splits.
        order = [i for _, group in chosen.groupby(["dataset", "split"], sort=False) for i in group.index]
        pairs = _joined(parts).take(torch.as_tensor(order).argsort())
    if overlay is None:
        return pairs
    return (_overlaid_on_disk if on_disk else _overlaid)(pairs, chosen, overlay, size)


def load_rows(folder: Path, keys: Sequence[str] | None, size: int, reading: Reading | None = None) -> Pairs:
    """Load the pairs with the given keys from one dataset split (None: all pairs), at `size`.

    Raises:
        UserError: the split is missing or incomplete, a key is not in it, or a picture cannot be read.
    """
    index = shards.open_index(folder, ["key", "shard", "offset", "size", "caption", "label"])
    if keys is not None:
        found = index.set_index("key").index.get_indexer(list(keys))
        if (found < 0).any():
            missing = keys[int((found < 0).argmax())]
            raise UserError(f"{folder}: holds no pair {missing!r}; {shards.OTHER_VERSION}")
        index = index.iloc[found].reset_index(drop=True)
    threads = torch.get_num_threads() if reading is None else reading.threads
    return Pairs(
        keys=index["key"].tolist(),
        images=torch.from_numpy(load_stored(folder, index, size, threads)),
        captions=index["caption"].tolist(),
        labels=torch.tensor(index["label"].to_numpy()),
        places=_places(index["shard"].factorize()[0], index["offset"]),
    )


def _on_disk(folder: Path, keys: pd.Series, size: int, reading: Reading) -> Pairs:
    """Return the pairs with the given keys of one dataset split; their pictures stay in the shards."""
    rows = shards.find_rows(folder, keys, ["shard", "offset", "size", "caption", "label"])
    stored = streaming.pictures(folder, rows, size, reading)
    return Pairs(
        keys=Texts(rows["key"].combine_chunks()),
        images=stored,
        captions=Texts(rows["caption"].combine_chunks()),
        labels=torch.tensor(rows["label"].to_numpy()),
        places=_places(stored.places["file"], stored.places["offset"]),
    )


def _places(shard: Any, offset: Any) -> np.ndarray:
    places = np.empty(len(shard), SHARD_PLACE)
    places["shard"], places["offset"] = shard, offset
    return places


def _joined(parts: list[Pairs]) -> Pairs:
    on_disk = isinstance(parts[0].images, Pictures)
    text = streaming.joined_texts if on_disk else lambda texts: [text for part in texts for text in part]
    places, shards_before = [], 0
    for part in parts:
        places.append(_places(part.places["shard"] + shards_before, part.places["offset"]))
        shards_before = int(places[-1]["shard"].max()) + 1
    return Pairs(
        keys=text([part.keys for part in parts]),
        images=(streaming.joined if on_disk else torch.cat)([part.images for part in parts]),
        captions=text([part.captions for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        places=np.concatenate(places),
    )


def _overlaid(pairs: Pairs, chosen: pd.DataFrame, overlay: Path, size: int) -> Pairs:
    """Replace pairs by their poisoned versions; the pictures of `pairs` are modified in place."""
    manifest, pictures = read_overlay(overlay, size)
    captions = list(pairs.captions)
    for row, caption, picture in zip(_rows(manifest, chosen, overlay), manifest["caption"], pictures, strict=True):
        pairs.images[row], captions[row] = picture, caption
    return replace(pairs, captions=captions)


def _overlaid_on_disk(pairs: Pairs, chosen: pd.DataFrame, overlay: Path, size: int) -> Pairs:
    """Replace pairs by their poisoned versions; the pictures stay in the overlay's tar."""
    manifest = read_manifest(overlay)
    check_size(overlay, manifest, size)
    rows = _rows(manifest, chosen, overlay)
    pictures = pairs.images.replaced(rows, overlay / TAR, manifest["offset"], manifest["size"])
    return replace(pairs, images=pictures, captions=pairs.captions.replaced(rows, manifest["caption"].tolist()))


def _rows(manifest: pd.DataFrame, chosen: pd.DataFrame, overlay: Path) -> list[int]:
    """Return the row of each poisoned pair among the pairs of the pools."""
    names = ["dataset", "split", "key"]
    where = chosen[names].reset_index(names="row").merge(manifest[names].reset_index(names="poison"), on=names)
    where = where.set_index("poison")["row"].reindex(range(len(manifest)))
    if where.isna().any():
        key = manifest["key"].iloc[int(where.isna().argmax())]
        raise UserError(f"{overlay}: poisons {key!r}, which is not in the pools; poison again")
    return where.astype(int).tolist()
