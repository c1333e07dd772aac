"""What every defense provides, and what it is handed: a suspicious model and the data of its access level, no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from antidote.base.settings import Settings
from antidote.clip.configs import ModelSettings
from antidote.data.access import POOLS, Access, DefenseData
from antidote.training.loop import train
from antidote.training.recipe import TrainSettings
from antidote.training.session import Report, Work

if TYPE_CHECKING:
    from antidote.clip.model import Clip
    from antidote.training.objectives import Objective


class DefenseSettings(Settings):
    """What every defense has; each adds its own."""

    method: str
    label: str | None = Field(
        None, description="a reader's name of the entry, for the lists of the report; tables and plots use its name"
    )

    def check(self, model: Mapping[str, Any]) -> None:
        """Raise ValueError, naming the key, where a setting does not fit a model configuration of open_clip."""

    def recipes(self) -> dict[str, TrainSettings]:
        """Return the recipes that the defense trains by on the shared loop, by their keys."""
        return {}

    @property
    def surrogate(self) -> str | None:
        """Name of a model among the study's `surrogates` that the defender uses as a clean one; None: none."""
        return None

    @property
    def public(self) -> ModelSettings | None:
        """A public model that the defender uses as a clean one; None: none."""
        return None


class FineTuningSettings(DefenseSettings):
    """A defense that trains on the defense pool."""

    training: TrainSettings = Field(TrainSettings(), description="the training recipe")

    def recipes(self) -> dict[str, TrainSettings]:
        return {"training": self.training}


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
        trained_views, encoded_views: pairs that are trained on, and pictures that are encoded besides, for each pair of
            a training step; for `work`.
    """

    Settings: ClassVar[type[DefenseSettings]]
    access: ClassVar[Access]
    reconstruction: ClassVar[bool] = False
    uses_lexicon: ClassVar[bool] = False
    adapter: ClassVar[str | None] = None
    files: ClassVar[tuple[str, ...]] = ()
    parallel: ClassVar[bool] = False
    trained_views: ClassVar[float] = 1
    encoded_views: ClassVar[float] = 0

    def __init__(self, settings: Any, seed: int) -> None:
        self.settings, self.seed = settings, seed

    @classmethod
    def fits(cls, model: Mapping[str, Any]) -> str | None:
        """Return why the method cannot work on a model configuration of open_clip; None where it can."""
        return None

    @classmethod
    def work(cls, settings: Any, sizes: Mapping[str, int]) -> tuple[float, float]:
        """Return the pairs that one job trains on and the pictures that it encodes besides, for `preflight`.

        By default those of a recipe `training` over the pools of the access level; nothing where there is none.

        Args:
            settings: of the defense.
            sizes: pairs of each pool by its name; `training set`, those of all pools that a model is trained on; and
                `classes`, how many there are.
        """
        recipe = settings.recipes().get("training")
        pairs = sum(sizes.get(pool, 0) for pool in POOLS.get(cls.access, ())) * (recipe.epochs if recipe else 0)
        return cls.trained_views * pairs, cls.encoded_views * pairs

    @classmethod
    def step_views(cls, settings: Any, recipe: TrainSettings) -> tuple[float, float, int]:
        """Return what a step of a recipe keeps in memory, for `preflight`.

        Returns:
            pictures, and texts, that are encoded with gradients for each pair of the batch, a second pass within the
            loss included; further copies of the network.
        """
        return 1, 1, 0

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
