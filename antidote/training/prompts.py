"""Learned prompts in front of class names (CoOp, Zhou et al. 2022, arXiv 2109.01134)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.clip.model import Clip

if TYPE_CHECKING:
    from torch import Tensor


NAME = 12  # tokens of a long class name with start, full stop and end; most of ImageNet's names take fewer (ours)


def full_length(context: str, model: Mapping[str, Any]) -> float:
    """Return the length of a class prompt as a share of what a model (`model_cfg` of open_clip) reads, an estimate."""
    window = model["text_cfg"].get("context_length", 77)
    return min(1, (len(context.split()) + NAME) / window)


class ClassPrompts:
    """Texts "<context> <name>." with a learned context per class.

    Attributes:
        contexts: (C, M, width), the learned word embeddings; they start as those of `context`.

    Raises:
        UserError: a text has more tokens than the model's context length.
    """

    def __init__(self, clip: Clip, classes: list[str], context: str) -> None:
        self.clip = clip
        texts, window = [f"{context} {name}." for name in classes], clip.network.context_length
        count, longest = max((len(clip.tokenizer.encode(text)) + 2, text) for text in texts)
        if count > window:
            raise UserError(f"context: {longest!r} has {count} tokens, and the model reads {window}; shorten it")
        self.tokens = clip.tokenize(texts)
        self.ends = self.tokens.argmax(dim=1)
        self.words = int(clip.tokenize([context])[0].argmax()) - 1  # without the start token
        with torch.no_grad():
            start = clip.network.token_embedding(self.tokens[:, 1 : 1 + self.words].to(clip.device))
        self.contexts = start.clone().requires_grad_()

    def encode(self, chosen: list[int] | range) -> Tensor:
        """Return the normalised text features (n, D) of n classes, given by their indices."""
        chosen = list(chosen)
        ends = self.ends[chosen]
        length = int(ends.max()) + 1
        tokens = self.tokens[chosen, :length].to(self.clip.device, non_blocking=True)
        words = self.clip.network.token_embedding(tokens)
        rows = torch.tensor(chosen).to(self.clip.device, non_blocking=True)
        words = torch.cat([words[:, :1], self.contexts[rows].to(words.dtype), words[:, 1 + self.words :]], dim=1)
        return self.clip.encode_embedded(words, ends)
