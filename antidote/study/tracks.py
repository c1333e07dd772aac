"""Tracks: recipes within which results are compared, from `data/tracks.yaml`. A study belongs to at most one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from antidote.base.errors import UserError, nearest
from antidote.base.files import DATA
from antidote.base.settings import Settings, read_mapping
from antidote.data.sources.base import SourceSettings
from antidote.data.store.datasets import KEPT, dataset_settings

FILE = DATA / "tracks.yaml"
RECIPES = ("pretraining", "poisoning")  # trainings of a study whose every key a track fixes
# Keys of a training that say how a machine computes it: a track leaves them free, and results files that differ in them
# belong to one experiment. In the module of TrainSettings, the constant would run every training again.
MACHINE = frozenset(("accumulate", "grad_checkpointing", "compile", "channels_last"))
DRAWN = ("scenes", "shifted_scenes")  # sources that draw their pairs: the definition is the data
FILES = ("table", "url_table", "webdataset", "folder")  # sources whose splits are names of files or folders
# Keys of a dataset that say where a copy lies, how it is stored and counted, and which names a table's columns have.
# `subset` names the pairs of an earlier download, by which the same pictures are fetched again.
PLACE = frozenset(
    ("root", "file", "homepage", "terms", "sha256", "expected", "rows", "accepted_skip_share", "pairs_per_shard",
     "download", "subset", "columns", "url", "caption", "key")
)  # fmt: skip
FREEDOM = 4  # fewest degrees of freedom behind a noise floor: five seeds of one cell


class TrackSettings(Settings):
    """The track of a study: a recipe of data/tracks.yaml and its version."""

    name: str = Field(description="name of the track in data/tracks.yaml")
    version: int = Field(1, ge=1, description="version of the track; results of two versions are not compared")

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Noise(Settings):
    """Spread of one cell over seeds, where ASR@1 is neither near 0 nor near 100: pooled over such cells."""

    cells: int = Field(ge=1, description="number of cells behind the figures")
    freedom: int = Field(ge=FREEDOM, description="degrees of freedom: seeds minus one, summed over the cells")
    figures: dict[str, float] = Field(description="standard deviation by figure, in percentage points")


class Track(Settings):
    """One recipe of data/tracks.yaml."""

    version: int = Field(ge=1)
    about: str
    fixes: dict[str, list[Any]] = Field({}, description="keys of the study file and the values that the track allows")
    datasets: dict[str, dict[str, Any]] = Field(
        {}, description="definitions of datasets that `fixes` names, where data/datasets.yaml has none or another"
    )
    noise: dict[str, Noise] = Field({}, description="by name of the model")


@cache
def tracks(path: Path = FILE) -> dict[str, Track]:
    """Return all tracks by name.

    Raises:
        UserError: the file cannot be read, or a track is not valid.
    """
    return {name: Track.read(values, f"{path.name}: {name}") for name, values in read_mapping(str(path)).items()}


def check_track(study: Settings, sources: Mapping[str, SourceSettings], where: str) -> None:
    """Check that a study keeps to its track.

    Args:
        study: the settings of the study file.
        sources: the definition of every dataset that the study uses, by name.
        where: name of the study file, for messages.

    Raises:
        UserError: the track or its version is unknown, the study differs from what the track fixes, or a dataset that
            the track names is defined otherwise.
    """
    if (chosen := study.track) is None:
        return
    known = tracks()
    if chosen.name not in known:
        raise UserError(f"{where}: track.name: unknown track {chosen.name!r}{nearest(chosen.name, known)}")
    track = known[chosen.name]
    if chosen.version != track.version:
        raise UserError(f"{where}: track.version: {chosen.name} has version {track.version}, not {chosen.version}")
    for key, value, allowed in (*_recipe(track, study), *_data(track, sources)):
        if value not in allowed:
            words = " or ".join(map(repr, allowed))
            raise UserError(f"{where}: {key}: the track {chosen} fixes {words}, not {value!r}; leave out `track`")


def _recipe(track: Track, study: Settings) -> Iterator[tuple[str, Any, list[Any]]]:
    """Yield (key, value, allowed values) of what the track fixes; the rest of a fixed training has its defaults."""
    defaults = {}
    for part in RECIPES:
        if any(key.startswith(f"{part}.") for key in track.fixes):
            fields = type(getattr(study, part)).model_fields.items()
            defaults |= {f"{part}.{name}": [field.default] for name, field in fields if name not in MACHINE}
    for key, allowed in {**defaults, **track.fixes}.items():
        value = study
        for name in key.split("."):
            value = getattr(value, name, None)
        yield key, _plain(value), [_plain(one) for one in allowed]
    if "poisoning.epochs" in defaults | track.fixes:  # a released checkpoint was poisoned by another recipe
        for name, values in study.attacks.items():
            yield f"attacks.{name}.checkpoint", values.get("checkpoint"), [None]


def _data(track: Track, sources: Mapping[str, SourceSettings]) -> Iterator[tuple[str, Any, list[Any]]]:
    """Yield (key, value, allowed values) of the datasets that the track names.

    A study may add splits. A copy of photographs may lie elsewhere, and in another format.
    """
    named = {name for key, names in track.fixes.items() if key.endswith(".dataset") for name in names}
    for name in sorted(named & set(sources)):
        own, fixed = sources[name].model_dump(), dataset_settings(name, track.datasets).model_dump()
        where = f"datasets.{name}"
        if own["source"] != fixed["source"] and {own["source"], fixed["source"]} & {*DRAWN}:
            yield f"{where}.source", own["source"], [fixed["source"]]
        alike = own["source"] == fixed["source"]
        for key in sorted(set(own) - PLACE - {"splits"}) if alike else (*KEPT, "seed"):
            yield f"{where}.{key}", own[key], [fixed[key]]
        for split, content in fixed["splits"].items() if alike else ():
            value = own["splits"].get(split)
            others = [one for one in fixed["splits"].values() if one != content]
            if own["source"] not in FILES or value in others:  # a file or folder of any name, but of the same split
                yield f"{where}.splits.{split}", value, [content]


def _plain(value: Any) -> Any:
    """Return a pair of numbers as YAML has it, a list."""
    return list(value) if isinstance(value, tuple) else value
