"""CLIP's tokenizer, for texts of any length."""

from __future__ import annotations

import re
from typing import Any

from antidote.base.lazy import open_clip


def tokenizer(length: int) -> Any:
    """Return open_clip's tokenizer for `length` tokens, protected against very long words.

    The time to split a word grows with the square of the word's length. A token covers a limited number of characters,
    so a word is cut where its tokens would exceed `length` anyway; the token ids do not change.
    """
    made = open_clip.SimpleTokenizer(context_length=length)
    longest = length * max(map(len, made.encoder))  # characters; 2,464 for CLIP's vocabulary and 77 tokens
    clean, word = made.clean_fn, re.compile(rf"(\S{{{longest}}})\S+")
    made.clean_fn = lambda text: word.sub(r"\1", clean(text))
    return made
