"""Captioned pictures in memory, at the model's resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from antidote.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures and captions.

    Attributes:
        keys: N names, unique within one dataset split.
        images: (N, 3, size, size) uint8.
        captions: N captions.
        labels: (N,) class indices, -1 where there is none.
    """

    keys: list[str]
    images: Tensor
    captions: list[str]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Sequence[int] | Tensor) -> Pairs:
        """Return the pairs of some rows, in that order."""
        rows = torch.as_tensor(rows)
        chosen = rows.tolist()
        return replace(
            self,
            keys=[self.keys[i] for i in chosen],
            images=self.images[rows],
            captions=[self.captions[i] for i in chosen],
            labels=self.labels[rows],
        )
