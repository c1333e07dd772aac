"""Models by name, `zoo:tiny/badnet/seed0`: listed with SHA-256 hashes, kept in a folder or behind a DVC remote.

The list is data/zoo.yaml, and then `zoo.yaml` in the place that ANTIDOTE_ZOO names. That place is a folder, or
`dvc:REPOSITORY` or `dvc:REPOSITORY#FOLDER`, a Git repository (path or address) in which DVC tracks the folder (default:
zoo). Models from a repository are kept in the user's cache. `scripts/zoo.py` publishes models. Imports no torch.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from antidote.base.errors import UserError, nearest
from antidote.base.files import DATA, sha256, whole_file, whole_folder
from antidote.base.settings import Settings, read_mapping

PREFIX = "zoo:"
PLACE = "ANTIDOTE_ZOO"  # environment variable
DVC = "dvc:"
KEYS = ("pretrained", "surrogate", "checkpoint")  # keys of a study that name a model
FOLDER = "zoo"  # folder of a repository
LIST = "zoo.yaml"

NAMED = r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*"
Name = Annotated[str, Field(pattern=f"^{NAMED}$")]
File = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ZooModel(Settings):
    """One model of a list."""

    files: dict[File, Hash] = Field(min_length=1, description="SHA-256 of every file of the model folder, by name")
    statement: str = Field("", description="what the model is, as its card states")


class PublicModel(Settings):
    """Backdoored checkpoints that others publish; the project neither stores nor checks them."""

    name: str = Field(description="what is published")
    repository: str = Field(description="where")
    size: str = Field(description="size of one file")
    trigger: str = Field(description="trigger and target")
    expected: str = Field(description="figures of the publisher")
    licence: str = Field(description="licence, where known")
    use: str = Field(description="how this project loads it")


class ZooList(Settings):
    """A list of models."""

    models: dict[Name, ZooModel] = Field({}, description="models by name")
    public: list[PublicModel] = Field([], description="backdoored checkpoints of others")


def is_name(model: object) -> bool:
    """Return whether a text names a model of the zoo."""
    return isinstance(model, str) and model.startswith(PREFIX)


def placed(value: Any, key: str = "") -> Any:
    """Return a study's values with the folder of the model in place of each `zoo:NAME` of a key in `KEYS`.

    Raises:
        UserError: as `find`.
    """
    if isinstance(value, Mapping):
        return {name: placed(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [placed(item, key) for item in value]
    return str(find(value)) if key in KEYS and is_name(value) else value


def find(name: str) -> Path:
    """Return the folder of a model `zoo:NAME`, whose files have the hashes of the list.

    Raises:
        UserError: the name is not in the list, there is no place, the place does not have the model, or a hash differs.
    """
    bare, place = name.removeprefix(PREFIX), os.environ.get(PLACE, "")
    entry = _entry(bare, place)
    if not place:
        raise UserError(f"{name}: {PLACE} is not set; should name the folder of the models, or dvc:REPOSITORY")
    folder = _fetched(bare, entry, place) if place.startswith(DVC) else Path(place) / bare
    for file, expected in entry.files.items():
        path = folder / file
        if not path.is_file():
            raise UserError(f"{name}: {path}: no such file; {place} should hold the models of the list ({PLACE})")
        if not _holds(path, expected):
            raise UserError(f"{name}: {path}: has another SHA-256 than in the list; fetch or publish the model again")
    return folder


def read_list(path: Path) -> ZooList:
    """Return a list of models.

    Raises:
        UserError: the file cannot be read or is not valid.
    """
    return ZooList.read(read_mapping(str(path)), str(path))


def names() -> dict[str, ZooModel]:
    """Return every known model by name; data/zoo.yaml comes before the list of the place."""
    own, place = read_list(DATA / LIST).models, os.environ.get(PLACE, "")
    return {**_of_place(place), **own}


def _entry(bare: str, place: str) -> ZooModel:
    own = read_list(DATA / LIST).models
    known = own if bare in own else {**_of_place(place), **own}
    if bare not in known:
        further = f" or in that of {place}" if place else f"; {PLACE} may name a folder with further models"
        raise UserError(f"{PREFIX}{bare}: is not in the list {DATA / LIST}{further}{nearest(bare, known)}")
    return known[bare]


def _of_place(place: str) -> dict[str, ZooModel]:
    if place.startswith(DVC):
        path = _cache() / "lists" / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.yaml"
        _list_of(place, path)
    else:
        path = Path(place) / LIST
        if not Path(place).is_dir():
            raise UserError(f"{PLACE}: {place}: no such folder; should be a folder of models, or {DVC}REPOSITORY")
    return read_list(path).models if place and path.is_file() else {}


@cache
def _list_of(place: str, path: Path) -> None:
    """Fetch the list of a repository once per process; without a network, the list of the last time counts."""
    try:
        with whole_file(path) as temporary:
            _get(place, LIST, temporary)
    except UserError:
        if not path.is_file():
            raise


def _fetched(bare: str, entry: ZooModel, place: str) -> Path:
    """Return the folder of a model in the user's cache, fetched from a repository if a file is missing."""
    folder = _cache() / "models" / bare
    if not all(_holds(folder / file, value) for file, value in entry.files.items()):
        with whole_folder(folder) as temporary:
            for file in entry.files:
                _get(place, f"{bare}/{file}", temporary / file)
    return folder


def _holds(path: Path, expected: str) -> bool:
    return path.is_file() and _hash(path, path.stat().st_mtime_ns, path.stat().st_size) == expected


def _get(place: str, file: str, output: Path) -> None:
    """Fetch one file of the folder of a repository with DVC."""
    repository, _, folder = place.removeprefix(DVC).partition("#")
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dvc", "get", "--force", repository, f"{folder or FOLDER}/{file}"]
    done = subprocess.run(
        [*command, "--out", str(output)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        told = (done.stderr or done.stdout).splitlines()
        faults = [line.partition("ERROR: ")[2] for line in told if "ERROR: " in line]  # progress is there as well
        reason = " ".join(" ".join(faults or told).split())[:300]
        raise UserError(f"{PREFIX}{file}: cannot be fetched from {repository} ({reason}); {PLACE} is {place!r}")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "antidote" / "zoo"


@cache
def _hash(path: Path, changed: int, size: int) -> str:
    """Return the SHA-256 of a file; one process computes it once unless time of change or size differ."""
    return sha256(path)
