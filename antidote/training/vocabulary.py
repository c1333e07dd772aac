"""Training of only those token embeddings that occur in the captions, with the same result as training all.

open_clip's vocabulary has 49,408 rows. With a small model AdamW spends half of each step on rows that no caption uses.
Such a row gets no gradient, so AdamW only applies weight decay to it, a known factor. Training therefore runs on the
rows that occur, and the others are scaled once at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from antidote.base.lazy import open_clip, torch
from antidote.clip.model import Clip

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 10_000  # texts that are tokenised at a time


class CompactVocabulary:
    """The token embedding of `clip`, reduced to the tokens of `texts` until `restore` is called."""

    def __init__(self, clip: Clip, texts: Iterable[str]) -> None:
        self._clip = clip
        self._full = clip.network.token_embedding
        # Ids stay in order: the end token must keep the highest id, because pooling finds it by argmax.
        used = _tokens_of(clip, texts, self._full.num_embeddings).nonzero().flatten()
        table = torch.full((self._full.num_embeddings,), -1)
        table[used] = torch.arange(len(used))
        self._used = used.to(clip.device)
        compact = torch.nn.Embedding.from_pretrained(self._full.weight[self._used].clone(), freeze=False)
        compact.weight.requires_grad_(self._full.weight.requires_grad)
        clip.network.token_embedding, clip._table = compact, table

    @staticmethod
    def possible(clip: Clip) -> bool:
        """Return whether the model is an open_clip CLIP with a trainable token embedding of its own."""
        return isinstance(clip.network, open_clip.CLIP)

    def restore(self, decay: float) -> None:
        """Put the full embedding back: trained rows as they are, all others times `decay`."""
        compact = self._clip.network.token_embedding
        with torch.no_grad():
            self._full.weight.mul_(decay)
            self._full.weight[self._used] = compact.weight.to(self._full.weight.dtype)
        self._clip.network.token_embedding, self._clip._table = self._full, None


def _tokens_of(clip: Clip, texts: Iterable[str], vocabulary: int) -> Tensor:
    """Return bool (vocabulary,): whether a token occurs in the texts, of which there may be millions."""
    found = torch.zeros(vocabulary, dtype=torch.bool)
    waiting = iter(texts)
    while chunk := sorted(set(islice(waiting, CHUNK))):
        found[clip.tokenize(chunk).unique()] = True
    return found
