"""Decoded and resized pictures of a split: written once, then read on access by every evaluation.

pictures-{fit}.npy    uint8 (N, 3, size, size), in numpy's format
pictures-{fit}.json   version of the split that the pictures were made from; written last

`fit` is the side in pixels, followed by the number of pictures if that is limited: `224`, `224-1000`. The files are
stored beside the shards, because several studies can use them. Without them, pictures are decoded from the shards on
each access.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from antidote.base.errors import UserError
from antidote.base.files import read_json, whole_file, write_json
from antidote.base.lazy import torch
from antidote.data.pairs import Pairs
from antidote.data.picture_array import PictureArray
from antidote.data.store import images, shards

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

COLUMNS = ["key", "shard", "offset", "size", "caption", "label"]
CHUNK_BYTES = 2**24  # decoded pictures written at a time
HEADER_BYTES = 256  # largest header of a .npy file


class StoredPictures(PictureArray):
    """Pictures uint8 (N, 3, size, size) on disk, indexed like a tensor; only the requested pictures are in memory.

    Attributes:
        shape: (N, 3, size, size).
    """

    def __init__(self, count: int, size: int, read: Callable[[Sequence[int]], np.ndarray]) -> None:
        """`read` returns the pictures of the given rows, uint8 (n, 3, size, size)."""
        self.shape = (count, 3, size, size)
        self._read = read

    def read(self, rows: Sequence[int]) -> Tensor:
        return torch.from_numpy(self._read(rows))


def write(folder: Path, size: int, pictures: int | None, threads: int = 1) -> int:
    """Decode and resize the pictures of a split, write them beside the shards, and return their number.

    Args:
        folder: the folder of the split.
        size: side in pixels.
        pictures: number of pictures, evenly spaced over the split; None: all.
        threads: decoding threads.

    Raises:
        UserError: the split is missing or incomplete, or a picture cannot be read.
    """
    index = _taken(shards.open_index(folder, COLUMNS), pictures)
    array, description = _paths(folder, size, pictures)
    read, shape = _decoder(folder, index, size, threads), (len(index), 3, size, size)
    step = max(1, CHUNK_BYTES // (3 * size**2))
    with whole_file(array) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for start in range(0, len(index), step):
            file.write(read(range(start, min(start + step, len(index)))))
        description.unlink(missing_ok=True)  # it describes the array that is about to be replaced
    write_json(description, _identity(folder, shape))
    return len(index)


def load(folder: Path, size: int, pictures: int | None) -> Pairs:
    """Return the pairs of a split that `write` chooses; their pictures, at `size`, are read from disk on access.

    Raises:
        UserError: the split is missing or incomplete; the stored pictures are damaged or were made from another version
            of the split.
    """
    index = _taken(shards.open_index(folder, COLUMNS), pictures)
    array, description = _paths(folder, size, pictures)
    if description.is_file():
        read = _reader(array, description, _identity(folder, (len(index), 3, size, size)))
    else:
        read = _decoder(folder, index, size, torch.get_num_threads())
    return Pairs(
        keys=index["key"].tolist(),
        images=StoredPictures(len(index), size, read),
        captions=index["caption"].tolist(),
        labels=torch.tensor(index["label"].to_numpy()),
    )


def captions(folder: Path, pictures: int | None, most: int) -> list[list[str]]:
    """Return the first `most` captions of each picture that `load` returns, in the same order."""
    index = _taken(shards.open_index(folder, ["captions"]), pictures)
    return [[str(text) for text in own[:most]] for own in index["captions"]]


def labels(folder: Path) -> list[int]:
    """Return the distinct labels of all pairs of a split, sorted; -1 (no label) is left out."""
    found = shards.open_index(folder, ["label"])["label"].unique().tolist()
    return sorted(label for label in found if label >= 0)


def _paths(folder: Path, size: int, pictures: int | None) -> tuple[Path, Path]:
    name = f"pictures-{size}" + ("" if pictures is None else f"-{pictures}")
    return folder / f"{name}.npy", folder / f"{name}.json"


def _taken(index: pd.DataFrame, pictures: int | None) -> pd.DataFrame:
    """Return all rows of the index, or `pictures` rows evenly spaced over the split."""
    if pictures is None or pictures >= len(index):
        return index
    return index.iloc[torch.linspace(0, len(index) - 1, pictures).long().numpy()].reset_index(drop=True)


def _identity(folder: Path, shape: Sequence[int]) -> dict[str, Any]:
    return {"index_sha256": read_json(folder / "manifest.json")["index_sha256"], "shape": list(shape)}


def _decoder(folder: Path, index: pd.DataFrame, size: int, threads: int) -> Callable[[Sequence[int]], np.ndarray]:
    """Return a function that decodes the pictures of given rows from the shards."""

    def read(rows: Sequence[int]) -> np.ndarray:
        chosen = index.iloc[rows]
        files, names = shards.read_images(folder, chosen), shards.place_names(folder, chosen)
        return images.load_pictures(files, size, threads, names)

    return read


def _reader(array: Path, description: Path, wanted: dict[str, Any]) -> Callable[[Sequence[int]], np.ndarray]:
    """Return a function that reads the pictures of given rows from the array file, consecutive rows in one read."""
    if read_json(description) != wanted:
        raise UserError(f"{description}: its pictures are of another version of this split; delete it")
    shape = tuple(wanted["shape"])
    picture = math.prod(shape[1:])
    first = array.stat().st_size - shape[0] * picture if array.is_file() else 0
    if not 0 < first <= HEADER_BYTES:
        raise UserError(f"{array}: is missing or truncated; delete {description}")

    def read(rows: Sequence[int]) -> np.ndarray:
        found = np.empty((len(rows), *shape[1:]), np.uint8)
        with array.open("rb") as file:
            for place, row, count in _runs(rows):
                file.seek(first + row * picture)
                file.readinto(memoryview(found[place : place + count]).cast("B"))
        return found

    return read


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the runs of consecutive rows as (position in `rows`, first row, count)."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            yield start, rows[start], end - start
            start = end
