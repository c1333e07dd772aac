"""Cache shared between checkouts and studies: a job reuses the result of an earlier job with the same identity.

The cache is off unless the environment variable ANTIDOTE_CACHE names a folder. An entry is the folder `{stage}/{key}`.
The key is the SHA-256 of all inputs of the stage (settings, seed, names that seeds derive from, content of the input
files, fingerprint of the sources) and of the versions of Python and of the packages that compute. Paths, the study's
name, user, time and hardware are not part of the key: a model trained on a GPU can be reused on a laptop.

Files are copied in both directions and their hashes compared: a job cannot change an entry, and a damaged entry cannot
pass for a result. An entry appears complete, by one rename; if two processes write the same entry, the first one wins.
A cache folder that cannot be read or written causes a warning and never loses a result.

Snakemake's between-workflow cache does not fit: its key contains the names of output folders, but neither wildcards
(seed, attack) nor package versions, and it returns links.
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
from antidote.base.fingerprint import edited, fingerprint
from antidote.base.machine import process_start

log = logging.getLogger("antidote")

PLACE = "ANTIDOTE_CACHE"
ENTRY = "entry.json"
CHUNK = 1 << 20  # bytes
# Packages whose versions may affect a result.
PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "pandas", "pillow", "safetensors", "nltk")


# --- identity of a job -----------------------------------------------------------------------------------------------


def identity(parts: Iterable[Any], inputs: Iterable[Path], *modules: str) -> str:
    """Return the SHA-256 of a job's inputs.

    Args:
        parts: settings and names, as JSON values.
        inputs: files whose content is hashed.
        modules: modules whose source fingerprint is hashed, imports included.

    Raises:
        UserError: a file cannot be read.
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
    """Return the versions of Python and PACKAGES, without the hardware build (`+cpu`, `+cu130`)."""
    versions = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            versions[name] = ""
    return versions


# --- entries of the cache --------------------------------------------------------------------------------------------


def named_place() -> Path | None:
    """Return the cache folder named by ANTIDOTE_CACHE; None if the variable is not set.

    Raises:
        UserError: the path begins with `~` and the user has no home folder.
    """
    folder = os.environ.get(PLACE)
    try:
        return Path(folder).expanduser() if folder else None
    except RuntimeError:  # e.g. in a container whose user has no passwd entry
        raise UserError(f"{PLACE}: {folder}: this user has no home folder; set HOME, or give the whole path") from None


class Shared:
    """The cache entry of one job.

    Example:
        shared = Shared("pretrain", lambda: identity([settings], inputs, "antidote.training.loop"))
        if not shared.take(output):
            names = save_model(output, clip, card)
            shared.put(output, names, cost)
    """

    def __init__(self, stage: str, identity: Callable[[], str]) -> None:
        """Locate the entry; `identity` is called only if a cache folder is named."""
        self.place = named_place()
        self.entry = self.place / stage / _key(identity()) if self.place else None

    def take(self, output: Path, cost: Path | None = None) -> list[str]:
        """Copy the entry's files into `output`.

        Args:
            output: folder of the result.
            cost: file for the cost of the original job, marked as shared; None: no such file.

        Returns:
            Names of the copied files; empty if there is no usable entry.

        Raises:
            OSError: `output` cannot be written.
        """
        try:
            if self.entry is None or not self.entry.is_dir():
                return []
        except OSError as error:  # a folder that may not be entered, a network that is gone
            log.warning("%s: %s: %s; computing anew", PLACE, self.place, error.strerror)
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
        _touch(self.entry / ENTRY)  # mtime = time of the last use
        return names

    def put(self, folder: Path, names: Iterable[str], cost: dict[str, Any]) -> None:
        """Store files of a folder as an entry; a cache folder that cannot be written causes a warning.

        Nothing is stored if a source was edited while the job ran: the key is that of the code on disk, and the job may
        have loaded other code.

        Args:
            folder: folder of the result.
            names: names of the files to store.
            cost: cost of making the files, as `Cost.write` returns.
        """
        if self.entry is None:
            return
        # Next to the entry: the folder of a stage may be on another disk than the rest of the cache.
        temporary = self.entry.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            if self.entry.is_dir():
                return
            if edited(process_start()):
                log.warning("%s: the code was edited while this job ran; this result is not shared", PLACE)
                return
            temporary.mkdir(parents=True)
            digests = {name: _copy(folder / name, temporary / name) for name in sorted(names)}
            write_json(temporary / ENTRY, {"files": digests, "cost": cost, "environment": environment()})
            temporary.rename(self.entry)
        except OSError as error:
            with contextlib.suppress(OSError):
                if self.entry.is_dir():  # another process has written the entry
                    return
            log.warning("%s: %s: %s; this result is not shared", PLACE, self.place, error.strerror)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _key(identity: str) -> str:
    return hashlib.sha256(json.dumps([identity, environment()], sort_keys=True).encode()).hexdigest()


class _Unusable(Exception):
    """An entry cannot be read, or differs from the stored hashes."""


def _copy(source: Path, target: Path) -> str:
    """Copy a file; return the SHA-256 of the copied bytes."""
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
    with contextlib.suppress(OSError):  # read-only cache folder
        os.utime(path)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
