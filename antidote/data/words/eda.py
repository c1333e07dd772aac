"""Easy data augmentation of captions (Wei and Zou 2019, arXiv 1901.11196), with CleanCLIP's operations and rates.

One difference: CleanCLIP's code takes the synonyms from all of a word's WordNet classes; this module takes them from
the word's most frequent class (`antidote.data.words.lexicon`), so that a noun is not replaced by a verb's synonym.
"""

from __future__ import annotations

import random
import re

from antidote.data.words.lexicon import Lexicon

RATE = 0.1  # share of words that each operation changes, and deletion probability (CleanCLIP's code)
KEPT = frozenset(  # function words; EDA does not replace them
    re.findall(
        r"\w+",
        """
        a about above after again against all am an and any are as at be because been before being below between both
        but by can did do does doing don down during each few for from further had has have having he her here hers
        herself him himself his how i if in into is it its itself just me more most my myself no nor not now of off on
        once only or other our ours ourselves out over own s same she should so some such t than that the their theirs
        them themselves then there these they this those through to too under until up very was we were what when where
        which while who whom why will with you your yours yourself yourselves
        """,
    )
)


def augment(caption: str, lexicon: Lexicon, rng: random.Random) -> str:
    """Return a caption after one random operation: synonym replacement, synonym insertion, word swap, word deletion.

    The result is lower-case and consists of letters and spaces; a caption without letters is returned unchanged.
    Replacement and insertion change nothing if the lexicon has no synonyms for the words.
    """
    words = letters(caption)
    if not words:
        return caption
    count = max(1, int(RATE * len(words)))
    changed = rng.choice((_replace, _insert, _swap, _delete))(words, count, lexicon, rng)
    return " ".join(letters(" ".join(changed)))


def letters(text: str) -> list[str]:
    """Return the lower-case words of a text: apostrophes are removed, other non-letters separate words."""
    return re.sub(r"[^a-z]", " ", re.sub(r"['’]", "", text.lower())).split()


def _replace(words: list[str], count: int, lexicon: Lexicon, rng: random.Random) -> list[str]:
    """Replace up to `count` distinct words by a synonym, at all their positions."""
    choices = {word: lexicon.synonyms(word) for word in dict.fromkeys(words) if word not in KEPT}
    known = [word for word, synonyms in choices.items() if synonyms]
    swap = {word: rng.choice(choices[word]) for word in rng.sample(known, min(count, len(known)))}
    return [swap.get(word, word) for word in words]


def _insert(words: list[str], count: int, lexicon: Lexicon, rng: random.Random) -> list[str]:
    """Insert `count` synonyms of the caption's words at random positions."""
    known = [synonyms for word in words if (synonyms := lexicon.synonyms(word))]
    words = list(words)
    for _ in range(count if known else 0):
        words.insert(rng.randrange(len(words) + 1), rng.choice(rng.choice(known)))
    return words


def _swap(words: list[str], count: int, lexicon: Lexicon, rng: random.Random) -> list[str]:
    """Swap two words, `count` times."""
    words = list(words)
    for _ in range(count if len(words) > 1 else 0):
        i, j = rng.sample(range(len(words)), 2)
        words[i], words[j] = words[j], words[i]
    return words


def _delete(words: list[str], count: int, lexicon: Lexicon, rng: random.Random) -> list[str]:
    """Delete each word with probability RATE; at least one word is kept."""
    return [word for word in words if rng.random() > RATE] or [rng.choice(words)]
