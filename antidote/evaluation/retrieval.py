"""Retrieval of captions by pictures and of pictures by captions, and what a trigger does to it.

R@k, picture to text: share of pictures with one of their own captions among the k nearest; text to picture: share of
captions with their picture among the k nearest. The effect of a trigger is counted over triggered pictures whose own
captions do not name the target: `target_word` is the mean share of the k nearest captions that name the target (a
precision; ours), `target_any` the share of pictures with at least one such caption among the k nearest, which papers
call ASR of retrieval: PAR with k = 5, InverTune with k = 10. Both papers count all pictures. PAR takes the target as a
substring, InverTune also takes its variants; here the target is a whole word. Of equal scores the earlier caption or
picture comes first.

Pictures pass batch by batch; the features of the set, pictures and captions, are in memory (COCO's 5K test pictures at
1024 dimensions: 120 MB).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.data.pairs import Pairs
from antidote.data.words.names import mentions
from antidote.evaluation.base import Inputs, Measure, ScoredSet, ZeroShotSettings
from antidote.evaluation.metrics import rank_of
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import batches, encode

if TYPE_CHECKING:
    from torch import Tensor

K = (1, 5, 10)
ANY_K = (5, 10)  # PAR's, InverTune's; at 1 it is the share itself
BLOCK = 256  # rows of scores at a time


class Retrieval(ScoredSet, Measure):
    """Pictures with captions that every cell is asked to find for one another."""

    dataset: str = Field(description="a dataset with captions")
    captions: int = Field(5, ge=1, description="captions of a picture that count, the first ones (COCO, Flickr: 5)")

    columns: ClassVar = (
        *(f"{way}_r{k}" for way in ("i2t", "t2i") for k in K),
        *(f"target_word{k}" for k in K),
        *(f"target_any{k}" for k in ANY_K),
    )
    floors: ClassVar = {"target_": "floor_"}

    def measure(self, subject: Subject, inputs: Inputs) -> dict[str, float | None]:
        return retrieve(subject, *inputs.captioned(self, self.captions), inputs.settings)


def retrieve(
    subject: Subject, pictures: Pairs, captions: Sequence[Sequence[str]], settings: ZeroShotSettings
) -> dict[str, float | None]:
    """Return `i2t_rK` and `t2i_rK`, and where there is a trigger to draw `target_wordK`, fractions, for K = 1, 5, 10,
    and `target_anyK` for K = 5, 10.

    A k that covers the whole set, and target words where no caption names the target, are None.

    Args:
        pictures: N pictures.
        captions: of each picture its captions, at least one.

    Raises:
        UserError: features are not finite.
    """
    clip, target = subject.clip, subject.classes[subject.target]
    texts = [text for own in captions for text in own]
    owners = torch.tensor([row for row, own in enumerate(captions) for _ in own])
    with torch.no_grad():
        clip.network.eval()
        text_features = _encoded(subject, texts, settings)
        clean, triggered = _looked_at(subject, pictures, settings)
        if not (text_features.isfinite().all() and clean.isfinite().all()):
            raise UserError(
                "model: its features are not finite numbers; its weights are damaged, or its training has diverged"
            )
        found = {**_recalls(clean, text_features, owners)}
        if triggered is not None:
            said = torch.tensor([mentions(text, target) for text in texts])
            found |= _target_words(triggered, text_features, owners, said)
    return found


def _encoded(subject: Subject, texts: Sequence[str], settings: ZeroShotSettings) -> Tensor:
    step, starts = settings.batch_size, range(0, len(texts), settings.batch_size)
    return torch.cat([subject.clip.encode_text(texts[start : start + step]) for start in starts])


def _looked_at(subject: Subject, pictures: Pairs, settings: ZeroShotSettings) -> tuple[Tensor, Tensor | None]:
    """Return the features (N, D) of the pictures, and of triggered copies where there is a trigger to draw."""
    clip, clean, triggered = subject.clip, [], []
    for images, reached, _ in batches(pictures, settings.batch_size, subject.drawn, clip.device):
        clean.append(encode(clip, images, settings.precision))
        if reached is not None:
            triggered.append(encode(clip, reached, settings.precision))
    return torch.cat(clean), torch.cat(triggered) if triggered else None


def _recalls(pictures: Tensor, texts: Tensor, owners: Tensor) -> dict[str, float | None]:
    """Return R@k both ways from features (N, D), (T, D) and the row of the picture that each text belongs to, (T,)."""
    rows, text_ranks = torch.arange(len(pictures)), []
    for part in rows.split(BLOCK):
        scores = (pictures[part] @ texts.T).cpu()
        own = owners[None] == part[:, None]
        best = scores.masked_fill(~own, -2.0).argmax(dim=1)  # below any cosine; of equal ones the first
        text_ranks.append(rank_of(scores, best))
    picture_ranks = [rank_of((texts[part] @ pictures.T).cpu(), owners[part]) for part in
                     torch.arange(len(texts)).split(BLOCK)]  # fmt: skip
    return {
        **{f"i2t_r{k}": _share(torch.cat(text_ranks) < k) if k < len(texts) else None for k in K},
        **{f"t2i_r{k}": _share(torch.cat(picture_ranks) < k) if k < len(pictures) else None for k in K},
    }


def _target_words(pictures: Tensor, texts: Tensor, owners: Tensor, said: Tensor) -> dict[str, float | None]:
    """Return target-word rates: `said` (T,) tells which texts name the target."""
    own = torch.zeros(len(pictures), dtype=torch.bool)
    own[owners[said]] = True
    others = (~own).nonzero().flatten()
    if not said.any() or not len(others):
        return {**{f"target_word{k}": None for k in K}, **{f"target_any{k}": None for k in ANY_K}}
    nearest = []
    for part in others.split(BLOCK):
        scores = (pictures[part] @ texts.T).cpu()
        nearest.append(scores.sort(dim=1, descending=True, stable=True).indices[:, : max(K)])
    hit = said[torch.cat(nearest)]
    return {
        **{f"target_word{k}": _share(hit[:, :k]) if k < len(texts) else None for k in K},
        **{f"target_any{k}": _share(hit[:, :k].any(dim=1)) if k < len(texts) else None for k in ANY_K},
    }


def _share(values: Tensor) -> float:
    return float(values.double().mean())
