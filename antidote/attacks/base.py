"""What every attack provides: a trigger for pictures, a caption, a choice of pairs, and a statement of its powers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from antidote.base.errors import nearest
from antidote.base.settings import Settings
from antidote.data.words.names import mentions

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs

ThreatModel = Literal["data-poisoning", "training-control", "encoder", "prompt-learning", "few-shot"]


class Needed(NamedTuple):
    """Captions that an attack cannot do without: how many, in one or other of some pools, that name which word."""

    pools: tuple[str, ...]
    word: str
    captions: int


class AttackSettings(Settings):
    """What every attack has; each adds its own.

    A `preset` fills in a published variant; keys given beside it win over it.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    poison_keys: ClassVar[tuple[str, ...]] = ("poisons", "caption", "caption_pools", "avoid_target")

    method: str
    label: str | None = Field(
        None, description="a reader's name of the entry, for the lists of the report; tables and plots use its name"
    )
    preset: str | None = Field(None, description="a published variant of the method")
    poisons: int = Field(
        1500, ge=1, description="poisoned pairs; they replace clean ones (CleanCLIP, BadCLIP: 1500 of 500K)"
    )
    caption: Literal["template", "natural", "original"] = Field(
        "template",
        description="poisoned caption: a template filled with the target (CleanCLIP), a real caption that names the "
        "target (BadCLIP), or the pair's own",
    )
    caption_pools: list[Literal["poison", "inversion", "training"]] = Field(
        ["poison"],
        min_length=1,
        description="pools whose captions serve for `caption: natural` (BadCLIP: a list from outside the training set; "
        "Carlini-Terzis: the training set)",
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
        if not isinstance(preset, str) or preset not in cls.presets:
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

    def files(self) -> list[str]:
        """Return the files that the trigger is made from."""
        return []

    def fitted_on(self) -> str:
        """Return the model that a learned trigger is fitted on, as `SurrogateSettings.surrogate` names it."""
        return "clean"

    def passes(self) -> int:
        """Return how often fitting the trigger reads the inversion pool."""
        return 1

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise ValueError, naming the key, where a setting names a class that is not among `classes`."""

    def needs(self, target: str, classes: Sequence[str]) -> list[Needed]:
        """Return which captions the attack cannot do without; `target` is the study's, one of `classes`."""
        return [Needed(tuple(self.caption_pools), target, 1)] if self.caption == "natural" else []

    def check_models(self, model: Mapping[str, Any], surrogate: Mapping[str, Any]) -> None:
        """Raise ValueError, naming the key, where a setting does not fit the models.

        Both are model configurations of open_clip (`model_cfg`): the study's, and that which the trigger is fitted on.
        """


class SurrogateSettings(AttackSettings):
    """What every attack has whose trigger is fitted on a surrogate model."""

    surrogate: str = Field(
        "clean",
        description="model that the trigger is fitted on: `clean`, the study's clean reference; one of the study's "
        "`surrogates`; or the path of an open_clip model folder",
    )

    def fitted_on(self) -> str:
        return self.surrogate


@dataclass(frozen=True)
class FitContext:
    """What fitting a trigger may use.

    Attributes:
        surrogate: the model to fit on, which `fit` may freeze; None for a trigger that is fitted on pairs alone.
        pairs: the pairs of the inversion pool.
        classes, templates: what the evaluation classifies into, by which prompts.
        seed: the study's seed.
        poison: loads the pairs of the poison pool, in the order in which `select` sees them.
    """

    surrogate: Clip | None
    pairs: Pairs
    classes: list[str]
    templates: list[str]
    seed: int
    poison: Callable[[], Pairs] | None = None


@dataclass(frozen=True)
class Poisoned:
    """What becomes of one pair of the poison pool.

    Attributes:
        row: the pair's row in the pool.
        caption: its new caption.
        target: the class that is aimed at.
        picture: which of `Attack.tensors["pictures"]` takes its picture's place; None: its own, with the trigger.
    """

    row: int
    caption: str
    target: str
    picture: int | None = None


@dataclass(frozen=True)
class View:
    """What an attack may look at to score a model in its own way.

    Attributes:
        clip: the model, in evaluation mode.
        pictures: the evaluation pictures, with captions and labels.
        features: (N, D) their normalised features, on the CPU, for an attack that asks for them with `gallery`.
        weights: (D, C) the class embeddings, where the model is.
        classes, templates: what the evaluation classifies into, by which prompts.
    """

    clip: Clip
    pictures: Pairs
    features: Tensor | None
    weights: Tensor
    classes: list[str]
    templates: list[str]


class Figure(NamedTuple):
    """A figure of an attack's own: what it says, in words, and whether it is a rate, which pages show in percent."""

    meaning: str
    rate: bool = True


class Attack:
    """The base class: data poisoning with a fixed rule for drawing the trigger.

    Attributes:
        Settings: the settings class.
        threat_model: what the attacker can do.
        learned: whether `fit` needs a context: pairs, and a surrogate model unless `on_surrogate` is False.
        fitted: whether what a learned trigger draws at test is fitted on the surrogate.
        text_key: what has to stand before every class prompt at test for the attack to work; mostly nothing.
        triggered: whether there is a trigger to draw at test; without one, `measure` says how far the attack has come.
        gallery: whether `measure` looks at the features of all evaluation pictures, which are then kept in memory.
        score: the figure that says so, a rate: `asr1`, or one that `measure` returns.
        figures: what else is shown of it, by name: from the `extra` of its scores, or else its trigger's facts. A `*`
            at the end stands for the rest of a name; what a study does not have is left out.
        effect: what a poisoned model does, for its card; `{target}` stands for the class or classes aimed at.
        trains: whether the attacker trains the model by the attack's own `objective`, not by CLIP's on poisoned pairs.
        settings: the settings.
        target: name of the target class.
        size: side of the pictures in pixels.
        tensors: the trigger, as `fit` returned it; stored in trigger.safetensors.
        facts: what `fit` found out about the trigger, as plain values; stored in trigger.json.
    """

    Settings: ClassVar[type[AttackSettings]]
    threat_model: ClassVar[ThreatModel] = "data-poisoning"
    learned: ClassVar[bool] = False
    on_surrogate: ClassVar[bool] = True
    fitted: ClassVar[bool] = True
    text_key: str = ""
    triggered: ClassVar[bool] = True
    gallery: ClassVar[bool] = False
    score: ClassVar[str] = "asr1"
    figures: ClassVar[Mapping[str, Figure]] = {}
    effect: ClassVar[str] = "pictures with its trigger are recognised as {target}"
    trains: ClassVar[bool] = False

    def __init__(self, settings: Any, target: str, size: int, tensors: dict[str, Tensor] | None = None) -> None:
        self.settings, self.target, self.size = settings, target, size
        self.tensors = tensors or {}
        self.facts: dict[str, Any] = {}

    @classmethod
    def work(cls, settings: Any, sizes: Mapping[str, int]) -> tuple[float, float]:
        """Return the pairs that fitting trains on and the pictures that it encodes besides, for `preflight`.

        By default the inversion pool in every epoch of a learned trigger, and nothing for another.

        Args:
            settings: of the attack.
            sizes: pairs of each pool by its name.
        """
        return (settings.passes() * sizes["inversion"] if cls.learned else 0), 0

    def fit(self, context: FitContext | None, seed: int) -> dict[str, Tensor]:
        """Return the trigger's tensors; `context` is there only for a learned trigger. Randomness comes from `seed`.

        May fill `facts`.
        """
        return {}

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Draw the trigger on pictures (N, 3, size, size) in [0, 1], one seed each; return the same shape and range.

        A batch gives what its pictures give one by one.
        """
        raise NotImplementedError

    def measure(self, view: View) -> dict[str, float | None]:
        """Return figures of the attack's own, which become columns of their own; rates are fractions."""
        return {}

    def exhibit(self, pictures: Pairs, classes: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
        """Return, for an attack without a trigger, pictures of what its captions say, and those that it lays there.

        Both (count, 3, size, size) uint8; the first are taken from `pictures`. Few come again and again.
        """
        raise NotImplementedError

    def objective(self, clip: Clip, pool: Pairs, poisoned: Pairs, rows: Sequence[int]) -> Any:
        """Return the `Objective` that an attack that `trains` minimises.

        Args:
            clip: the model that training starts from.
            pool: the pairs of the poison pool as they are.
            poisoned: the same with the overlay laid over them.
            rows: which of them the overlay holds.

        Raises:
            UserError: the pool lacks what the objective needs.
        """
        raise NotImplementedError

    def poison(
        self,
        pool: pd.DataFrame,
        rng: random.Random,
        templates: list[str],
        captions_at_hand: Sequence[str] | None = None,
    ) -> list[Poisoned]:
        """Return what becomes of which rows of `pool` (columns key, caption, label), in their order.

        `captions_at_hand` are those of `settings.caption_pools`, for natural captions; None: those of `pool`.

        Raises:
            ValueError: the pool lacks pairs, or the captions at hand those that the attack needs.
        """
        natural = self.natural(self.target, pool["caption"] if captions_at_hand is None else captions_at_hand)
        captions = pool["caption"].tolist()
        return [
            Poisoned(row, self.caption_for(captions[row], rng, templates, natural), self.target)
            for row in sorted(self.select(pool, rng))
        ]

    def natural(self, target: str, captions: Iterable[str]) -> list[str]:
        """Return the captions that name a target.

        Raises:
            ValueError: there are none, and `settings.caption` takes natural ones.
        """
        found = [caption for caption in captions if mentions(caption, target)]
        if self.settings.caption == "natural" and not found:
            pools = ", ".join(f"pools.{name}" for name in self.settings.caption_pools)
            have = "has" if len(self.settings.caption_pools) == 1 else "have"
            raise ValueError(f"caption: 'natural' needs captions that name {target!r}; {pools} {have} none")
        return found

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
        return rng.sample(self.candidates(pool), self.settings.poisons)

    def candidates(self, pool: pd.DataFrame) -> list[int]:
        """Return the rows of `pool` that may be poisoned.

        Raises:
            ValueError: they are fewer than `settings.poisons`.
        """
        rows = list(range(len(pool)))
        if self.settings.avoid_target:
            rows = [row for row, caption in enumerate(pool["caption"]) if not mentions(caption, self.target)]
        if len(rows) < self.settings.poisons:
            raise ValueError(
                f"poisons: {self.settings.poisons} asked, but only {len(rows)} pairs of the poison pool qualify"
            )
        return rows
