"""What every defense provides, and what it is handed: a suspicious model and the data of its access level, no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from antidote.errors import UserError
from antidote.settings import Settings
from antidote.training import Report, TrainSettings, Work, train

if TYPE_CHECKING:
    from antidote.data.lexicon import Lexicon
    from antidote.data.pairs import Pairs
    from antidote.models import Clip
    from antidote.objectives import Objective

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


class DefenseSettings(Settings):
    """What every defense has; each adds its own."""

    method: str
    label: str | None = Field(
        None, description="a reader's name of the entry, for the lists of the report; tables and plots use its name"
    )

    def check(self, model: Mapping[str, Any]) -> None:
        """Raise ValueError, naming the key, where a setting does not fit a model configuration of open_clip."""


class FineTuningSettings(DefenseSettings):
    """A defense that trains on the defense pool."""

    training: TrainSettings = Field(TrainSettings(), description="the training recipe")


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


class Defense:
    """The base class.

    Attributes:
        Settings: the settings class.
        access: what the defender has.
        reconstruction: whether the paper leaves parts open that we filled in.
        uses_lexicon: whether it looks up words; one that does not is not run again when the lexicon changes.
        adapter: name of the adapter that the model folder gets, if any.
        files: names of further files that the model folder gets.
        parallel: whether several processes can train it together; its objective then says how.
    """

    Settings: ClassVar[type[DefenseSettings]]
    access: ClassVar[Access]
    reconstruction: ClassVar[bool] = False
    uses_lexicon: ClassVar[bool] = False
    adapter: ClassVar[str | None] = None
    files: ClassVar[tuple[str, ...]] = ()
    parallel: ClassVar[bool] = False

    def __init__(self, settings: Any, seed: int) -> None:
        self.settings, self.seed = settings, seed

    @classmethod
    def fits(cls, model: Mapping[str, Any]) -> str | None:
        """Return why the method cannot work on a model configuration of open_clip; None where it can."""
        return None

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        """Clean `clip` in place, or return in the report the model that stands in for it; report what it cost."""
        raise NotImplementedError


class FineTuningDefense(Defense):
    """A defense that is an objective on the shared training loop, with a fresh optimiser."""

    access = "clean-pairs"

    def objective(self, clip: Clip, data: DefenseData) -> Objective:
        """Return what is minimised on the clean pairs."""
        raise NotImplementedError

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        return train(clip, self.objective(clip, data), self.settings.training, self.seed, work)


def needs_vision_transformer(model: Mapping[str, Any]) -> str | None:
    """Return why a method for plain vision transformers cannot work on a model; None where it can."""
    vision = model["vision_cfg"]
    if vision.get("timm_model_name") or not isinstance(vision.get("layers", 12), int):
        return "needs a vision transformer with a class token"
    if vision.get("attentional_pool") or vision.get("pool_type", "tok") != "tok":
        return "needs a vision transformer that pools by its class token"
    return None


def check_shots(shots: Pairs, classes: list[str], name: str) -> None:
    """Raise UserError where a class has no picture, or a picture no class."""
    labels = set(shots.labels.tolist())
    wrong = sorted(label for label in labels if not 0 <= label < len(classes))
    if wrong:
        raise UserError(f"{name}: pools.shots: a picture has label {wrong[0]}; there are {len(classes)} classes")
    missing = [classes[i] for i in range(len(classes)) if i not in labels]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{name}: pools.shots: holds no picture of class {missing[0]!r}{more}")
