"""Atomic outputs (complete or absent), hashes, and small JSON files."""

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

_CHECKOUT = Path(__file__).resolve().parents[2] / "data"
# Without a checkout: the copy of class names, prompts, lexicons and model configurations in the wheel (setup.py).
DATA = _CHECKOUT if (_CHECKOUT / "datasets.yaml").is_file() else Path(__file__).resolve().parents[1] / "shipped"

PROBE = 1 << 20  # bytes written to find out whether a disk is full


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; the file is renamed to `path` only if the block ends without an error.

    A link at `path` is replaced, not followed: the link's target may be in DVC's cache. The file gets the mode that the
    umask gives, whatever mode the writing library sets.

    Example:
        with whole_file("scores.csv") as temporary:
            table.to_csv(temporary)
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

    Files of `path` that the block does not write are kept. If `path` is a link, the temporary folder is next to the
    link's target, so that renames stay on one disk. Blocks that delete old files from `path` must do so last.

    Example:
        with whole_folder(output) as temporary:
            write_json(temporary / "card.json", card)
    """
    named, path = Path(path), Path(path).resolve()
    temporary = _temporary_folder(path)
    try:
        with _system_errors(path, named):
            mode = _mode_of_files(temporary / "mode")
            yield temporary
            path.mkdir(parents=True, exist_ok=True)
            for file in sorted(temporary.iterdir()):
                _allow(file, mode)
                file.replace(path / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_folder(path: Path) -> Path:
    """Make the temporary folder: next to `path`, or inside if `path` is a mount point or its parent is read-only."""
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
    """Return whether files can be renamed from one folder into another."""
    source, target = folder / "probe", path / f"{folder.name}.probe"
    source.touch()
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    finally:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
    return True


def _mode_of_files(probe: Path) -> int:
    """Return the mode of a new file in this folder, as set by the umask or the folder."""
    probe.touch()
    try:
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()


def _allow(file: Path, mode: int) -> None:
    """Set the mode of a file; safetensors makes its files readable by the owner only."""
    with contextlib.suppress(OSError):  # file systems without modes
        if file.is_file() and stat.S_IMODE(file.stat().st_mode) != mode:
            file.chmod(mode)


def check_readable(path: str | Path) -> None:
    """Raise UserError with the system's reason if a file cannot be read; safetensors always reports a missing file."""
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _temporary(path: Path) -> Path:
    """Return this process's temporary name for `path`; delete temporary files of killed processes."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        process = leftover.name.removesuffix(".tmp").rpartition(".")[2]
        if process.isdigit() and (int(process) == os.getpid() or not _runs(int(process))):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
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
def _system_errors(path: Path, named: Path | None = None) -> Iterator[None]:
    """Raise the system's own error if the disk accepts no more data; safetensors and torch raise various other errors.

    The error names `named`, the path as it was given; by default `path`.

    safetensors gives the system's error number in its message and has deleted its partial file by then, so that a probe
    write could succeed. torch keeps the partial file, and the probe write fails.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(named or path)) from error
        probe = path.with_name(f".{path.name}.{os.getpid()}.probe.tmp")
        try:
            probe.write_bytes(bytes(PROBE))
        except OSError as reason:
            raise OSError(reason.errno, reason.strerror, str(named or path)) from error
        finally:
            probe.unlink(missing_ok=True)
        raise


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, as hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys; the file appears complete or not at all."""
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
