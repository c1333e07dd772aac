"""Who may see what: the levels of access of defenses and detectors, what each level grants, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.data import pools
from antidote.data.overlay import poisoned_keys
from antidote.data.pairs import load_pools
from antidote.data.words.lexicon import load_lexicon
from antidote.data.words.names import class_names, templates

if TYPE_CHECKING:
    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs
    from antidote.data.streaming import Reading
    from antidote.data.words.lexicon import Lexicon

Access = Literal["nothing", "clean-pairs", "few-labelled", "poisoned-training-set", "test-time", "oracle"]


@dataclass(frozen=True)
class Grant:
    """What one level of access grants.

    Attributes:
        pools: names of the pools whose pairs are granted.
        lexicon: whether word classes and synonyms of the study's language resource are granted.
        classes: whether the class names and prompts of the model's use are known.
        training_set: whether the pairs are the training set of the suspicious model, poisoned pairs among them.
        truth: whether the level knows which items are poisoned; controls alone have that.
    """

    pools: tuple[str, ...] = ()
    lexicon: bool = False
    classes: bool = False
    training_set: bool = False
    truth: bool = False

    def arguments(self) -> tuple[str, ...]:
        """Return the names of the sources that the level cannot do without."""
        needed = {"pools": self.pools, "classes": self.classes, "templates": self.classes, "poison": self.training_set}
        return tuple(name for name, wanted in needed.items() if wanted)


TRAINING_SET = ("training", "poison")
GRANTS: Mapping[Access, Grant] = {
    "nothing": Grant(),
    "clean-pairs": Grant(pools=("defense",), lexicon=True),
    "few-labelled": Grant(pools=("shots",), classes=True),
    "poisoned-training-set": Grant(pools=TRAINING_SET, training_set=True),
    "test-time": Grant(classes=True),
    "oracle": Grant(pools=TRAINING_SET, training_set=True, truth=True),
}
POOLS: Mapping[str, tuple[str, ...]] = {level: grant.pools for level, grant in GRANTS.items() if grant.pools}
USES_CLASSES = tuple(level for level, grant in GRANTS.items() if grant.classes)


@dataclass(frozen=True)
class Sources:
    """Where granted data are read from. What a level does not grant is not read.

    Attributes:
        data: folder of the datasets.
        pools: files of the pools.
        lexicon: name of a language resource.
        classes: name of a list of class names.
        templates: name of a list of prompts.
        poison: poison folder of the training set.
        reading: how many pictures may be held in memory; None: all.
    """

    data: Path
    pools: Sequence[Path] = ()
    lexicon: str = "none"
    classes: str | None = None
    templates: str | None = None
    poison: Path | None = None
    reading: Reading | None = None

    @classmethod
    def named(cls, arguments: Mapping[str, Any], reading: Reading | None = None) -> Sources:
        """Return the sources that the arguments of a script name; other arguments do not count."""
        known = (field.name for field in fields(cls) if field.name != "reading")
        return cls(**{name: arguments[name] for name in known if name in arguments}, reading=reading)


@dataclass(frozen=True)
class DefenseData:
    """The data of one access level. What the level does not grant is None.

    Attributes:
        pairs: clean pairs of the defense pool (`clean-pairs`).
        lexicon: word classes and synonyms of the language resource that the study names (`clean-pairs`).
        shots: labelled pictures, equally many of each class (`few-labelled`).
        classes: names of the classes that the model is used for (`few-labelled`, `test-time`).
        templates: prompts of that use (`few-labelled`, `test-time`).
        training_set: all pairs that the model was trained on, poisoned ones among them, in random order and without
            labels (`poisoned-training-set`, `oracle`).
        pictures: pictures at use, clean and triggered in random order, keys "0" to "N-1", no captions, no labels; for a
            detector of pictures.
        poisoned: names of the poisoned items: keys of pairs (`oracle`); for a control among the detectors, items.
        scorer: a clean model, where the settings name one of the study's (a defense with `poisoned-training-set`, any
            detector).
    """

    pairs: Pairs | None = None
    lexicon: Lexicon | None = None
    shots: Pairs | None = None
    classes: list[str] | None = None
    templates: list[str] | None = None
    training_set: Pairs | None = None
    pictures: Pairs | None = None
    poisoned: frozenset[str] | None = None
    scorer: Clip | None = None


def load_granted(level: Access, sources: Sources, size: int, seed: int, scorer: Clip | None = None) -> DefenseData:
    """Load what a level grants, pictures (N, 3, size, size) uint8; `scorer` is a clean model that the settings name.

    Raises:
        UserError: a source that the level needs is missing; a file is missing or damaged.
    """
    grant = GRANTS[level]
    for name in grant.arguments():
        if not getattr(sources, name):
            raise UserError(f"--{name}: is missing; access {level!r} needs it")
    words = (
        {"classes": class_names(sources.classes), "templates": templates(sources.templates)} if grant.classes else {}
    )
    if grant.training_set:
        poisoned = poisoned_keys(sources.poison) if grant.truth else None
        return DefenseData(training_set=_training_set(grant, sources, size, seed), poisoned=poisoned, scorer=scorer)
    if level == "few-labelled":
        return DefenseData(shots=load_pools(sources.pools, grant.pools, sources.data, size), **words)
    if level == "clean-pairs":
        pairs = load_pools(sources.pools, grant.pools, sources.data, size, reading=sources.reading)
        return DefenseData(pairs=pairs, lexicon=load_lexicon(sources.lexicon))
    return DefenseData(**words)


def _training_set(grant: Grant, sources: Sources, size: int, seed: int) -> Pairs:
    """Return the pairs that the model was trained on; neither order nor labels tell which pairs are poisoned."""
    pairs = load_pools(sources.pools, grant.pools, sources.data, size, sources.poison, sources.reading)
    chosen = pools.read(sources.pools)
    chosen = chosen[chosen["pool"].isin(grant.pools)]
    keys = [f"{row.dataset}/{row.split}/{row.key}" for row in chosen.itertuples()]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(derive(seed, "training set")))
    return replace(pairs, keys=keys, labels=torch.full_like(pairs.labels, -1)).take(order)
