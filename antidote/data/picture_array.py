"""Pictures on disk that are used like a tensor of pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class PictureArray(ABC):
    """Pictures uint8 (N, 3, size, size) on disk, of which only the requested ones are in memory.

    What reads pictures takes a tensor or such an array, and uses of both `shape`, `len`, an index and `split`:

        images[3]                   (3, size, size)
        images[2:5], images[rows]   (n, 3, size, size), for a list or tensor of rows, or a mask (N,)
        images.split(64)            batches, in order

    Attributes:
        shape: (N, 3, size, size).
    """

    shape: tuple[int, int, int, int]

    @abstractmethod
    def read(self, rows: Sequence[int]) -> Tensor:
        """Return the pictures of rows from 0 to N - 1, uint8 (n, 3, size, size).

        Raises:
            UserError: a picture cannot be read.
        """

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Tensor:
        chosen = torch.arange(len(self))[rows]
        found = self.read(chosen.reshape(-1).tolist())
        return found if chosen.dim() else found[0]

    def split(self, count: int) -> Iterator[Tensor]:
        """Yield the pictures in order, `count` at a time."""
        for start in range(0, len(self), count):
            yield self[start : start + count]

    def take(self, rows: Tensor) -> Tensor | PictureArray:
        """Return the pictures of some rows (n,), in memory or not."""
        return self[rows]
