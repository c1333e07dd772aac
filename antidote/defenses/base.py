"""Base classes of the defenses. A defense gets a suspicious model and the data of its access level, nothing else.

A defense that fine-tunes on clean pairs is a settings class, a defense class and an objective:

    class GentleSettings(FineTuningSettings):
        method: Literal["gentle"] = "gentle"
        weight: float = Field(1.0, ge=0, description="weight of the added term")

    class Gentle(FineTuningDefense):
        Settings = GentleSettings

        def objective(self, clip: Clip, data: DefenseData) -> Objective:
            return GentleLoss(data.pairs, self.settings.weight)

Other defenses derive from `Defense`, name an access level and implement `run`. docs/adding-a-method.md describes the
registration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from antidote.base.errors import check_choice
from antidote.base.settings import Settings
from antidote.clip.configs import ModelSettings
from antidote.data.access import GRANTS, POOLS, Access, DefenseData
from antidote.training.loop import train
from antidote.training.recipe import TrainSettings
from antidote.training.session import Report, Work

if TYPE_CHECKING:
    from antidote.clip.model import Clip
    from antidote.training.objectives import Objective


class DefenseSettings(Settings):
    """Settings that all defenses have in common."""

    method: str
    label: str | None = Field(
        None, description="readable name of the entry in the report's lists; tables and plots use the entry's key"
    )

    def check(self, model: Mapping[str, Any]) -> None:
        """Check the settings against a model configuration of open_clip.

        Raises:
            ValueError: a setting does not fit the model; the message begins with its key.
        """

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise ValueError that begins with the key if a setting names a class that is not in `classes`."""

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


@dataclass(frozen=True)
class Held:
    """One pass of a network that is not trained, for the estimate of GPU memory by `preflight`.

    Attributes:
        pictures: number of pictures that are encoded at once.
        texts: number of texts of full length that are encoded at once.
        gradients: whether the pass has gradients, of the pictures or of prompts; else no activation is kept.
        precision: autocast type.
    """

    pictures: float = 0
    texts: float = 0
    gradients: bool = True
    precision: str = "fp32"


class Defense:
    """Base class of all defenses; see the module's example.

    Attributes:
        Settings: the settings class.
        access: access level, which determines the defender's data.
        reconstruction: whether the paper leaves parts open that this project filled in.
        uses_lexicon: whether the defense looks up words; only such a defense runs again after a change of the lexicon.
        adapter: name of the adapter in the model folder; None: the result is a plain model.
        files: names of additional files in the model folder.
        parallel: whether several processes can train the defense together; the objective's `parallel` defines how.
        trained_views, encoded_views: number of pairs trained on, and number of pictures encoded in addition, for each
            pair of a training step; used by `work`.
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

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        check_choice(cls, "access", GRANTS)

    def __init__(self, settings: Any, seed: int) -> None:
        self.settings, self.seed = settings, seed

    @classmethod
    def fits(cls, model: Mapping[str, Any]) -> str | None:
        """Return the reason why the method does not support a model configuration of open_clip; None: supported."""
        return None

    @classmethod
    def work(cls, settings: Any, sizes: Mapping[str, int]) -> tuple[float, float]:
        """Return the number of pairs that one job trains on, and of pictures that it encodes in addition.

        `preflight` uses these numbers. The default assumes the recipe `training` over the pools of the access level;
        without a recipe or pools, both numbers are 0.

        Args:
            settings: the defense's settings.
            sizes: number of pairs of each pool by its name; of `training set`, the union of all training pools; and
                number of `classes`.
        """
        recipe = settings.recipes().get("training")
        pairs = sum(sizes.get(pool, 0) for pool in POOLS.get(cls.access, ())) * (recipe.epochs if recipe else 0)
        return cls.trained_views * pairs, cls.encoded_views * pairs

    @classmethod
    def common(cls, settings: Any) -> dict[str, Any] | None:
        """Return the settings of a first part of `run` whose result is kept under `work.common`; None: no such part.

        The jobs of a sweep that agree in these settings compute the part once, if one runs after the other.
        """
        return None

    @classmethod
    def common_work(cls, settings: Any, sizes: Mapping[str, int]) -> tuple[float, float]:
        """Return how much of `work` is that first part."""
        return 0.0, 0.0

    @classmethod
    def step_views(cls, settings: Any, recipe: TrainSettings) -> tuple[float, float, int]:
        """Return what a step of a recipe keeps in memory, for `preflight`.

        Returns:
            pictures, and texts, that are encoded with gradients for each pair of the batch, a second pass within the
            loss included; further copies of the network.
        """
        return 1, 1, 0

    @classmethod
    def held(cls, settings: Any, model: Mapping[str, Any], classes: int) -> Sequence[Held]:
        """Return the largest passes outside `recipes`, for `preflight`; one at a time is in memory.

        Args:
            settings: the defense's settings.
            model: configuration (`model_cfg`) of open_clip.
            classes: number of the study's classes.
        """
        return ()

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        """Clean the suspicious model, in place or by an adapter.

        Args:
            clip: the suspicious model; it may be modified in place.
            data: the data of the access level.
            work: folder, identity and checkpoint interval of the job.

        Returns:
            The cost (steps, trained parameters, pairs), and the adapted model if `clip` itself is not the result.

        Raises:
            UserError: the data or the model do not meet the method's requirements.
        """
        raise NotImplementedError


class FineTuningDefense(Defense):
    """A defense that minimises an objective with the common training loop and a new optimiser."""

    access = "clean-pairs"

    def objective(self, clip: Clip, data: DefenseData) -> Objective:
        """Return the objective to minimise on the clean pairs."""
        raise NotImplementedError

    def run(self, clip: Clip, data: DefenseData, work: Work) -> Report:
        return train(clip, self.objective(clip, data), self.settings.training, self.seed, work)
