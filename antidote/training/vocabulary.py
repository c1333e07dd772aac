"""Training over just the words that occur, with the same result as over all of them.

open_clip's vocabulary has 49,408 rows. On a small model AdamW spends half of each step on rows that no caption uses.
Such a row gets no gradient, so all that AdamW does to it is weight decay: a known factor. Training therefore runs on
the rows that occur, and the others are scaled once at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from antidote.base.lazy import open_clip, torch
from antidote.clip.model import Clip

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 10_000  # texts that are split into tokens at a time


class CompactVocabulary:
    """The token embedding of `clip`, reduced to the tokens of `texts` until `restore` is called."""

    def __init__(self, clip: Clip, texts: Iterable[str]) -> None:
        self._clip = clip
        self._full = clip.network.token_embedding
        # The end token has the highest id and must keep it, since pooling looks for it by argmax: ids stay in order.
        used = _tokens_of(clip, texts, self._full.num_embeddings).nonzero().flatten()
        table = torch.full((self._full.num_embeddings,), -1)
        table[used] = torch.arange(len(used))
        self._used = used.to(clip.device)
        compact = torch.nn.Embedding.from_pretrained(self._full.weight[self._used].clone(), freeze=False)
        compact.weight.requires_grad_(self._full.weight.requires_grad)
        clip.network.token_embedding, clip._table = compact, table

    @staticmethod
    def possible(clip: Clip) -> bool:
        """Tell whether the model is an open_clip CLIP with its own trainable token embedding."""
        return isinstance(clip.network, open_clip.CLIP)

    def restore(self, decay: float) -> None:
        """Put the full embedding back: trained rows as they are, all others times `decay`."""
        compact = self._clip.network.token_embedding
        with torch.no_grad():
            self._full.weight.mul_(decay)
            self._full.weight[self._used] = compact.weight.to(self._full.weight.dtype)
        self._clip.network.token_embedding, self._clip._table = self._full, None


def _tokens_of(clip: Clip, texts: Iterable[str], vocabulary: int) -> Tensor:
    """Return bool (vocabulary,): which tokens the texts hold; some texts at a time, since they may be millions."""
    found = torch.zeros(vocabulary, dtype=torch.bool)
    waiting = iter(texts)
    while chunk := sorted(set(islice(waiting, CHUNK))):
        found[clip.tokenize(chunk).unique()] = True
    return found
