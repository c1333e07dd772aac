"""Locks of files between the processes of a machine; the system frees them when a process ends, however it ends."""

import errno
import fcntl
import logging
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger("antidote")

TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # how systems say that another process holds a lock
_WARNED: list[str] = []


class NoLocks(Exception):
    """The place has no locks, or takes no files."""


def lock(path: Path) -> BinaryIO | None:
    """Return the open file of a lock that this process now holds; None where another process holds it.

    Raises:
        NoLocks: neither; file systems on a network may have no locks.
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
    """Say once what goes on without a lock."""
    if what not in _WARNED:
        _WARNED.append(what)
        log.warning("%s; %s", error, what)
