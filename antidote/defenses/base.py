"""What every defense provides, and what it is handed: a suspicious model and the data of its access level, no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from antidote.settings import Settings
from antidote.training import Report, TrainSettings, Work, train

if TYPE_CHECKING:
    from antidote.data.lexicon import Lexicon
    from antidote.data.pairs import Pairs
    from antidote.models import Clip
    from antidote.objectives import Objective

Access = Literal["nothing", "clean-pairs", "few-labelled", "poisoned-training-set", "pretraining", "test-time"]


class DefenseSettings(Settings):
    """What every defense has; each adds its own."""

    method: str
    label: str | None = Field(None, description="name in tables and plots; the entry's name by default")


class FineTuningSettings(DefenseSettings):
    """A defense that trains on the defense pool."""

    training: TrainSettings = Field(TrainSettings(), description="the recipe; see TrainSettings")


@dataclass(frozen=True)
class DefenseData:
    """The data of a defense's access level. What its level does not grant is None.

    Attributes:
        pairs: clean pairs of the defense pool (`clean-pairs`).
        lexicon: word classes and synonyms of the language resource that the study names.
    """

    pairs: Pairs | None = None
    lexicon: Lexicon | None = None


class Defense:
    """The base class.

    Attributes:
        Settings: the settings class.
        access: what the defender has.
        reconstruction: whether the paper leaves parts open that we filled in.
    """

    Settings: ClassVar[type[DefenseSettings]]
    access: ClassVar[Access]
    reconstruction: ClassVar[bool] = False

    def __init__(self, settings: Any, seed: int) -> None:
        self.settings, self.seed = settings, seed

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        """Clean `clip` in place and report what it cost."""
        raise NotImplementedError


class FineTuningDefense(Defense):
    """A defense that is an objective on the shared training loop, with a fresh optimiser."""

    access = "clean-pairs"

    def objective(self, clip: Clip, data: DefenseData) -> Objective:
        """Return what is minimised on the clean pairs."""
        raise NotImplementedError

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        return train(clip, self.objective(clip, data), self.settings.training, self.seed, work)
