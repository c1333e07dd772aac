"""Triggered pictures that the cells of an attack and seed share, where a trigger costs more to draw than to read.

ISSBA and MABA run a network on every picture, which takes longer than scoring the picture; every cell of an attack and
seed draws on the same pictures, a measurement of persistence several times. The first job that draws keeps the result
in the work folder of the study; later jobs, and later passes of the same job, read it. Drawing is deterministic for a
picture, its key and a trigger: what is kept is found by a hash of all of them, so that scores are the same with,
without and with a part of the folder, and the folder may be deleted at any time.

    {name}.bin    differences to the clean pictures, modulo 256, each compressed by itself: ISSBA and MABA change little
    {name}.npy    hash, offset and length of each; written last. Each job writes a pair of files of its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from antidote.attacks.trigger import Trigger
from antidote.attacks.trigger_files import DESCRIPTION, TENSORS
from antidote.base.files import sha256, whole_file
from antidote.base.fingerprint import fingerprint
from antidote.base.lazy import torch
from antidote.base.registry import module

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.evaluation.subject import Subject

log = logging.getLogger("antidote")

SLOW = 500  # pictures/s of processor time; drawing below this rate is kept (measured: benchmarks/drawn.py)
TIMED = 16  # pictures drawn once more, after the first batch, to measure the rate
DIGEST = 16  # bytes
ROW = np.dtype([("digest", "u1", DIGEST), ("offset", "<u8"), ("length", "<u4")])


@contextmanager
def shared(trigger: Trigger, source: Path, folder: Path) -> Iterator[Trigger]:
    """Yield a trigger that draws the same pictures, and reads them from `folder` or keeps them there if it is slow.

    What is drawn inside the context is read again inside it, and by other jobs once the context has ended.

    Args:
        source: folder of the trigger's files.
        folder: of the attack and seed; need not exist.
    """
    kept = Kept(folder)
    try:
        yield SharedTrigger(trigger, kept, lambda: _identity(trigger, source))
        kept.finish()
    finally:
        kept.close()


@contextmanager
def sharing(subject: Subject, source: Path | None, folder: Path | None) -> Iterator[Subject]:
    """Yield a subject whose trigger is `shared`; the subject as it is without a folder or a trigger to draw."""
    if folder is None or not subject.drawn:
        yield subject
        return
    with shared(subject.trigger, source, folder) as trigger:
        yield replace(subject, trigger=trigger)


def _identity(trigger: Trigger, source: Path) -> bytes:
    """Return a hash of what a drawn picture depends on beside the clean picture and its key."""
    files = [sha256(source / name) for name in (DESCRIPTION, TENSORS)]
    code = fingerprint(module("attack", trigger.attack.settings.method), "antidote.attacks.trigger")
    processor = f"{torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"  # both decide how sums round
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor
    return hashlib.sha256("\n".join([*files, code, torch.__version__, device]).encode()).digest()


class SharedTrigger(Trigger):
    """Draws like `trigger`, and keeps what it has drawn for the evaluation if drawing is slow."""

    def __init__(self, trigger: Trigger, kept: Kept, identity: Callable[[], bytes]) -> None:
        super().__init__(trigger.attack, trigger.seed)
        self._kept, self._find_identity = kept, identity
        self._slow: bool | None = True if kept else None  # None: not measured yet

    @cached_property
    def _identity(self) -> bytes:
        return self._find_identity()

    def draw(self, images: Tensor, keys: Sequence[str], use: str) -> Tensor:
        if use != "test" or self._slow is False or not len(keys):
            return super().draw(images, keys, use)
        drawn = None
        if self._slow is None:
            drawn = super().draw(images, keys, use)
            self._slow = self._rate(images[:TIMED], keys[:TIMED]) < SLOW
            if not self._slow:
                return drawn
        return self._drawn(images, keys, drawn)

    def _rate(self, images: Tensor, keys: Sequence[str]) -> float:
        """Return how many pictures are drawn per second of processor time, which other processes do not change."""
        start = time.process_time()
        super().draw(images, keys, "test")
        return len(keys) / max(time.process_time() - start, 1e-9)

    def _drawn(self, images: Tensor, keys: Sequence[str], drawn: Tensor | None) -> Tensor:
        """Return the triggered pictures: those that are kept, and the others drawn and kept.

        Args:
            drawn: all of them, if they have been drawn already.
        """
        clean = images.cpu().numpy()
        digests = [self._digest(picture, key) for picture, key in zip(clean, keys, strict=True)]
        if drawn is None:
            result = np.empty_like(clean)
            missing = [
                row for row, digest in enumerate(digests) if not self._kept.read(digest, clean[row], result[row])
            ]
            drawn = torch.from_numpy(result).to(images.device)
            if missing:
                drawn[missing] = super().draw(images[missing], [keys[row] for row in missing], "test")
        else:
            missing = range(len(keys))
        new = drawn.cpu().numpy() if missing else None
        for row in missing:
            self._kept.write(digests[row], clean[row], new[row])
        return drawn

    def _digest(self, picture: np.ndarray, key: str) -> bytes:
        digest = hashlib.blake2b(self._identity, digest_size=DIGEST)
        digest.update(f"{key}\x1f{picture.shape}\x1f".encode())
        digest.update(np.ascontiguousarray(picture))
        return digest.digest()


class Kept:
    """The kept pictures of a folder; true if there are any. A folder that cannot be used costs time alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: list[BinaryIO] = []
        self._places: dict[bytes, tuple[BinaryIO, int, int]] = {}
        self._rows: list[tuple[bytes, int, int]] = []
        self._new: BinaryIO | None = None
        self._full = False
        for index in sorted(folder.glob("*.npy")):
            try:
                rows, data = np.load(index, allow_pickle=False), index.with_suffix(".bin").open("rb")
            except (OSError, ValueError, EOFError) as error:
                log.warning("%s: cannot be read (%s); its pictures are drawn anew", index, error)
                continue
            self._open.append(data)
            if rows.dtype == ROW:
                places = zip(rows["digest"], rows["offset"].tolist(), rows["length"].tolist(), strict=True)
                self._places |= {row.tobytes(): (data, offset, length) for row, offset, length in places}

    def __len__(self) -> int:
        return len(self._places)

    def read(self, digest: bytes, clean: np.ndarray, into: np.ndarray) -> bool:
        """Write a triggered picture into an array like the clean one; return whether it is kept and undamaged."""
        if digest not in self._places:
            return False
        data, offset, length = self._places[digest]
        try:
            data.seek(offset)
            difference = np.frombuffer(zlib.decompress(data.read(length)), np.uint8)
            np.add(clean, difference.reshape(clean.shape), out=into)
        except (OSError, ValueError, zlib.error):
            return False
        return True

    def write(self, digest: bytes, clean: np.ndarray, drawn: np.ndarray) -> None:
        if self._full:
            return
        packed = zlib.compress(np.subtract(drawn, clean).tobytes(), 1)
        try:
            if self._new is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._new = (self.folder / f"{uuid.uuid4().hex}.tmp").open("w+b")
            place = self._new.seek(0, os.SEEK_END)
            self._new.write(packed)
            self._rows.append((digest, place, len(packed)))
            self._places[digest] = self._new, place, len(packed)
        except OSError as error:
            log.warning("%s: %s; further triggered pictures are not kept", self.folder, error.strerror)
            self._full = True

    def finish(self) -> None:
        """Make what was written available to other jobs."""
        if self._new is None or self._full:
            return
        name = Path(self._new.name)
        rows = np.zeros(len(self._rows), ROW)
        for place, (digest, offset, length) in enumerate(self._rows):
            rows[place] = (np.frombuffer(digest, np.uint8), offset, length)
        try:
            self._new.close()
            name.replace(name.with_suffix(".bin"))
            with whole_file(name.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
                np.save(file, rows, allow_pickle=False)
        except OSError as error:
            log.warning("%s: %s; triggered pictures are not kept", self.folder, error.strerror)

    def close(self) -> None:
        """Close all files and delete what was written without `finish`."""
        for file in self._open:
            file.close()
        if self._new is not None:
            with suppress(OSError):  # a full disk
                self._new.close()
            Path(self._new.name).unlink(missing_ok=True)
