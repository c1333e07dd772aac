"""The base class of every attack: trigger, poisoned caption, choice of pairs, and threat model."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from antidote.attacks.contract import Figure, FitContext, Needed, Poisoned, View
from antidote.base.errors import check_choice, nearest
from antidote.base.settings import Name, Settings
from antidote.data.words.names import mentions

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs

ThreatModel = Literal["data-poisoning", "training-control", "encoder", "few-shot"]


class AttackSettings(Settings):
    """Settings shared by all attacks; each attack's settings class adds its own keys.

    A `preset` fills in a published variant. Keys given next to `preset` override the preset's values.

    Example:
        class BarSettings(AttackSettings):
            presets = {"thin": {"width": 1}}

            method: Literal["bar"] = "bar"
            width: int = Field(3, ge=1, description="width of the bar in pixels (our choice)")

            def check(self, size: int) -> None:
                if self.width > size:
                    raise ValueError(f"width: {self.width} is larger than the picture ({size} pixels)")
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    poison_keys: ClassVar[tuple[str, ...]] = ("poisons", "caption", "caption_pools", "avoid_target")

    method: str
    label: str | None = Field(
        None, description="display name of the entry in the lists of the report; tables and plots use the entry's name"
    )
    preset: str | None = Field(None, description="a published variant of the method")
    poisons: int = Field(
        1500, ge=1, description="number of poisoned pairs, which replace clean pairs (CleanCLIP, BadCLIP: 1500 of 500K)"
    )
    caption: Literal["template", "natural", "original"] = Field(
        "template",
        description="poisoned caption: a template filled with the target (CleanCLIP), a real caption that names the "
        "target (BadCLIP), or the pair's original caption",
    )
    caption_pools: list[Literal["poison", "inversion", "training"]] = Field(
        ["poison"],
        min_length=1,
        description="pools that supply the captions for `caption: natural` (BadCLIP: a list from outside the training "
        "set; Carlini-Terzis: the training set)",
    )
    avoid_target: bool = Field(
        True, description="exclude pairs whose caption already names the target (our choice; the papers do not check)"
    )
    training: dict[str, Any] = Field({}, description="changes to the study's `poisoning` recipe for this attack")
    checkpoint: Name | None = Field(
        None,
        description="weights of a released backdoored model, a file or an open_clip model folder: the backdoored model "
        "is loaded, not trained; the other settings describe its trigger; empty: the model is trained",
    )

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
        """Return the settings that define the trigger: all but pair choice, captions, training, preset and label."""
        return self.model_dump(mode="json", exclude={*self.poison_keys, "label", "preset", "training", "checkpoint"})

    def poison_settings(self) -> dict[str, Any]:
        """Return the settings that affect only the choice of pairs and the captions."""
        return self.model_dump(mode="json", include=set(self.poison_keys))

    def check(self, size: int) -> None:
        """Raise ValueError that names the key if a setting does not fit pictures of `size` x `size` pixels."""

    def files(self) -> list[str]:
        """Return the paths of the files that the trigger is made from."""
        return []

    def fitted_on(self) -> str:
        """Return the model that a learned trigger is fitted on, as `SurrogateSettings.surrogate` names it."""
        return "clean"

    def passes(self) -> int:
        """Return how often fitting the trigger reads the inversion pool."""
        return 1

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise ValueError that names the key if a setting names a class that is not in `classes`."""

    def needs(self, target: str, classes: Sequence[str]) -> list[Needed]:
        """Return the captions that the attack requires; `target` is the study's target, one of `classes`."""
        return [Needed(tuple(self.caption_pools), target, 1)] if self.caption == "natural" else []

    def check_models(self, model: Mapping[str, Any], surrogate: Mapping[str, Any]) -> None:
        """Check the settings against the models.

        Args:
            model: open_clip configuration (`model_cfg`) of the study's model.
            surrogate: open_clip configuration of the model that the trigger is fitted on.

        Raises:
            ValueError: a setting does not fit a model; the message names the key.
        """


class SurrogateSettings(AttackSettings):
    """Settings shared by attacks that fit the trigger on a surrogate model."""

    surrogate: str = Field(
        "clean",
        description="model that the trigger is fitted on: `clean`, the study's clean reference; one of the study's "
        "`surrogates`; or the path of an open_clip model folder",
    )

    def fitted_on(self) -> str:
        return self.surrogate


class Attack:
    """Base class of all attacks. The defaults describe data poisoning with a trigger that is not fitted.

    Example:
        class Bar(Attack):
            Settings = BarSettings

            def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
                images = images.clone()
                images[:, :, : self.settings.width] = 1
                return images

        attack = Bar(BarSettings(width=2), target="banana", size=224)
        attack.tensors = attack.fit(None, seed=0)
        triggered = attack.apply(images, seeds)

    Attributes:
        Settings: the settings class.
        threat_model: the attacker's capabilities.
        learned: whether `fit` needs a context: pairs, and a surrogate model unless `on_surrogate` is False.
        on_surrogate: whether a learned attack needs a surrogate model.
        fitted: whether the trigger that a learned attack draws at test time is fitted on the surrogate.
        text_key: text put before every class prompt at test time; empty by default.
        triggered: whether the attack draws a trigger at test time; attacks without a trigger are scored by `measure`.
        gallery: whether `measure` needs the features of all evaluation pictures, which are then kept in memory.
        score: name of the attack's success rate: `asr1`, or a key that `measure` returns.
        figures: further measures of the attack by name, from the `extra` of its scores or from the trigger's facts. A
            `*` at the end of a name matches any ending. Measures that a study lacks are omitted.
        effect: behaviour of a poisoned model, for the model card; `{target}` stands for the target class or classes.
        trains: whether the attacker trains with the attack's own `objective` instead of CLIP's on poisoned pairs.
        not_estimated: why `preflight` estimates no memory of `fit`; None: it does.
        kept: bytes of a triggered picture that cells share, per byte of the picture, for `preflight`; 0: drawn anew.
        settings: the settings.
        target: name of the target class.
        size: side of the square pictures in pixels.
        tensors: the trigger as returned by `fit`; stored in trigger.safetensors.
        facts: plain values that `fit` reports about the trigger; stored in trigger.json.
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
    not_estimated: ClassVar[str | None] = None
    kept: ClassVar[float] = 0.0

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        check_choice(cls, "threat_model", get_args(ThreatModel))

    def __init__(self, settings: Any, target: str, size: int, tensors: dict[str, Tensor] | None = None) -> None:
        self.settings, self.target, self.size = settings, target, size
        self.tensors = tensors or {}
        self.facts: dict[str, Any] = {}

    @classmethod
    def work(cls, settings: Any, sizes: Mapping[str, int]) -> tuple[float, float]:
        """Return the fitting cost for `preflight`: pairs trained on, and pictures encoded in addition.

        By default, a learned trigger trains on the inversion pool once per epoch; other triggers cost nothing.

        Args:
            settings: settings of the attack.
            sizes: number of pairs of each pool, by pool name.
        """
        return (settings.passes() * sizes["inversion"] if cls.learned else 0), 0

    @classmethod
    def step_views(cls, settings: Any, recipe: Any) -> tuple[float, float, int]:
        """Return what a step of the backdoored model's training keeps in memory, as `Defense.step_views` does.

        `recipe` is a `TrainSettings`, which is not imported: a change of recipes would redraw every trigger.
        """
        return 1, 1, 0

    def fit(self, context: FitContext | None, seed: int) -> dict[str, Tensor]:
        """Return the trigger's tensors; may fill `facts`.

        Args:
            context: inputs for fitting; None unless the attack is `learned`.
            seed: the only source of randomness.
        """
        return {}

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Draw the trigger.

        The result of a picture must not depend on the other pictures of the batch.

        Args:
            images: (N, 3, size, size) in [0, 1].
            seeds: N seeds, one per picture.

        Returns:
            Triggered pictures of the same shape and range.
        """
        raise NotImplementedError

    def measure(self, view: View) -> dict[str, float | None]:
        """Return the attack's own measures by name, each a column of the results; rates are fractions in [0, 1]."""
        return {}

    def exhibit(self, pictures: Pairs, classes: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
        """Return example pictures of an attack without a trigger, for the report.

        Args:
            pictures: evaluation pictures with labels.
            classes: class names that the labels index.
            count: number of examples; pictures are repeated if fewer are available.

        Returns:
            Clean pictures of the captions' class, taken from `pictures`, and the attack's replacements; both
            (count, 3, size, size) uint8.
        """
        raise NotImplementedError

    def objective(self, clip: Clip, pool: Pairs, poisoned: Pairs, rows: Sequence[int]) -> Any:
        """Return the `Objective` that an attack with `trains = True` minimises.

        Args:
            clip: the model that training starts from.
            pool: the clean pairs of the poison pool.
            poisoned: the same pairs with the poisoned pairs put in.
            rows: rows of the poisoned pairs.

        Raises:
            UserError: the pool lacks pairs that the objective needs.
        """
        raise NotImplementedError

    def poison(
        self,
        pool: pd.DataFrame,
        rng: random.Random,
        templates: list[str],
        captions_at_hand: Sequence[str] | None = None,
    ) -> list[Poisoned]:
        """Return the poisoned pairs, in row order.

        Args:
            pool: the poison pool, columns key, caption, label.
            rng: source of randomness.
            templates: caption templates with one gap for the target.
            captions_at_hand: captions of `settings.caption_pools`, for natural captions; None: the captions of `pool`.

        Raises:
            ValueError: the pool has too few pairs, or `captions_at_hand` lacks captions that the attack needs.
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
            ValueError: no caption names the target although `settings.caption` is `natural`.
        """
        matching = [caption for caption in captions if mentions(caption, target)]
        if self.settings.caption == "natural" and not matching:
            pools = ", ".join(f"pools.{name}" for name in self.settings.caption_pools)
            have = "has" if len(self.settings.caption_pools) == 1 else "have"
            raise ValueError(f"caption: 'natural' needs captions that name {target!r}; {pools} {have} none")
        return matching

    def caption_for(self, original: str, rng: random.Random, templates: list[str], natural: list[str]) -> str:
        """Return the poisoned caption; `natural` holds the available captions that name the target."""
        if self.settings.caption == "original":
            return original
        if self.settings.caption == "natural":
            return rng.choice(natural)
        return rng.choice(templates).format(self.target)

    def select(self, pool: pd.DataFrame, rng: random.Random) -> list[int]:
        """Return the rows of `pool` (columns key, caption, label) to poison: `settings.poisons` rows, in any order.

        Raises:
            ValueError: fewer than `settings.poisons` pairs qualify.
        """
        return rng.sample(self.candidates(pool), self.settings.poisons)

    def candidates(self, pool: pd.DataFrame) -> list[int]:
        """Return the rows of `pool` (columns key, caption, label) that may be poisoned.

        Raises:
            ValueError: fewer than `settings.poisons` pairs qualify.
        """
        rows = list(range(len(pool)))
        if self.settings.avoid_target:
            rows = [row for row, caption in enumerate(pool["caption"]) if not mentions(caption, self.target)]
        if len(rows) < self.settings.poisons:
            raise ValueError(
                f"poisons: {self.settings.poisons} asked, but only {len(rows)} pairs of the poison pool qualify"
            )
        return rows
