"""A lock is held, held by another, or not to be had; whoever asks for one goes on or ends, and waits for none."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from antidote.base import devices, locks
from antidote.base.errors import UserError
from antidote.base.locks import NoLocks, lock
from antidote.data.download import download

WITHOUT = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(locks, "_WARNED", [])


@pytest.fixture(params=WITHOUT)
def no_locks(request, monkeypatch):
    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)
    return os.strerror(request.param)


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_ASKED", [])
    monkeypatch.setattr(devices, "_HELD", [])
    monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path / "tmp"))
    for name in ("TORCHELASTIC_RUN_ID", devices.NAMED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(devices.VISIBLE, "0,1")
    return tmp_path / "tmp"


def test_a_lock_is_held_or_taken(tmp_path):
    held = lock(tmp_path / "new" / "lock")
    assert held is not None and lock(tmp_path / "new" / "lock") is None
    held.close()
    assert lock(tmp_path / "new" / "lock") is not None


def test_a_place_without_locks_is_told(tmp_path, no_locks):
    with pytest.raises(NoLocks, match=f": {no_locks}$"):
        lock(tmp_path / "lock")
    (tmp_path / "file").touch()
    with pytest.raises(NoLocks, match="File exists"):
        lock(tmp_path / "file" / "lock")


def test_a_gpu_is_claimed_without_locks(gpus, no_locks, caplog):
    """A search for a free one would never end where each counts as taken."""
    gpus.mkdir()
    assert devices.claim() == ["0"] and os.environ[devices.VISIBLE] == "0"
    assert len(caplog.messages) == 1 and no_locks in caplog.messages[0] and "same GPU" in caplog.messages[0]
    assert sum(path.is_file() for path in gpus.rglob("*")) == 1


def test_a_gpu_is_claimed_where_no_file_can_be_made(gpus, caplog):
    gpus.touch()
    assert devices.claim() == ["0"] and len(caplog.messages) == 1


def test_a_download_goes_on_without_locks(tmp_path, no_locks, caplog):
    for _ in range(2):
        with download._alone(tmp_path / "d"):
            pass
    assert [no_locks in message for message in caplog.messages] == [True], "said once"


def test_a_second_download_is_kept_out(tmp_path, caplog):
    second = download._alone(tmp_path / "d")
    with download._alone(tmp_path / "d"), pytest.raises(UserError, match="another download is at work there"):
        second.__enter__()
    with download._alone(tmp_path / "d"):
        assert not caplog.messages


@pytest.mark.parametrize(
    ("named", "seen"), [("-1", []), ("NoDevFiles", []), ("2,-1,0", ["2"]), (" 1 , 0 ", ["1", "0"])]
)
def test_cuda_sees_nothing_from_an_invalid_name_on(monkeypatch, named, seen):
    monkeypatch.setenv(devices.VISIBLE, named)
    assert devices.devices() == seen


def test_an_empty_list_of_the_machines_gpus_counts_as_not_set(monkeypatch):
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.setenv(devices.NAMED, "")
    monkeypatch.setattr(devices, "Path", lambda _: Path("/nowhere"))
    assert devices.devices() == []
    monkeypatch.setenv(devices.NAMED, "3")
    assert devices.devices() == ["3"]


def test_no_module_locks_by_itself():
    """Each would take any error of the system for a lock that another holds."""
    root = Path(locks.__file__).parent
    files = [path for path in [*root.rglob("*.py"), *(root.parent / "scripts").glob("*.py")] if path.name != "locks.py"]
    assert [path for path in files if "fcntl" in path.read_text(encoding="utf-8")] == []


def test_a_lock_is_free_when_its_process_has_ended(tmp_path):
    code = f"from pathlib import Path; from antidote.base.locks import lock; print(bool(lock(Path({str(tmp_path)!r}, 'l'))))"
    environment = {**os.environ, "PYTHONPATH": str(Path(locks.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n" and lock(tmp_path / "l") is not None
