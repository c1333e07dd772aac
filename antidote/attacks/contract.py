"""What attacks are handed, and what they hand back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs


class Needed(NamedTuple):
    """Captions that an attack requires.

    Attributes:
        pools: pools whose captions are counted together.
        word: class name that the captions name.
        captions: minimum number of captions.
    """

    pools: tuple[str, ...]
    word: str
    captions: int


@dataclass(frozen=True)
class FitContext:
    """Inputs for fitting a trigger.

    Attributes:
        surrogate: the model to fit on; `fit` may freeze the model. None for triggers that are fitted on pairs alone.
        pairs: the pairs of the inversion pool.
        classes, templates: class names and prompt templates of the evaluation.
        seed: the study's seed.
        poison: loads the pairs of the poison pool, in the row order that `select` uses.
    """

    surrogate: Clip | None
    pairs: Pairs
    classes: list[str]
    templates: list[str]
    seed: int
    poison: Callable[[], Pairs] | None = None


@dataclass(frozen=True)
class Poisoned:
    """The poisoned version of one pair of the poison pool.

    Attributes:
        row: the pair's row in the pool.
        caption: the new caption.
        target: the target class of this pair.
        picture: index into `Attack.tensors["pictures"]` of the replacement picture; None: the pair's picture with the
            trigger.
    """

    row: int
    caption: str
    target: str
    picture: int | None = None


def with_stored_pictures(plan: Sequence[Poisoned], pool: Sequence[str], stored: Sequence[str]) -> list[Poisoned]:
    """Return a plan whose poisoned pairs have their own pictures of `Attack.tensors["pictures"]`.

    Args:
        plan: the poisoned pairs.
        pool: keys of the poison pool, in the order of its rows.
        stored: keys of the stored pictures, in their order.

    Raises:
        ValueError: a poisoned pair has no stored picture.
    """
    numbers = {key: number for number, key in enumerate(stored)}
    if any(pool[pair.row] not in numbers for pair in plan):
        raise ValueError("pictures: the trigger was made with another poison pool; make it again")
    return [replace(pair, picture=numbers[pool[pair.row]]) for pair in plan]


@dataclass(frozen=True)
class View:
    """Inputs for an attack that scores a model with its own measures.

    Attributes:
        clip: the model, in evaluation mode.
        pictures: the evaluation pictures with captions and labels.
        features: (N, D) normalised features of the pictures, on the CPU; None unless the attack sets `gallery`.
        weights: (D, C) class embeddings, on the model's device.
        classes, templates: class names and prompt templates of the evaluation.
    """

    clip: Clip
    pictures: Pairs
    features: Tensor | None
    weights: Tensor
    classes: list[str]
    templates: list[str]


class Figure(NamedTuple):
    """A measure that one attack adds.

    Attributes:
        meaning: what the measure means, in words, for the generated pages.
        rate: whether the measure is a rate; pages show rates in percent.
    """

    meaning: str
    rate: bool = True
