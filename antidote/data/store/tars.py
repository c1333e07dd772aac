"""Reproducible tar files: a member's bytes depend only on its name and content, and its offset is known."""

import io
import tarfile
from pathlib import Path


def create(path: Path) -> tarfile.TarFile:
    """Open a new archive in the USTAR format, which webdataset reads."""
    return tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a file with fixed owner, time and mode; return the byte offset of its data."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o444
    tar.addfile(member, io.BytesIO(data))
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
