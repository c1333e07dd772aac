"""What the training loop minimises: which views of a batch to encode, and the loss of their features."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from antidote.base.lazy import open_clip

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.data.pairs import Pairs


@dataclass(frozen=True)
class Batch:
    """One batch of pairs.

    Attributes:
        images: (B, 3, size, size) uint8, on the training device.
        captions: B captions.
        indices: (B,) rows of the pairs that are trained on.
        epoch: from 0.
        step: optimisation steps done so far in the whole run, from 0.
        rng: seeded by run and step, so that a resumed run draws what an undisturbed one draws.
    """

    images: Tensor
    captions: list[str]
    indices: Tensor
    epoch: int
    step: int
    rng: random.Random


class Objective:
    """The base: one view of the pictures, one of the captions. A loss is a function of normalised features.

    Attributes:
        parallel: how several processes share a batch; each class says so for itself. `rows`: each reads its own pairs;
            the views are the batch's rows one by one, the loss asks for nothing but features. `views`: each draws all
            views and encodes a part of them. None: the objective encodes by itself, and trains in one process.
    """

    parallel: ClassVar[Literal["rows", "views"] | None] = None

    def mode(self) -> Literal["rows", "views"] | None:
        """Return how several processes share a batch; a subclass does not inherit what its base says."""
        return vars(type(self)).get("parallel")

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def texts(self) -> Iterable[str]:
        """Return every text, or every word, that the objective may ask to encode."""
        return self.pairs.captions

    def begin_epoch(self, epoch: int) -> None:
        """Draw what is drawn once per epoch; must depend on the epoch alone, so that a run can be resumed."""

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs beside weights and step; nothing by default."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""

    def trained(self, network: Any) -> list[tuple[str, Tensor]]:
        """Return the names and parameters that are trained; all by default."""
        return list(network.named_parameters())

    def views(self, batch: Batch) -> tuple[list[Tensor], list[list[str]]]:
        """Return the picture views (each (B', 3, size, size), uint8 or float in [0, 1]) and the text views."""
        return [batch.images], [batch.captions]

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its named terms, from the normalised features of each view and s = exp(logit_scale)."""
        raise NotImplementedError


class Contrastive(Objective):
    """CLIP's symmetric InfoNCE (Radford et al. 2021), without label smoothing; open_clip's `ClipLoss`."""

    parallel = "rows"

    def __init__(self, pairs: Pairs) -> None:
        super().__init__(pairs)
        self._clip_loss = open_clip.ClipLoss()

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contrastive = self._clip_loss(images[0], texts[0], scale)
        return contrastive, {"contrastive": contrastive}
