"""Objectives of the training loop: the views of a batch that are encoded, and the loss of their features."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from antidote.base.errors import check_choice
from antidote.base.lazy import open_clip, torch
from antidote.training import parallel

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs

# Forward and backward of a text tower of two layers on one AMX core, ms a text, fp32 and bf16: width 96 0.44 and 0.87,
# 192 1.5 and 1.7, 512 27 and 20.
BF16_TEXT_WIDTH = 256


@dataclass(frozen=True)
class Views:
    """What an objective has encoded in one step.

    Attributes:
        images: views of the pictures, each (B', 3, size, size), uint8 or float in [0, 1].
        texts: views of the texts, each a list; B' may differ from view to view, and be 0.
        kept: anything else that the loss of this step needs, as features of a frozen model.
    """

    images: list[Tensor]
    texts: list[list[str]]
    kept: Any = None


@dataclass(frozen=True)
class Batch:
    """One batch of pairs.

    Attributes:
        images: (B, 3, size, size) uint8, on the training device.
        captions: B captions.
        indices: (B,) rows of the pairs that are trained on.
        epoch: from 0.
        step: optimisation steps done so far in the whole run, from 0.
        rng: seeded from the run's seed and the step, so that a resumed run repeats the draws.
        views: what the objective's `views` returned for this batch; None until then, `loss` finds it here.
    """

    images: Tensor
    captions: list[str]
    indices: Tensor
    epoch: int
    step: int
    rng: random.Random
    views: Views | None = None


@dataclass(frozen=True)
class Encoding:
    """How a run encodes.

    Attributes:
        precision: autocast type, the recipe's `precision`.
        parts: number of parts that a batch is encoded in, the recipe's `accumulate`.
    """

    precision: str = "fp32"
    parts: int = 1

    def encode(
        self,
        clip: Clip,
        images: Tensor | None = None,
        texts: Sequence[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return normalised features (N, D) of pictures and of texts, encoded in one pass.

        Returns:
            features of the pictures, features of the texts; None for a side that is empty or None.
        """
        with clip.autocast(self.precision):
            image = clip.encode_image(images) if images is not None and len(images) else None
        with clip.autocast(self._precision_of_texts(clip)):
            return image, clip.encode_text(texts) if texts is not None and len(texts) else None

    def _precision_of_texts(self, clip: Clip) -> str:
        """Return fp32 in place of bf16 for a small text tower on a CPU, where the casts cost more than they save."""
        small = clip.config["model_cfg"]["text_cfg"].get("width", BF16_TEXT_WIDTH) < BF16_TEXT_WIDTH
        return "fp32" if self.precision == "bf16" and small and clip.device.type == "cpu" else self.precision

    def encode_in_parts(
        self,
        clip: Clip,
        images: Tensor | None = None,
        texts: Sequence[str] | None = None,
        within: Callable[[slice], AbstractContextManager] = nullcontext,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return what `encode` returns, computed part by part.

        Memory holds one part: where gradients are needed, each part is encoded again in the backward pass, in a new
        context from `within`. Exact but for batch norm in training mode, which takes its statistics over a part.

        Args:
            within: takes the rows of a part, of the pictures or of the texts, and returns a context for its
                computation, as one that perturbs a block of the network.
        """
        if self.parts == 1:
            with within(slice(None)):
                return self.encode(clip, images, texts)

        def one(part: Any, rows: slice) -> Tensor:
            pictures = torch.is_tensor(part)
            with within(rows):
                found = self.encode(clip, part if pictures else None, None if pictures else part)
            return found[0 if pictures else 1]

        def side(values: Any) -> Tensor | None:
            if values is None or not len(values):
                return None
            rows = torch.arange(len(values)).tensor_split(self.parts)
            places = [slice(int(part[0]), int(part[-1]) + 1) for part in rows if len(part)]
            if not torch.is_grad_enabled():
                return torch.cat([one(values[place], place) for place in places])
            again = torch.utils.checkpoint.checkpoint
            kept = {"use_reentrant": False, "preserve_rng_state": False}
            return torch.cat([again(one, values[place], place, **kept) for place in places])

        return side(images), side(texts)


class Objective:
    """The base class: one view of the pictures, one of the captions; a loss of their normalised features.

        class Aligned(Objective):
            parallel = "rows"

            def loss(self, images, texts, scale, batch):
                distance = (images[0] - texts[0]).square().sum(dim=1).mean()
                return distance, {"distance": distance}

        train(clip, Aligned(pairs), settings, seed, work)

    A subclass overrides `loss`; `shown` for other pairs in the place of stored ones; `views` for further views;
    `trained` to freeze parameters; `begin_epoch`, `state` and `restore` for what changes while it trains. A loss that
    encodes by itself, with a frozen model or in a second pass of the trained one, calls `encode` and `encode_frozen`,
    which follow the run's precision and parts.

    Attributes:
        pairs: the pairs to train on.
        encoding: how the run encodes; the training loop sets it.
        parallel: how several processes share a batch. `rows`: each process loads its share of the batch; row i of every
            view must come from row i of the batch, and `loss` may use features only. `views`: each process makes all
            views of the whole batch and encodes its share of them. None: one process only. A subclass inherits it, so
            one with views or a loss of its own has to state the mode that these allow.
    """

    parallel: ClassVar[Literal["rows", "views"] | None] = None

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        check_choice(cls, "parallel", ("rows", "views", None))

    encoding: Encoding = Encoding()

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def encode(
        self,
        clip: Clip,
        images: Tensor | None = None,
        texts: Sequence[str] | None = None,
        within: Callable[[slice], AbstractContextManager] = nullcontext,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return normalised features (N, D) of pictures and of texts, with gradients, in the run's precision and parts.

        Hooks, or layers in evaluation mode, must be set up by the context that `within` returns and removed by it, also
        after an error: with several parts the network computes again in the backward pass, and torch stops this second
        computation by an error as soon as it has what it needs.

        Args:
            within: takes the rows of a part of the batch, and returns the context in which the part is encoded.
        """
        return self.encoding.encode_in_parts(clip, images, texts, within)

    def encode_frozen(
        self, clip: Clip, images: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the features that `encode` returns, without gradients; for a model that is not trained.

        In the mode `views` each process encodes its share, and all receive the features of the whole.
        """
        sides = [images, texts]
        shared = self.parallel == "views" and parallel.size() > 1
        with torch.no_grad():
            parts = [parallel.part(side) if shared and side is not None else side for side in sides]
            found = self.encoding.encode_in_parts(clip, *parts)
            if not shared:
                return found
            return tuple(
                None if side is None or not len(side) else parallel.gathered(features, len(side))
                for side, features in zip(sides, found, strict=True)
            )

    def texts(self) -> Iterable[str]:
        """Return texts that hold every token which `views` or `loss` may encode; see `CompactVocabulary`."""
        return self.pairs.captions

    def begin_epoch(self, epoch: int) -> None:
        """Draw what changes once per epoch; must depend on the epoch alone, because a resumed run calls it again."""

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs besides weights and step; nothing by default."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set what `state` returned; tensors come on the CPU."""

    def trained(self, network: Any) -> list[tuple[str, Tensor]]:
        """Return the names and parameters that are trained; all by default."""
        return list(network.named_parameters())

    def shown(self, batch: Batch) -> Batch:
        """Return the batch with what its epoch shows in the place of the stored pairs, before crops and mirror images.

        The rows stay in their order. May draw, but must set no attribute.
        """
        return batch

    def views(self, batch: Batch) -> Views:
        """Return what to encode, and what the loss needs besides; may draw, but must set no attribute."""
        return Views([batch.images], [batch.captions])

    def loss(
        self, images: list[Tensor], texts: list[Tensor], scale: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a scalar, and its named terms, for the log.

        Args:
            images: normalised features (B', D) of each view of the pictures.
            texts: the same of each view of the texts.
            scale: s = exp(logit_scale), with its gradient.
            batch: the batch; what `views` returned for it is `batch.views`.
        """
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
