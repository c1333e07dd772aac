"""Easy data augmentation of captions (Wei and Zou 2019, arXiv 1901.11196), as CleanCLIP uses it."""

from __future__ import annotations

import random
import re

from antidote.data.lexicon import Lexicon

RATE = 0.1  # share of the words that each operation touches, and the deletion probability (CleanCLIP's code)


def augment(caption: str, lexicon: Lexicon, rng: random.Random) -> str:
    """Return one of four variants, chosen at random: synonyms replaced or inserted, words swapped or dropped.

    The caption is lower-cased and freed of all but letters first. Without synonyms in the lexicon the first two
    operations leave the words as they are.
    """
    words = re.sub(r"[^a-z ]", "", re.sub(r"[-\s]+", " ", caption.lower())).split()
    if not words:
        return caption
    count = max(1, int(RATE * len(words)))
    return " ".join(rng.choice((_replace, _insert, _swap, _delete))(words, count, lexicon, rng))


def _replace(words: list[str], count: int, lexicon: Lexicon, rng: random.Random) -> list[str]:
    """Replace up to `count` distinct words by a synonym, wherever they stand."""
    choices = {word: lexicon.synonyms(word) for word in dict.fromkeys(words)}
    known = [word for word, synonyms in choices.items() if synonyms]
    swap = {word: rng.choice(choices[word]) for word in rng.sample(known, min(count, len(known)))}
    return [swap.get(word, word) for word in words]


def _insert(words: list[str], count: int, lexicon: Lexicon, rng: random.Random) -> list[str]:
    """Insert `count` synonyms of words of the caption at random places."""
    synonyms = [synonym for word in words for synonym in lexicon.synonyms(word)]
    words = list(words)
    for _ in range(count if synonyms else 0):
        words.insert(rng.randrange(len(words) + 1), rng.choice(synonyms))
    return words


def _swap(words: list[str], count: int, lexicon: Lexicon, rng: random.Random) -> list[str]:
    """Swap two words, `count` times."""
    words = list(words)
    for _ in range(count if len(words) > 1 else 0):
        i, j = rng.sample(range(len(words)), 2)
        words[i], words[j] = words[j], words[i]
    return words


def _delete(words: list[str], count: int, lexicon: Lexicon, rng: random.Random) -> list[str]:
    """Drop each word with probability RATE; at least one stays."""
    return [word for word in words if rng.random() > RATE] or [rng.choice(words)]
