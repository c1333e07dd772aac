"""Base classes of detectors: scores of items, higher is more suspicious. A detector never gets the ground truth.

A detector has one of three subjects:

    model      the suspicious model itself: one item, `MODEL`
    pairs      the training set: one item per pair, named `dataset/split/key`
    pictures   test pictures, clean and triggered in random order: one item per picture, named by its position

Only `antidote.evaluation.detection` knows the poisoned items; it computes AUROC and the other figures. Usage:

    detector = method("detector", "random")(RandomSettings(), seed=0)
    scores = detector.score(load_model("model"), DefenseData(training_set=pairs), Work(Path("work"), "identity"))
    most_suspicious = scores.items[int(scores.values.argmax())]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from pydantic import Field

from antidote.base.errors import UserError, check_choice
from antidote.base.settings import Settings
from antidote.data.access import GRANTS, Access, DefenseData
from antidote.training.session import Work

if TYPE_CHECKING:
    import numpy as np

    from antidote.clip.configs import ModelSettings
    from antidote.clip.model import Clip
    from antidote.training.recipe import TrainSettings

Subject = Literal["model", "pairs", "pictures"]
MODEL = "model"  # name of the single item of a detector of models


class NoScore(UserError):
    """A search ended without a result that a score of the model can be computed from.

    An audit leaves the detector out with the message; in a study the model has no score by the detector. Both keep the
    evidence.

    Attributes:
        evidence: what the search found nevertheless, as in `Scores`.
    """

    def __init__(self, reason: str, evidence: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.evidence = dict(evidence or {})


class DetectorSettings(Settings):
    """Settings of all detectors; each detector adds its own. Usage:

    class FeatureNormSettings(DetectorSettings):
        method: Literal["feature_norm"] = "feature_norm"
        share: float = Field(0.02, gt=0, lt=1, description="share of pairs above the threshold (ours)")
    """

    method: str
    label: str | None = Field(None, description="display name of the entry in the lists of the report")

    @property
    def public(self) -> ModelSettings | None:
        """A public model that the detector uses as a clean reference; None for no such model."""
        return None

    @property
    def surrogate(self) -> str | None:
        """Name of the study's clean model that the detector gets as `data.scorer`; None for no such model."""
        return None

    @property
    def word_files(self) -> tuple[tuple[str, str], ...]:
        """Return (kind, name) of further word files of the project that the detector reads."""
        return ()

    def check(self, model: Mapping[str, Any]) -> None:
        """Raise ValueError that names the key if a setting does not fit the open_clip model configuration `model`."""


@dataclass(frozen=True)
class Scores:
    """Scores of one detector on one model.

    Attributes:
        items: N names of the scored items.
        values: (N,) finite floats; a higher value is more suspicious.
        threshold: the method's own threshold; an item is suspicious if value >= threshold. None: no threshold.
        evidence: further results for the reader, as JSON values (suspected class, size of a mask).
    """

    items: Sequence[str]
    values: np.ndarray
    threshold: float | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Detector:
    """The base class of all detectors. Usage:

    class FeatureNorm(Detector):
        Settings = FeatureNormSettings
        subject = "pairs"

        def score(self, clip, data, work):
            norms = picture_features(clip, data.training_set, normalised=False).norm(dim=1)  # (N,)
            return Scores(data.training_set.keys, norms.double().numpy())

    Attributes:
        Settings: the settings class.
        subject: the subject that the detector scores; a control takes the subject from its settings.
        access: the data that the detector gets in addition to the model and its subject.
        control: `truth` for a control that gets the ground truth, `none` for a control without input; None: a method.
        reconstruction: whether the project fills in parts that the paper leaves open.
        from_features: whether a detector of pairs reads pictures by `picture_features` alone, so that `antidote scan`
            can encode the pictures of a large set once.
        works_on: what `work` counts: gradients of pictures, or of captions, which cost less in a large model.
        gradients: whether single pictures are scored by gradients, whose activations stay in memory.
        descends: whether the detector takes gradients with respect to pictures; without them a search ends at its
            start, and its score has no meaning.
        not_estimated: why `preflight` estimates no memory; None: it does.
        fewest_classes: number of classes below which the score has no meaning; a study with fewer is refused.
    """

    Settings: ClassVar[type[DetectorSettings]]
    subject: ClassVar[Subject]
    access: ClassVar[Access] = "nothing"
    control: ClassVar[Literal["truth", "none"] | None] = None
    reconstruction: ClassVar[bool] = False
    from_features: ClassVar[bool] = False
    works_on: ClassVar[Literal["pictures", "captions"]] = "pictures"
    gradients: ClassVar[bool] = False
    descends: ClassVar[bool] = False
    not_estimated: ClassVar[str | None] = None
    fewest_classes: ClassVar[int] = 0

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        check_choice(cls, "access", GRANTS)
        check_choice(cls, "subject", get_args(Subject))
        check_choice(cls, "control", ("truth", "none", None))
        check_choice(cls, "works_on", ("pictures", "captions"))

    def __init__(self, settings: Any, seed: int) -> None:
        self.settings, self.seed = settings, seed

    @classmethod
    def fits(cls, model: Mapping[str, Any]) -> str | None:
        """Return the reason why the method does not support an open_clip model configuration; None if supported."""
        return None

    @classmethod
    def suits(cls, kind: type[Clip]) -> str | None:
        """Return the reason why the method does not support models of a class, an adapter's or `Clip`; None if it does.

        The reason continues a sentence that begins with the method's name.
        """
        if cls.descends and not getattr(kind, "differentiable", True):
            return f"needs gradients with respect to pictures, and the adapter {kind.name} has none"
        return None

    @classmethod
    def too_few(cls, count: int) -> str | None:
        """Return the reason why the method cannot score a model of `count` classes; None if it can."""
        if count < cls.fewest_classes:
            return f"there are {count} classes; {cls.fewest_classes} at least are needed"
        return None

    def check_data(self, data: DefenseData) -> None:
        """Check that the data are enough for a score, in little time; `score` raises the same.

        Raises:
            UserError: they are not.
        """
        reason = None if data.classes is None else self.too_few(len(data.classes))
        if reason:
            raise UserError(f"{self.settings.method}: {reason}")

    @classmethod
    def subject_of(cls, settings: Any) -> Subject:
        """Return the subject that an entry with these settings scores."""
        return cls.subject

    @classmethod
    def work(cls, settings: Any, sizes: Mapping[str, int]) -> tuple[float, float]:
        """Return the pairs on which one job trains and the further pictures that the job encodes, for `preflight`.

        By default a job encodes every item of the subject once. A control encodes no picture. A detector of models
        overrides this method.

        Args:
            settings: settings of the detector.
            sizes: number of pairs by pool; `training set` and `shown pictures` count the items of the two subjects.
        """
        items = {"pairs": "training set", "pictures": "shown pictures"}.get(cls.subject_of(settings))
        return 0, 0 if cls.control or items is None else sizes[items]

    @classmethod
    def step_views(cls, settings: Any, recipe: TrainSettings) -> tuple[float, float, int]:
        """Return what a step of a recipe keeps in memory, as `Defense.step_views` does; a detector trains a copy."""
        return 1, 1, 1

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        """Score the items of the subject: the model, `data.training_set` or `data.pictures`.

        Args:
            clip: the suspicious model; the detector must not change the model.
            data: the subject and the data of the access level; all other fields are None.
            work: folder for checkpoints from which a killed job resumes.

        Raises:
            UserError: the data do not suit the detector.
            NoScore: a detector of models found nothing that a score can be computed from.
        """
        raise NotImplementedError


def items_of(subject: Subject, data: DefenseData) -> list[str]:
    """Return the names of the items that a detector of `subject` scores."""
    if subject == "model":
        return [MODEL]
    return list((data.training_set if subject == "pairs" else data.pictures).keys)
