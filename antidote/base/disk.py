"""Free disk space, checked before a long job starts."""

import shutil
from pathlib import Path

from antidote.base.errors import UserError


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_space(folder: Path, needed: int, what: str, advice: str) -> None:
    """Check the free space.

    Args:
        folder: folder that will hold the files.
        needed: bytes.
        what: subject of the error message.
        advice: end of the error message.

    Raises:
        UserError: fewer than `needed` bytes are free.
    """
    free = free_bytes(folder)
    if free < needed:
        raise UserError(
            f"{folder}: {what} takes about {gigabytes(needed)}, {gigabytes(free)} are free; free some space, {advice}"
        )


def gigabytes(count: float) -> str:
    """Format a number of bytes for people: `1,024 GB`, `12 GB`, `0.3 GB`, `40 MB`."""
    if count >= 1e11:
        return f"{count / 1e9:,.0f} GB"
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.2g} MB"
