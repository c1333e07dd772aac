"""Tracks: recipes within which results are compared, from `data/tracks.yaml`. A study belongs to at most one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from antidote.base.errors import UserError, nearest
from antidote.base.files import DATA
from antidote.base.settings import Settings, read_mapping

FILE = DATA / "tracks.yaml"
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
    noise: dict[str, Noise] = Field({}, description="by name of the model")


@cache
def tracks(path: Path = FILE) -> dict[str, Track]:
    """Return all tracks by name.

    Raises:
        UserError: the file cannot be read, or a track is not valid.
    """
    return {name: Track.read(values, f"{path.name}: {name}") for name, values in read_mapping(str(path)).items()}


def check_track(chosen: TrackSettings | None, study: Settings, where: str) -> None:
    """Check that a study keeps to its track.

    Args:
        study: the settings of the study file.
        where: name of the study file, for messages.

    Raises:
        UserError: the track or its version is unknown, or the study differs from what the track fixes.
    """
    if chosen is None:
        return
    known = tracks()
    if chosen.name not in known:
        raise UserError(f"{where}: track.name: unknown track {chosen.name!r}{nearest(chosen.name, known)}")
    track = known[chosen.name]
    if chosen.version != track.version:
        raise UserError(f"{where}: track.version: {chosen.name} has version {track.version}, not {chosen.version}")
    for key, allowed in track.fixes.items():
        value = study
        for part in key.split("."):
            value = getattr(value, part, None)
        if value not in allowed:
            words = " or ".join(map(repr, allowed))
            raise UserError(f"{where}: {key}: the track {chosen} fixes {words}, not {value!r}; leave out `track`")
