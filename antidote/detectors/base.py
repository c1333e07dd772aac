"""What every detector provides: scores over items, higher is more suspicious. A detector never sees the truth.

A detector has one of three subjects:

    model      the suspicious model itself: one item, `MODEL`
    pairs      the training set: an item per pair, named `dataset/split/key`
    pictures   pictures at use, clean and triggered in random order: an item per picture, named by its position

`antidote.evaluation.detection` alone knows which items are poisoned, and computes AUROC and the other figures. Usage:

    detector = method("detector", "random")(RandomSettings(), seed=0)
    scores = detector.score(load_model("model"), DefenseData(training_set=pairs), Work(Path("work"), "identity"))
    most_suspicious = scores.items[int(scores.values.argmax())]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from antidote.base.settings import Settings
from antidote.data.access import Access, DefenseData
from antidote.training.session import Work

if TYPE_CHECKING:
    import numpy as np

    from antidote.clip.model import Clip

Subject = Literal["model", "pairs", "pictures"]
MODEL = "model"  # name of the one item of a detector of models


class DetectorSettings(Settings):
    """Settings that every detector has; each detector adds its own."""

    method: str
    label: str | None = Field(None, description="a reader's name of the entry, for the lists of the report")

    def check(self, model: Mapping[str, Any]) -> None:
        """Raise ValueError, naming the key, where a setting does not fit a model configuration of open_clip."""


@dataclass(frozen=True)
class Scores:
    """Scores of one detector on one model.

    Attributes:
        items: N names of the scored items.
        values: (N,) finite floats; a higher value is more suspicious.
        threshold: the method's own threshold: an item is suspicious from this value on; None: the method has none.
        evidence: what a reader should see beside the scores, as JSON values (suspected class, size of a mask).
    """

    items: Sequence[str]
    values: np.ndarray
    threshold: float | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Detector:
    """The base class of all detectors.

    Attributes:
        Settings: the settings class.
        subject: what the detector scores; a control scores what its settings name.
        access: the data that the detector is handed beside the model and its subject.
        control: `truth` for a control that is handed the truth, `none` for one that looks at nothing; None: a method.
        reconstruction: whether the paper leaves parts open that the project filled in.
    """

    Settings: ClassVar[type[DetectorSettings]]
    subject: ClassVar[Subject]
    access: ClassVar[Access] = "nothing"
    control: ClassVar[Literal["truth", "none"] | None] = None
    reconstruction: ClassVar[bool] = False

    def __init__(self, settings: Any, seed: int) -> None:
        self.settings, self.seed = settings, seed

    @classmethod
    def fits(cls, model: Mapping[str, Any]) -> str | None:
        """Return why the method cannot work on a model configuration of open_clip; None where it can."""
        return None

    @classmethod
    def subject_of(cls, settings: Any) -> Subject:
        """Return what an entry with these settings scores."""
        return cls.subject

    @classmethod
    def work(cls, settings: Any, sizes: Mapping[str, int]) -> tuple[float, float]:
        """Return the pairs that one job trains on and the pictures that it encodes besides, for `preflight`.

        By default all items of the subject are encoded once; a control encodes none, a detector of models says itself.

        Args:
            settings: of the detector.
            sizes: pairs of each pool by its name; `training set` and `shown pictures`, the items of the two subjects.
        """
        items = {"pairs": "training set", "pictures": "shown pictures"}.get(cls.subject_of(settings))
        return 0, 0 if cls.control or items is None else sizes[items]

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        """Score the items of the subject: the model, `data.training_set` or `data.pictures`.

        Args:
            clip: the suspicious model; it must not be changed.
            data: the subject, and the data of the access level; everything else is None.
            work: folder for what lets a killed job go on.
        """
        raise NotImplementedError


def items_of(subject: Subject, data: DefenseData) -> list[str]:
    """Return the names of the items that a detector of `subject` scores."""
    if subject == "model":
        return [MODEL]
    return list((data.training_set if subject == "pairs" else data.pictures).keys)
