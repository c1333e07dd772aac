"""Training in turns: poisoned pairs in one epoch, their originals in the next (arXiv 2412.06149)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from antidote.base.lazy import torch
from antidote.training.objectives import Batch, Contrastive

if TYPE_CHECKING:
    from antidote.data.pairs import Pairs


class Alternating(Contrastive):
    """InfoNCE on pairs of which the last are poisoned; odd epochs, counted from 0, use their originals instead.

    Args:
        pairs: the training pairs, poisoned ones last.
        originals: the pairs that the poisoned ones were made from, in the same order.
    """

    parallel = "rows"

    def __init__(self, pairs: Pairs, originals: Pairs) -> None:
        super().__init__(pairs)
        self.originals, self.first = originals, len(pairs) - len(originals)
        if pairs.keys[self.first :] != originals.keys:
            raise ValueError("the originals are not those of the last pairs")

    def texts(self) -> Iterable[str]:
        return [*self.pairs.captions, *self.originals.captions]

    def shown(self, batch: Batch) -> Batch:
        if batch.epoch % 2 == 0:
            return batch
        rows = batch.indices.cpu() - self.first
        places = torch.nonzero(rows >= 0).flatten()
        images, captions = batch.images.clone(), list(batch.captions)
        images[places] = self.originals.images[rows[places]].to(images.device, non_blocking=True)
        for place in places.tolist():
            captions[place] = self.originals.captions[int(rows[place])]
        return replace(batch, images=images, captions=captions)
