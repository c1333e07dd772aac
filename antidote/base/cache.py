"""Stages shared between checkouts and studies: what one job has made, another job of the same identity takes.

Off unless the environment variable ANTIDOTE_CACHE names a folder. An entry is a folder `{stage}/{key}` in it; its key
is the SHA-256 of all that the stage is made from (settings, seed, names that randomness hangs on, the content of its
inputs, the fingerprint of its sources) and of the versions of Python and of the packages that compute. Not part of it:
where anything lies, the study's name, who runs it, when, and on what hardware; a model trained on a GPU serves on a
laptop.

Files are copied, and their hashes compared, on the way in and out: a job can't change an entry, nor an entry that is
damaged pass for a result. An entry appears whole, by one rename; of two writers the first wins. A place that can't be
read or written costs a warning and no result.

Snakemake's own between-workflow cache would not do: its key holds the names of output folders, but neither wildcards
(seed, attack) nor versions of packages, and what it hands out are links.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from antidote.base.errors import UserError
from antidote.base.files import sha256, whole_folder, write_json
from antidote.base.fingerprint import fingerprint

log = logging.getLogger("antidote")

PLACE = "ANTIDOTE_CACHE"
ENTRY = "entry.json"
CHUNK = 1 << 20  # bytes
# What a result may depend on beside our sources.
PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "pandas", "pillow", "safetensors", "nltk")


# --- what a job is made from -----------------------------------------------------------------------------------------


def identity(parts: Iterable[Any], inputs: Iterable[Path], *modules: str) -> str:
    """Return the SHA-256 of settings and names (`parts`), of the content of files, and of the code in reach.

    Raises:
        UserError: a file is missing.
    """
    texts = [json.dumps(part, sort_keys=True, separators=(",", ":")) for part in parts]
    contents = [_content(path) for path in inputs]
    return hashlib.sha256("\x1f".join([*texts, *contents, fingerprint(*modules)]).encode()).hexdigest()


def _content(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def environment() -> dict[str, str]:
    """Return the versions of what computes; not of its build for this or that hardware (`+cpu`, `+cu130`)."""
    versions = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            versions[name] = ""
    return versions


# --- the shared place ------------------------------------------------------------------------------------------------


def named_place() -> Path | None:
    """Return the folder that the environment names; None for none.

    Raises:
        UserError: it is in the home folder of a user that has none.
    """
    place = os.environ.get(PLACE)
    try:
        return Path(place).expanduser() if place else None
    except RuntimeError:  # as in a container, whose user no file knows
        raise UserError(f"{PLACE}: {place}: this user has no home folder; set HOME, or give the whole path") from None


class Shared:
    """The entry of one job."""

    def __init__(self, stage: str, identity: Callable[[], str]) -> None:
        """`identity` is asked only where a place is named."""
        self.place = named_place()
        self.entry = self.place / stage / _key(identity()) if self.place else None

    def take(self, output: Path, cost: Path | None = None) -> list[str]:
        """Copy the entry's files into `output` and say what making them cost; return their names, [] without an entry.

        Raises:
            OSError: `output` can't be written.
        """
        if self.entry is None or not self.entry.is_dir():
            return []
        try:
            description = json.loads(b"".join(_chunks(self.entry / ENTRY)))
            names, spent = list(description["files"]), dict(description["cost"])
            with whole_folder(output) as temporary:
                for name, digest in description["files"].items():
                    if Path(name).name != name or _copy(self.entry / name, temporary / name) != digest:
                        raise _Unusable(f"{name} is not what was stored")
        except (_Unusable, ValueError, KeyError, TypeError, AttributeError) as reason:
            log.warning("%s: shared entry cannot be used (%s); computing anew", self.entry, _line(reason))
            shutil.rmtree(self.entry, ignore_errors=True)
            return []
        if cost is not None:
            write_json(cost, {**spent, "shared": True})
        log.info("taken from %s; making it took %s s", self.entry, spent.get("seconds", "?"))
        _touch(self.entry / ENTRY)  # the time of its last use
        return names

    def put(self, folder: Path, names: Iterable[str], cost: dict[str, Any]) -> None:
        """Store files of a folder, with what making them cost; a place that takes nothing costs a warning."""
        if self.entry is None or self.entry.is_dir():
            return
        temporary = self.entry.with_name(f".{uuid.uuid4().hex}.tmp")  # a stage's folder may be on a disk of its own
        try:
            temporary.mkdir(parents=True)
            digests = {name: _copy(folder / name, temporary / name) for name in sorted(names)}
            write_json(temporary / ENTRY, {"files": digests, "cost": cost, "environment": environment()})
            temporary.rename(self.entry)
        except OSError as error:
            if not self.entry.is_dir():  # else another writer was first
                log.warning("%s: %s: %s; this result is not shared", PLACE, self.place, error.strerror)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _key(identity: str) -> str:
    return hashlib.sha256(json.dumps([identity, environment()], sort_keys=True).encode()).hexdigest()


class _Unusable(Exception):
    """An entry can't be read, or isn't what was stored."""


def _copy(source: Path, target: Path) -> str:
    """Copy a file; return the SHA-256 of what was read."""
    digest = hashlib.sha256()
    with target.open("wb") as copy:
        for chunk in _chunks(source):
            digest.update(chunk)
            copy.write(chunk)
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise _Unusable(f"{path.name}: {error.strerror}") from None


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):  # a place for reading only
        os.utime(path)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
