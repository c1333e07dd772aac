"""Who may see what: the levels of access of a defense, and what each grants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs
    from antidote.data.words.lexicon import Lexicon

Access = Literal[
    "nothing", "clean-pairs", "few-labelled", "poisoned-training-set", "pretraining", "test-time", "oracle"
]
# Which pools an access level grants. `oracle` is no defense but a control: it also knows which pairs are poisoned.
POOLS: Mapping[str, tuple[str, ...]] = {
    "clean-pairs": ("defense",),
    "few-labelled": ("shots",),
    "poisoned-training-set": ("training", "poison"),
    "oracle": ("training", "poison"),
}
USES_CLASSES = ("few-labelled", "test-time")  # access levels that know the classes and prompts of the model's use


@dataclass(frozen=True)
class DefenseData:
    """The data of a defense's access level. What its level does not grant is None.

    Attributes:
        pairs: clean pairs of the defense pool (`clean-pairs`).
        lexicon: word classes and synonyms of the language resource that the study names (`clean-pairs`).
        shots: labelled pictures, equally many of each class (`few-labelled`).
        classes: names of the classes that the model is used for (`few-labelled`, `test-time`).
        templates: prompts of that use (`few-labelled`, `test-time`).
        training_set: all pairs that the model was trained on, poisoned ones among them, in random order and without
            labels (`poisoned-training-set`, `oracle`).
        poisoned: keys of the poisoned pairs (`oracle`).
        scorer: a clean model, where the settings name one of the study's (`poisoned-training-set`).
    """

    pairs: Pairs | None = None
    lexicon: Lexicon | None = None
    shots: Pairs | None = None
    classes: list[str] | None = None
    templates: list[str] | None = None
    training_set: Pairs | None = None
    poisoned: frozenset[str] | None = None
    scorer: Clip | None = None
