"""File locks between the processes of a machine; the system releases a lock when its process ends, even by a crash."""

import errno
import fcntl
import logging
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger("antidote")

TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # error codes of systems for a lock held by another process
_WARNED: list[str] = []


class NoLocks(Exception):
    """The folder does not support locks, or accepts no files."""


def lock(path: Path) -> BinaryIO | None:
    """Take a lock.

    Returns:
        The open lock file, which must stay open while the lock is held; None if another process holds the lock.

    Raises:
        NoLocks: locking is not possible; network file systems may lack locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise NoLocks(f"{path.parent}: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in TAKEN:
            return None
        raise NoLocks(f"{path.parent}: {error.strerror}") from None
    return file


def warn(error: NoLocks, what: str) -> None:
    """Log once per `what` that the program continues without a lock."""
    if what not in _WARNED:
        _WARNED.append(what)
        log.warning("%s; %s", error, what)
