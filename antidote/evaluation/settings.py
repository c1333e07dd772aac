"""Settings of the evaluation: what is classified, and one field per further measure. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args

from pydantic import Field, field_validator

from antidote.evaluation.base import Measure, ScoredSet, ZeroShotSettings, as_floor
from antidote.evaluation.probe import Probe
from antidote.evaluation.resistance import Resistance
from antidote.evaluation.retrieval import Retrieval
from antidote.evaluation.shifts import Shift

# Columns of the zero-shot scores, beside those of `RATES`, that begin as a shift's do.
TAKEN = ("ca1_low", "ca1_high", "asr1_all", "asr1_visual_only", "asr1_text_only", "ca1_clean_shots")
BEGINNINGS = ("ca1_", "asr1_", "asr_g_", "floor_")


class EvaluationSettings(ZeroShotSettings):
    """What is classified, into which classes, by which prompts."""

    shifts: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Shift] = Field(
        {}, description="by name, sets of other domains that every cell is scored on as well: `ca1_NAME`, `asr1_NAME`"
    )

    retrieval: Retrieval | None = Field(
        None,
        description="recall of captions and pictures, `i2t_r1`, ..., and how often captions near a triggered picture "
        "name the target, `target_word1`, ..., `target_any5`, ...; empty: not measured",
    )
    probe: Probe | None = Field(
        None, description="a linear probe of each cell's picture encoder, `ca1_probe`, `asr1_probe`; empty: none"
    )

    resistance: Resistance | None = Field(
        None,
        description="how little perturbations and the trigger move features, `resistance_trigger`, "
        "`resistance_noise`, ...; empty: not measured",
    )

    @field_validator("shifts")
    @classmethod
    def _free_names(cls, shifts: dict[str, Shift]) -> dict[str, Shift]:
        taken = sorted(cls.taken() & set(shifts))
        if taken:
            raise ValueError(f"the name {taken[0]!r} is taken by columns of other figures")
        return shifts

    @classmethod
    def measure_classes(cls) -> dict[str, type[Measure]]:
        """Return the class of every measure by the name of its field."""
        found = {name: next(_classes(field.annotation), None) for name, field in cls.model_fields.items()}
        return {name: kind for name, kind in found.items() if kind}

    @classmethod
    def optional(cls) -> tuple[str, ...]:
        return (*super().optional(), *cls.measure_classes())

    @classmethod
    def taken(cls) -> set[str]:
        """Return the names that no shift may have, as another column would have the same name."""
        names = [*TAKEN]
        for kind in cls.measure_classes().values():
            names += [*kind.columns, *as_floor(dict.fromkeys(kind.columns), kind.floors)]
        return {name.removeprefix(start) for name in names for start in BEGINNINGS if name.startswith(start)}

    def measures(self) -> dict[str, dict[str, Measure]]:
        """Return the measures that are asked for, by field: their entries by key, a single one by that of the field."""
        asked = {name: getattr(self, name) for name in self.measure_classes()}
        return {name: dict(e) if isinstance(e, Mapping) else {name: e} for name, e in asked.items() if e}

    def entries(self) -> dict[str, Measure]:
        """Return every entry of every measure by its key in a study file: `evaluation.shifts.NAME`."""
        found = {f"evaluation.{name}": (getattr(self, name), entries) for name, entries in self.measures().items()}
        return {
            f"{field}.{key}" if isinstance(asked, Mapping) else field: entry
            for field, (asked, entries) in found.items()
            for key, entry in entries.items()
        }

    def parts(self) -> dict[str, ScoredSet]:
        """Return what names a dataset and a split, by its key in a study file: the evaluation itself first."""
        sets = {key: entry for key, entry in self.entries().items() if isinstance(entry, ScoredSet)}
        return {"evaluation": self, **sets}

    def passes(self) -> list[ScoredSet]:
        """Return the sets that a cell encodes, each once per pass: the evaluation itself first."""
        kinds = self.measure_classes()
        return [self, *(part for name, entries in self.measures().items() for part in kinds[name].passes(entries))]

    def zero_shot(self) -> ZeroShotSettings:
        """Return the settings of the zero-shot scores alone, without further measures."""
        return ZeroShotSettings(**{name: getattr(self, name) for name in ZeroShotSettings.model_fields})


def _classes(annotation: Any) -> Iterator[type[Measure]]:
    """Yield the measures in the type of a field: `Probe | None`, `dict[str, Shift]`."""
    if isinstance(annotation, type) and issubclass(annotation, Measure):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)
