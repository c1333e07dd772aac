"""Outputs that appear whole or not at all, hashes, and small JSON files."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from antidote.base.errors import UserError

DATA = Path(__file__).resolve().parents[2] / "data"


PROBE = 1 << 20  # bytes written to find out whether a disk is full


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the name `path` only if the block ends without an error.

    A link at `path` is replaced and not followed: what it leads to may be DVC's cache. The file gets the mode that the
    umask gives, whatever the library that writes it thinks.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with _system_errors(path):
            mode = _mode_of_files(temporary)
            yield temporary
            _allow(temporary, mode)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder; its files move into `path`, one rename each, only if the block ends without an error.

    Files of `path` that the block does not write stay as they are. Where `path` is a link, the temporary folder is
    beside what the link leads to, so that renames stay on one disk. What a block takes away of the old content, it
    takes away last.
    """
    path = Path(path).resolve()
    temporary = _temporary_folder(path)
    try:
        with _system_errors(path):
            mode = _mode_of_files(temporary / "mode")
            yield temporary
            path.mkdir(parents=True, exist_ok=True)
            for file in sorted(temporary.iterdir()):
                _allow(file, mode)
                file.replace(path / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_folder(path: Path) -> Path:
    """Make the temporary folder of `path`: beside it, or inside where it is mounted, or alone can be written to."""
    beside = _temporary(path)
    try:
        beside.mkdir(parents=True)
        if not path.is_dir() or _moves(beside, path):
            return beside
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    shutil.rmtree(beside, ignore_errors=True)
    inside = _temporary(path / path.name)
    inside.mkdir()
    return inside


def _moves(folder: Path, path: Path) -> bool:
    """Tell whether files can be renamed from one folder into another."""
    here, there = folder / "probe", path / f"{folder.name}.probe"
    here.touch()
    try:
        here.rename(there)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    finally:
        here.unlink(missing_ok=True)
        there.unlink(missing_ok=True)
    return True


def _mode_of_files(probe: Path) -> int:
    """Return the mode that a new file gets at this place, from the umask or the folder."""
    probe.touch()
    try:
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()


def _allow(file: Path, mode: int) -> None:
    """Give a file its mode; safetensors leaves its files to their owner alone."""
    with contextlib.suppress(OSError):  # a disk that keeps no modes
        if file.is_file() and stat.S_IMODE(file.stat().st_mode) != mode:
            file.chmod(mode)


def check_readable(path: str | Path) -> None:
    """Raise UserError with the system's reason where a file cannot be read; safetensors calls each a missing one."""
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _temporary(path: Path) -> Path:
    """Return this process's temporary name for `path`; take away what killed processes left of theirs."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        process = left.name.removesuffix(".tmp").rpartition(".")[2]
        if process.isdigit() and (int(process) == os.getpid() or not _runs(int(process))):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Where the disk takes nothing more, raise the system's own error; safetensors and torch raise various others.

    safetensors names the system's error in its message, and has taken its part of a file away by then; torch has not.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        probe = path.with_name(f".{path.name}.{os.getpid()}.probe.tmp")
        try:
            probe.write_bytes(bytes(PROBE))
        except OSError as reason:
            raise OSError(reason.errno, reason.strerror, str(path)) from error
        finally:
            probe.unlink(missing_ok=True)
        raise


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, as hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys; the file appears whole."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
