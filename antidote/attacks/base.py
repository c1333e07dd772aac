"""What every attack provides: a trigger for pictures, a caption, a choice of pairs, and a statement of its powers."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from antidote.errors import nearest
from antidote.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from antidote.data.pairs import Pairs
    from antidote.models import Clip

ThreatModel = Literal["data-poisoning", "training-control", "encoder", "prompt-learning", "few-shot"]


class AttackSettings(Settings):
    """What every attack has; each adds its own.

    A `preset` fills in a published variant; keys given beside it win over it.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    poison_keys: ClassVar[tuple[str, ...]] = ("poisons", "caption", "avoid_target")

    method: str
    label: str | None = Field(None, description="name in tables and plots; the entry's name by default")
    preset: str | None = Field(None, description="a published variant of the method")
    poisons: int = Field(
        1500, ge=0, description="poisoned pairs; they replace clean ones (CleanCLIP, BadCLIP: 1500 of 500K)"
    )
    caption: Literal["template", "natural", "original"] = Field(
        "template",
        description="poisoned caption: a template filled with the target (CleanCLIP), a real caption that names the "
        "target (BadCLIP), or the pair's own",
    )
    avoid_target: bool = Field(
        True, description="leave out pairs whose caption names the target already (our choice; the papers draw blindly)"
    )
    training: dict[str, Any] = Field({}, description="changes to the study's `poisoning` recipe for this attack")

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        preset = values.get("preset") if isinstance(values, dict) else None
        if preset is None:
            return values
        if preset not in cls.presets:
            raise ValueError(f"preset: unknown preset {preset!r}{nearest(str(preset), cls.presets)}")
        return {**cls.presets[preset], **values}

    def trigger_settings(self) -> dict[str, Any]:
        """Return what the trigger depends on: all but the choice of pairs, the captions, the training and the label."""
        return self.model_dump(mode="json", exclude={*self.poison_keys, "label", "preset", "training"})

    def poison_settings(self) -> dict[str, Any]:
        """Return what only the choice of pairs and their captions depend on."""
        return self.model_dump(mode="json", include=set(self.poison_keys))

    def check(self, size: int) -> None:
        """Raise ValueError, naming the key, where a setting does not fit pictures of `size` x `size` pixels."""


@dataclass(frozen=True)
class FitContext:
    """What fitting a trigger may use: a surrogate model and the pairs of the inversion pool."""

    surrogate: Clip
    pairs: Pairs
    classes: list[str]
    templates: list[str]
    seed: int


class Attack:
    """The base class: data poisoning with a fixed rule for drawing the trigger.

    Attributes:
        Settings: the settings class.
        threat_model: what the attacker can do.
        learned: whether `fit` must run on a surrogate before `apply`.
        settings: the settings.
        target: name of the target class.
        size: side of the pictures in pixels.
        tensors: the trigger, as `fit` returned it; stored in trigger.safetensors.
    """

    Settings: ClassVar[type[AttackSettings]]
    threat_model: ClassVar[ThreatModel] = "data-poisoning"
    learned: ClassVar[bool] = False

    def __init__(self, settings: Any, target: str, size: int, tensors: dict[str, Tensor] | None = None) -> None:
        self.settings, self.target, self.size = settings, target, size
        self.tensors = tensors or {}

    def fit(self, context: FitContext | None, seed: int) -> dict[str, Tensor]:
        """Return the trigger's tensors; `context` is there only for a learned trigger. Randomness comes from `seed`."""
        return {}

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Draw the trigger on pictures (N, 3, size, size) in [0, 1], one seed each; return the same shape and range.

        A batch gives what its pictures give one by one.
        """
        raise NotImplementedError

    def caption_for(self, original: str, rng: random.Random, templates: list[str], natural: list[str]) -> str:
        """Return the poisoned caption; `natural` holds the captions at hand that name the target."""
        if self.settings.caption == "original":
            return original
        if self.settings.caption == "natural":
            return rng.choice(natural)
        return rng.choice(templates).format(self.target)

    def select(self, pool: pd.DataFrame, rng: random.Random) -> list[int]:
        """Return the rows of `pool` (columns key, caption, label) to poison, `settings.poisons` of them, unordered.

        Raises:
            ValueError: fewer pairs qualify than are to be poisoned.
        """
        rows = list(range(len(pool)))
        if self.settings.avoid_target:
            rows = [row for row in rows if not names(pool["caption"].iloc[row], self.target)]
        if len(rows) < self.settings.poisons:
            raise ValueError(
                f"poisons: {self.settings.poisons} asked, but only {len(rows)} pairs of the poison pool qualify"
            )
        return rng.sample(rows, self.settings.poisons)


def names(caption: str, word: str) -> bool:
    """Tell whether a caption holds `word` (one or more words) as whole words, whatever the case."""
    return re.search(rf"\b{re.escape(word)}\b", caption, re.IGNORECASE) is not None
