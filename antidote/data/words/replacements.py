"""Words that may take the place of a caption's word: of the same class, and not related to it."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from antidote.data.words.lexicon import Lexicon

SWAPPED = ("noun", "adjective", "verb")
PICTURE_NOUNS = frozenset(  # nouns that do not name an object, singular
    re.findall(
        r"\w+",
        """
        photo photograph picture image view shot snapshot sketch drawing painting illustration portrait print rendering
        render graphic vector cartoon video footage screenshot closeup scene front back side top bottom middle center
        centre foreground background left right edge corner part piece pair group row bunch set lot kind type sort
        number
        """,
    )
)


class Replacements:
    """Replacements for a word: words of the same class that are not related to it.

    By the lexicon, a replacement is not another form of the word, a synonym, or more general or more special; with such
    a word, the caption could still be true for the picture.

    Attributes:
        words: per class in SWAPPED, the words of the captions, without nouns that do not name an object.
    """

    def __init__(self, words: list[str], lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        words = [word for word in words if not of_pictures(word)]
        self.words = {kind: [word for word in words if lexicon.word_class(word) == kind] for kind in SWAPPED}
        self._places = {kind: {word: place for place, word in enumerate(known)} for kind, known in self.words.items()}
        # Per class and meaning: positions in `words` with this meaning, and with this meaning or a more special one.
        self._means: dict[str, dict[Any, set[int]]] = {kind: defaultdict(set) for kind in SWAPPED}
        self._holds: dict[str, dict[Any, set[int]]] = {kind: defaultdict(set) for kind in SWAPPED}
        self._below: dict[str, dict[Any, set[int]]] = {kind: defaultdict(set) for kind in SWAPPED}
        self._related: dict[tuple[str, str], frozenset[int]] = {}
        for kind, known in self.words.items():
            for place, word in enumerate(known):
                own, true = lexicon.meanings(word, kind)
                for index, meanings in ((self._means[kind], own), (self._holds[kind], true)):
                    for meaning in meanings:
                        index[meaning].add(place)
                for parent in lexicon.parents(word, kind):
                    self._below[kind][parent].add(place)

    def related(self, word: str, kind: str) -> frozenset[int]:
        """Return the positions in `words` of the words of a class that are related to a word."""
        if (word, kind) not in self._related:
            own, true = self.lexicon.meanings(word, kind)
            self._related[word, kind] = frozenset().union(
                *(self._means[kind].get(meaning, ()) for meaning in true),
                *(self._holds[kind].get(meaning, ()) for meaning in own),
            )
        return self._related[word, kind]

    def alike(self, one: str, other: str, kind: str) -> bool:
        """Return whether two words of a class are the same or related."""
        return one == other or self._places[kind].get(other) in self.related(one, kind)

    def pick(
        self,
        word: str,
        kind: str,
        rng: random.Random,
        besides: Iterable[tuple[str, str | None]] = (),
        near: bool = False,
    ) -> str | None:
        """Return a random word of a class that is not related to `word`, uniformly distributed; None: no such word.

        Args:
            word: the word to replace.
            kind: the class.
            rng: random numbers.
            besides: further (word, class) to avoid, together with words related to them in the same class.
            near: prefer words that share a hypernym with `word`.
        """
        places = self._places[kind]
        taken = {*self.related(word, kind), *(places[other] for other, _ in besides if other in places)}
        taken.update(*(self.related(other, kind) for other, its in besides if its == kind))
        if near:
            parents = self.lexicon.parents(word, kind)
            siblings = set().union(*(self._below[kind].get(parent, ()) for parent in parents)) - taken
            if siblings:
                return self.words[kind][rng.choice(sorted(siblings))]
        left = len(self.words[kind]) - len(taken)
        if not left:
            return None
        place = rng.randrange(left)
        for other in sorted(taken):  # converts the position among the free words to a position in `words`
            place += other <= place
        return self.words[kind][place]


def of_pictures(word: str) -> bool:
    """Return whether a noun, in singular or plural, is about the picture and does not name an object."""
    return word in PICTURE_NOUNS or word.removesuffix("s") in PICTURE_NOUNS
