"""How loader processes hand batches over, and what becomes of their errors: one line each, whatever has failed.

torch's own loaders pickle a batch in a thread of the process. An error there (no shared memory, no socket) is printed
and forgotten, and the training waits without end. Here a batch is pickled where its errors are seen.
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import shutil
import signal
from multiprocessing import queues
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from antidote.base.disk import gigabytes
from antidote.base.errors import UserError, out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("antidote")

SHARED_MEMORY = Path("/dev/shm")
AHEAD = 2  # batches that a loader process prepares, in shared memory
# What torch says where shared memory is full; of the rest of the message only the name of the file changes.
FULL = ("unable to allocate shared memory", "unable to write to file", "unable to mmap", "No space left on device")
MORE = f"allow more of {SHARED_MEMORY} (docker run --shm-size=1g), or use fewer --workers; --workers 0 needs none"


class Packed:
    """A batch on its way: pictures and tokens in shared memory, pickled by the loader process."""

    def __init__(self, batch: tuple[Tensor, ...]) -> None:
        """Put a batch into shared memory.

        Raises:
            OSError: no socket or file can be opened.
            RuntimeError: no shared memory is left.
        """
        self._bytes = bytes(ForkingPickler.dumps(batch))

    def unpack(self) -> tuple[Tensor, ...]:
        """Return the batch, in the process that trains; OSError or EOFError where the loader process is gone."""
        return pickle.loads(self._bytes)  # noqa: S301 - this program's own bytes

    def pin_memory(self) -> tuple[Tensor, ...]:
        """Return the batch in memory that a GPU reads by itself; torch calls this in a thread of its own."""
        return tuple(tensor.pin_memory() for tensor in self.unpack())


class Failed(str):
    """What a loader process failed of, as the line for the user, in place of a batch."""

    __slots__ = ()


def reason(error: BaseException) -> str:
    """Return the line for an error of a loader process, or of the transport between it and the training."""
    if isinstance(error, UserError):
        return str(error)
    text = " ".join(str(error).split())
    if any(words in text for words in FULL) or getattr(error, "errno", None) == errno.ENOSPC:
        return f"--workers: loader processes hand over batches in shared memory, and {SHARED_MEMORY} is full; {MORE}"
    if out_of_memory(error):
        return "--workers: a loader process needs more memory than there is; fewer of them need less"
    if "AF_UNIX path too long" in text:
        return "TMPDIR: its path is too long for the sockets of loader processes; name a folder with a shorter path"
    if "Too many open files" in text or "ancdata" in text:
        return "--workers: too many open files; raise the limit (ulimit -n), or use fewer loader processes"
    return f"--workers: a loader process failed ({type(error).__name__}: {text}); --workers 0 shows where"


def check_shared_memory(pictures: int, size: int, length: int, workers: int, batches: int) -> None:
    """Compare the shared memory that is free with what loader processes will put there.

    Args:
        pictures: in a batch, over all processes that train together.
        size: side of a picture in pixels.
        length: tokens of a caption.
        workers: loader processes of each process that trains.
        batches: that are left to train on.

    Raises:
        UserError: it is too little.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # another system, with another place for it
        return
    count = min(workers * AHEAD + 1, batches)  # and the one that is trained on
    needed = count * pictures * (3 * size**2 + 8 * length)
    if workers and needed > free:
        held = f"{count} batches of {pictures} pictures: {gigabytes(needed)}"
        raise UserError(
            f"--workers: {workers} loader processes hold {held} in shared memory; {SHARED_MEMORY} has "
            f"{gigabytes(free)} free; {MORE}"
        )


def begin(_: int) -> None:
    """Prepare a loader process.

    A cluster tells every process of a job to stop; the loaders go on until the training has saved its state.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    queues.Queue._on_queue_feeder_error = staticmethod(_end)


def _end(error: BaseException, _: Any) -> NoReturn:
    """End a loader process that cannot send what it has made: torch tells the training that it is gone."""
    log.error("%s", reason(error))
    os._exit(1)
