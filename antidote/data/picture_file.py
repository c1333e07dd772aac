"""Pictures of one size in one raw file, for a set that is read as a stream first and by rows afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from antidote.base.lazy import torch
from antidote.data.picture_array import PictureArray

if TYPE_CHECKING:
    from torch import Tensor


IN_MEMORY = 1 << 30  # bytes of a part that is read at once


class PictureFile(PictureArray):
    """Pictures uint8 (N, 3, size, size), one after the other in a file. Usage:

    with path.open("wb") as file:
        for part in parts:  # uint8 (n, 3, size, size)
            file.write(part.numpy().tobytes())
    images = PictureFile(path, size)
    """

    def __init__(self, path: Path, size: int, rows: Tensor | None = None) -> None:
        """Open `path`; `rows` (N,) are the pictures of the file that the array has, in this order; None: all."""
        self._path, self._bytes = path, 3 * size * size
        self._rows = torch.arange(path.stat().st_size // self._bytes) if rows is None else rows
        self.shape = (len(self._rows), 3, size, size)

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return the pictures of rows from 0 to N - 1, uint8 (n, 3, size, size)."""
        stored = np.memmap(self._path, np.uint8, mode="r").reshape(-1, *self.shape[1:])  # let go with this call
        return torch.from_numpy(np.asarray(stored[self._rows[list(rows)].numpy()]))

    def take(self, rows: Tensor) -> Tensor | PictureFile:
        """Return the pictures of some rows (n,), in memory if they fit into IN_MEMORY."""
        part = PictureFile(self._path, self.shape[-1], self._rows[rows])
        return part[:] if len(rows) * self._bytes <= IN_MEMORY else part
