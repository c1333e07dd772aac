"""What every measure provides: settings, the names of its columns, and a function from a subject to their values.

A measure is one file of this folder, with a subclass of `Measure`, and one field of `EvaluationSettings` that is empty
by default. All else follows from the two: the columns of `cells.csv`, names that are taken, the datasets that a study
reads, the floor, and which jobs the settings belong to. Usage, in a file `brightness.py`:

    class Brightness(Measure):
        '''How bright the evaluation's pictures are.'''

        pictures: int = Field(100, ge=1, description="how many of the evaluation's, the first ones (ours, for time)")
        columns: ClassVar = ("brightness",)

        def measure(self, subject, inputs):
            return {"brightness": float(inputs.pictures.images[: self.pictures].double().mean() / 255)}

and in `settings.py`, with its import:

    brightness: Brightness | None = Field(None, description="mean value of pictures, `brightness`; empty: not measured")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.settings import Settings
from antidote.data import fitted
from antidote.data.pairs import Pairs
from antidote.data.words.names import class_names
from antidote.evaluation.subject import Subject

if TYPE_CHECKING:
    from torch import Tensor

Columns = dict[str, Any]


class ScoredSet(Settings):
    """Pictures of a dataset that models are scored on.

    Attributes:
        looks: how often a cell encodes each of the pictures, clean or triggered.
        held_out: whether no pool may be drawn from the split, since models may have seen a pool's pairs.
    """

    looks: ClassVar[int] = 2
    held_out: ClassVar[bool] = True

    dataset: str = Field(description="a labelled dataset")
    split: str = Field(description="one of its splits")
    pictures: int | None = Field(None, ge=1, description="how many, evenly over the set; empty: all")


class ZeroShotSettings(ScoredSet):
    """What is classified, into which classes, by which prompts."""

    classes: str | None = Field(None, description="class names, a file in data/classes; the dataset's own by default")
    templates: str = Field("openai_imagenet", description="prompts: a file in data/templates or an open_clip set")
    batch_size: int = Field(256, ge=1, description="pictures encoded at a time")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="autocast type of the picture encoder")
    bootstrap: int = Field(1000, ge=100, description="draws behind each 95 % interval")

    @classmethod
    def optional(cls) -> tuple[str, ...]:
        """Return the keys that are not a part of a job's identity where they have their default."""
        return ("precision",)

    def slice(self) -> str:
        """Return canonical JSON without optional keys at their default, so that cells without them stay as they are."""
        unused = {name for name in self.optional() if getattr(self, name) == type(self).model_fields[name].default}
        values = self.model_dump(mode="json", exclude=unused)
        return json.dumps(values, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Inputs:
    """What a measure may read.

    Attributes:
        data: folder of the datasets.
        size: side of the pictures that the model reads, in pixels.
        settings: of the evaluation, with batch size and precision.
        pictures: the evaluation's own N pictures, labelled by its classes.
        scores: the zero-shot scores of the cell as `evaluate` returns them; empty before.
    """

    data: Path
    size: int
    settings: ZeroShotSettings
    pictures: Pairs
    scores: Mapping[str, Any] = field(default_factory=dict)

    def labelled(self, part: ScoredSet, classes: int) -> Pairs:
        """Return the pictures of a set with labels from 0 to `classes` - 1."""
        return evaluated_pictures(self.data, part, self.size, classes)

    def classified(self, part: ScoredSet, classes: str | None, default: Sequence[str]) -> tuple[Pairs, list, list[int]]:
        """Return the pictures of a set with labels of its own, the names of these, and the labels that the set shows.

        Args:
            classes: name of the set's class names; None: `default`.
        """
        names = class_names(classes) if classes else list(default)
        labels = [label for label in fitted.labels(self.data / part.dataset / part.split) if label < len(names)]
        return self.labelled(part, len(names)), names, labels

    def captioned(self, part: ScoredSet, captions: int) -> tuple[Pairs, list[list[str]]]:
        """Return the pictures of a set, and of each its first captions."""
        folder = self.data / part.dataset / part.split
        pictures = fitted.load(folder, self.size, part.pictures)
        return pictures, fitted.captions(folder, part.pictures, captions)


def evaluated_pictures(data: Path, settings: ScoredSet, size: int, classes: int) -> Pairs:
    """Return the pictures of a set, which stay on disk: all of the split, or some evenly over it.

    Raises:
        UserError: a label is not from 0 to `classes` - 1.
    """
    folder = data / settings.dataset / settings.split
    pictures = fitted.load(folder, size, settings.pictures)
    if pictures.labels.min() < 0 or pictures.labels.max() >= classes:
        raise UserError(f"{folder}: every picture needs a label from 0 to {classes - 1}; {folder}/index.parquet has "
                        f"{int(pictures.labels.min())} to {int(pictures.labels.max())}")  # fmt: skip
    return pictures


class Measure(Settings):
    """The base class: settings of a measure, and the measure itself.

    A measure of pictures of its own inherits from `ScoredSet` as well.

    Attributes:
        columns: names of all columns of the measure. `{name}` stands for the key of an entry where the field maps keys
            to entries.
        floors: what columns are called where the clean reference is scored, by the beginning of their names. There,
            columns without such a name are left out.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    floors: ClassVar[Mapping[str, str]] = {}

    def check(self, evaluation: ZeroShotSettings, size: int, classes: str | None) -> None:
        """Check the settings against a study; raise ValueError that begins with the key.

        Args:
            evaluation: of the study, with the name of its classes.
            size: side of the model's pictures in pixels.
            classes: name of the class names of the measure's dataset, if the measure has one.
        """

    @classmethod
    def passes(cls, entries: Mapping[str, Self]) -> list[ScoredSet]:
        """Return the sets of pictures of their own that all entries of the field encode, each set once per pass."""
        return [entry for entry in entries.values() if isinstance(entry, ScoredSet)]

    def head(self, subject: Subject, inputs: Inputs) -> Tensor | None:
        """Return class weights (D, C) of another classifier over the same features, or None.

        CA@1 and ASR@1 of such a classifier are counted in the pass of the zero-shot scores, and become `ca1_KEY` and
        `asr1_KEY`.
        """
        return None

    def measure(self, subject: Subject, inputs: Inputs) -> Columns:
        """Return values by column: fractions or other numbers, None where a figure does not apply.

        A value that is a mapping is no column and goes into `scores.json` by its name.

        Raises:
            UserError: the model's features are not finite, or the data lack what the measure needs.
        """
        return {}

    @classmethod
    def measure_all(cls, entries: Mapping[str, Self], subject: Subject, inputs: Inputs) -> Columns:
        """Return the columns of all entries of the field, by their keys; a single entry has the name of the field."""
        return {name: value for entry in entries.values() for name, value in entry.measure(subject, inputs).items()}


def as_floor(columns: Mapping[str, Any], floors: Mapping[str, str]) -> Columns:
    """Return the columns that have a name on the clean reference, by that name."""
    return {
        f"{floor}{name.removeprefix(start)}": value
        for name, value in columns.items()
        for start, floor in floors.items()
        if name.startswith(start)
    }
