"""Loading of batches, from memory or by loader processes from disk."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING

from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.model import Clip
from antidote.data.loaders import check_shared_memory
from antidote.data.streaming import Ahead, Pictures, Rows
from antidote.training import parallel
from antidote.training.objectives import Batch
from antidote.training.order import training_order
from antidote.training.recipe import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.data.pairs import Pairs


def read_ahead(
    clip: Clip,
    pairs: Pairs,
    settings: TrainSettings,
    seed: int,
    steps: range,
    own: Callable[[Tensor], Tensor],
    stop: Callable[[], bool] = lambda: False,
) -> Ahead | nullcontext:
    """Start loader processes for the pictures of some steps; return an empty context where pictures are in memory.

    Args:
        steps: that are left to train.
        own: returns the rows of a batch that this process reads.
        stop: asked while a batch is waited for; True ends the wait with `Stopped`.

    Raises:
        UserError: shared memory is too small for the batches that the loader processes prepare.
    """
    if not isinstance(pairs.images, Pictures) or not steps:
        return nullcontext()
    size, per_epoch = settings.batch_size, len(pairs) // settings.batch_size
    together = len(own(torch.arange(size))) * parallel.size()
    length = clip.network.context_length
    check_shared_memory(together, pairs.images.size, length, pairs.images.reading.workers, len(steps))

    def rows() -> Iterator[Rows]:
        for step in steps:
            epoch, position = divmod(step, per_epoch)
            first = position == 0 or step == steps[0]
            if first:
                order = training_order(pairs, settings, seed, epoch)
            start, stop = position * size, (position + 1) * size
            yield Rows(own(order.rows[start:stop]).tolist(), own(order.entering(start, stop, first)).tolist())

    return Ahead(pairs.images, pairs.captions, rows(), clip.tokenizer, stop)


def read_batch(
    clip: Clip, pairs: Pairs, rows: Tensor, epoch: int, step: int, seed: int, ahead: Ahead | None = None
) -> Batch:
    """Return the batch of some rows (B,), and seed torch's global stream for the step.

    All random draws of a step follow from `seed` and `step` alone, so that a resumed run repeats them.
    """
    captions = [pairs.captions[i] for i in rows.tolist()]
    if ahead is None:
        images = pairs.images[rows]
    else:
        images, tokens = next(ahead)
        clip.remember(captions, tokens.clone())  # a copy: loader processes write to this memory again
    step_seed = derive(seed, "step", step)
    torch.manual_seed(step_seed)
    images = images.to(clip.device, non_blocking=True)
    return Batch(images, captions, rows, epoch, step, random.Random(step_seed))
