"""The order in which an epoch takes its pairs; it depends on seed and epoch alone, so that a resumed run repeats it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.seeds import derive

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from antidote.data.pairs import Pairs
    from antidote.training.recipe import TrainSettings


@dataclass(frozen=True)
class Order:
    """One epoch's order of N pairs.

    Attributes:
        rows: (N,) pairs in the order of the training.
        stored: (N,) pairs in the order in which a shuffle buffer takes them from the shards; None: no buffer.
        buffer: pairs that the buffer holds.
    """

    rows: Tensor
    stored: Tensor | None = None
    buffer: int = 0

    def entering(self, start: int, stop: int, first: bool) -> Tensor:
        """Return the pairs (n,) that enter the buffer while the training takes `rows[start:stop]`, in stored order.

        Args:
            start: number of pairs taken before.
            stop: number of pairs taken afterwards.
            first: whether the buffer is still empty, at the begin of an epoch or of a resumed run; if so, the pairs
                that fill the buffer are included.
        """
        if self.stored is None:
            return self.rows[:0]
        if not first:
            return self.stored[self.buffer + start : self.buffer + stop]
        filling = self.stored[: self.buffer + stop]
        return filling[~torch.isin(filling, self.rows[:start])]


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """Return a permutation (count,) of all pairs; a resumed run takes the rest of them in it."""
    return torch.randperm(count, generator=_generator(seed, epoch))


def training_order(pairs: Pairs, settings: TrainSettings, seed: int, epoch: int) -> Order:
    """Return the order of an epoch of a training, as the settings ask for it.

    With `shuffle: shards`, the shards are permuted, their pairs follow in file order, and a shuffle buffer mixes that
    sequence: each pair that enters takes the slot of a random pair, which the training takes next (the buffer of
    tf.data and webdataset). Pairs in memory have the same order as streamed ones. A poisoned pair has the place of its
    original: the overlay as a shard of its own would put all poisoned pairs into one part of the epoch.

    Raises:
        UserError: an order by shard for pairs that lie in no shard.
    """
    if settings.shuffle == "global":
        return Order(epoch_order(seed, epoch, len(pairs)))
    if pairs.places is None:
        raise UserError("shuffle: 'shards' should be 'global' for pairs that are not read from the shards of a dataset")
    generator = _generator(seed, epoch)
    shards, number = np.unique(pairs.places["shard"], return_inverse=True)
    turn = torch.randperm(len(shards), generator=generator).numpy()
    stored = torch.from_numpy(np.lexsort((pairs.places["offset"], turn[number])))
    buffer = min(settings.shuffle_buffer, len(pairs))
    return Order(stored[_buffered(len(pairs), buffer, generator)], stored, buffer)


def _buffered(count: int, size: int, generator: Generator) -> Tensor:
    """Return the order (count,) in which a shuffle buffer of `size` slots gives out the items 0, 1, ..., count - 1."""
    slots = torch.randint(size, (count - size,), generator=generator).numpy()  # slot that item `size + i` takes over
    out = slots.copy()  # each slot first gives out the item of its own number ...
    turns = np.argsort(slots, kind="stable")
    before, after = turns[:-1], turns[1:]
    again = slots[before] == slots[after]
    out[after[again]] = size + before[again]  # ... and then the item that took the slot over the turn before
    inside = np.ones(count, bool)
    inside[out] = False
    rest = np.flatnonzero(inside)
    return torch.from_numpy(np.concatenate([out, rest[torch.randperm(size, generator=generator).numpy()]]))


def _generator(seed: int, epoch: int) -> Generator:
    return torch.Generator().manual_seed(derive(seed, "order", epoch))
