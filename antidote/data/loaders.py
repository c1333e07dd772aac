"""Transfer of batches from loader processes to the training, and one-line messages for their errors.

torch's loaders pickle a batch in a background thread. An error in that thread (no shared memory, no socket) is printed
and then lost, and the training waits forever. This module pickles a batch in the main thread, where errors are caught.
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
AHEAD = 2  # batches that each loader process keeps ready in shared memory
# Constant parts of torch's messages about full shared memory; the rest of a message is a file name.
FULL = ("unable to allocate shared memory", "unable to write to file", "unable to mmap", "No space left on device")
MORE = f"allow more of {SHARED_MEMORY} (docker run --shm-size=1g), or use fewer --workers; --workers 0 needs none"


class Packed:
    """A batch in transfer: pictures and tokens in shared memory, pickled by the loader process."""

    def __init__(self, batch: tuple[Tensor, ...]) -> None:
        """Move a batch to shared memory.

        Raises:
            OSError: no socket or file can be opened.
            RuntimeError: no shared memory is left.
        """
        self._bytes = bytes(ForkingPickler.dumps(batch))

    def unpack(self) -> tuple[Tensor, ...]:
        """Return the batch; called in the training process.

        Raises:
            OSError, EOFError: the loader process has ended.
        """
        return pickle.loads(self._bytes)  # noqa: S301 - this program's own bytes

    def pin_memory(self) -> tuple[Tensor, ...]:
        """Return the batch in pinned memory; torch calls this method in its pinning thread."""
        return tuple(tensor.pin_memory() for tensor in self.unpack())


class Failed(str):
    """The message for the user about a failed loader process; returned in place of a batch."""

    __slots__ = ()


def reason(error: BaseException) -> str:
    """Return a one-line message for an error in a loader process or in the transfer of a batch."""
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
    """Check that the free shared memory is enough for the batches of the loader processes.

    Args:
        pictures: pictures per batch, over all processes of the training.
        size: side of a picture in pixels.
        length: tokens per caption.
        workers: loader processes of each training process.
        batches: remaining batches of the training.

    Raises:
        UserError: too little shared memory is free.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # other operating systems keep shared memory elsewhere
        return
    count = min(workers * AHEAD + 1, batches)  # + 1: the batch of the current step
    needed = count * pictures * (3 * size**2 + 8 * length)
    if workers and needed > free:
        held = f"{count} batches of {pictures} pictures: {gigabytes(needed)}"
        raise UserError(
            f"--workers: {workers} loader processes hold {held} in shared memory; {SHARED_MEMORY} has "
            f"{gigabytes(free)} free; {MORE}"
        )


def begin(_: int) -> None:
    """Initialise a loader process: ignore SIGTERM and SIGINT.

    A cluster signals every process of a job; the loaders must run until the training has saved its state.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    queues.Queue._on_queue_feeder_error = staticmethod(_end)


def _end(error: BaseException, _: Any) -> NoReturn:
    """Exit a loader process that cannot send its batch, so that torch reports its end to the training."""
    log.error("%s", reason(error))
    os._exit(1)
