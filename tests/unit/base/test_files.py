"""Outputs appear whole or not at all."""

import errno
import hashlib
import math
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from antidote.base.errors import UserError
from antidote.base.files import check_readable, read_json, sha256, whole_file, whole_folder, write_json
from antidote.base.fingerprint import ROOT


class Stop(Exception):
    pass


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "half" and names(path.parent) == ["a.txt"]


def test_a_file_stays_as_it_was_after_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(Stop), whole_file(path) as temporary:
        temporary.write_text("new")
        raise Stop
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]
    with pytest.raises(Stop), whole_file(tmp_path / "b.txt"):
        raise Stop
    assert names(tmp_path) == ["a.txt"], "nothing was written yet"


def test_a_folders_files_appear_together(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "kept").write_text("kept")
    (folder / "changed").write_text("old")
    with whole_folder(folder) as temporary:
        (temporary / "changed").write_text("new")
        (temporary / "added").write_text("added")
        assert names(folder) == ["changed", "kept"] and (folder / "changed").read_text() == "old"
    assert names(folder) == ["added", "changed", "kept"] and (folder / "changed").read_text() == "new"
    assert names(tmp_path) == ["f"]


def test_a_folder_stays_as_it_was_after_an_error(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a").write_text("old")
    with pytest.raises(Stop), whole_folder(folder) as temporary:
        (temporary / "a").write_text("new")
        (temporary / "b").write_text("new")
        raise Stop
    assert names(folder) == ["a"] and (folder / "a").read_text() == "old" and names(tmp_path) == ["f"]
    with pytest.raises(Stop), whole_folder(tmp_path / "g"):
        raise Stop
    assert names(tmp_path) == ["f"]


def test_a_killed_process_of_the_same_id_leaves_no_trace(tmp_path):
    with pytest.raises(Stop), whole_folder(tmp_path / "f") as temporary:
        place = temporary
        raise Stop
    place.mkdir()
    (place / "stale").write_text("from a killed run")
    with whole_folder(tmp_path / "f") as temporary:
        (temporary / "a").write_text("a")
    assert names(tmp_path / "f") == ["a"]


def test_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_json_is_canonical_and_readable(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, None], "a": 0.1})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 0.1,\n  "b": [\n    1,\n    null\n  ]\n}\n'
    assert read_json(tmp_path / "a.json") == {"a": 0.1, "b": [1, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"a": math.nan})
    assert read_json(tmp_path / "a.json") == {"a": 0.1, "b": [1, None]}, "the old one stays"


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "cannot be read (No such file or directory)"), (b"{", "not valid JSON"), (b"\xff\xfe", "not valid JSON")],
)
def test_json_that_cannot_be_read(tmp_path, content, text):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(tmp_path / "a.json")
    assert str(error.value).startswith(f"{tmp_path / 'a.json'}: {text}") and "\n" not in str(error.value)


def test_a_disk_that_is_full_for_one_file_alone_is_the_systems_error(tmp_path):
    """safetensors takes its part of the file away, so that there is room for a small one again."""
    code = (
        "import resource, signal, torch; from safetensors.torch import save_file; from antidote.base.files import whole_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))\n"
        "try:\n"
        f"    with whole_file({str(tmp_path / 'weights')!r}) as path: save_file({{'w': torch.zeros(4 << 20)}}, path)\n"
        "except OSError as error: print(error.errno, error.filename)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EFBIG), str(tmp_path / "weights")] and list(tmp_path.iterdir()) == []


# --- other disks, other people ---------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """Return a folder on another disk than tmp_path."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second disk to write to")
    folder = Path(tempfile.mkdtemp(dir=shared))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_a_link_to_another_disk(tmp_path, disk, there):
    """Renames need one disk; the link stays, also one that leads to a folder that is still to be made."""
    (tmp_path / "link").symlink_to(disk / "place")
    if there:
        (disk / "place").mkdir()
        (disk / "place" / "kept").write_text("kept")
    with whole_folder(tmp_path / "link") as temporary:
        (temporary / "a").write_text("a")
    assert names(disk / "place") == ["a", "kept"][: 1 + there] and names(disk) == ["place"]
    assert (tmp_path / "link").is_symlink() and names(tmp_path) == ["link"]


def test_a_folder_beneath_a_link_to_another_disk(tmp_path, disk):
    (tmp_path / "results").symlink_to(disk)
    with whole_folder(tmp_path / "results" / "study" / "summary") as temporary:
        (temporary / "a").write_text("a")
    write_json(tmp_path / "results" / "study" / "a.json", {})
    assert names(disk / "study") == ["a.json", "summary"] and names(disk / "study" / "summary") == ["a"]


MOUNTED = """
import os
from pathlib import Path
from antidote.base.files import whole_folder
with whole_folder("mounted") as temporary:
    (temporary / "a").write_text("new")
print(sorted(os.listdir("mounted")), sorted(os.listdir(".")), Path("mounted/a").read_text())
"""


@pytest.mark.parametrize("kind", ["-t tmpfs tmpfs", "--bind other"])
def test_a_folder_that_is_a_mounted_disk(tmp_path, kind):
    """A volume of a container, on another disk or on the same: what is beside it is elsewhere."""
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("mounting needs root and leave to unshare")
    (tmp_path / "other").mkdir()
    (tmp_path / "mounted").mkdir()
    command = f'mount {kind} mounted && echo old > mounted/a && exec "{sys.executable}" -c "$1"'
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "bash", "-c", command, "bash", MOUNTED],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "['a'] ['mounted', 'other'] new\n", done.stderr


def test_a_link_to_a_file_is_replaced_and_not_followed(tmp_path):
    """DVC's outputs may be links into its cache."""
    (tmp_path / "cache").write_text("kept")
    (tmp_path / "a").symlink_to(tmp_path / "cache")
    write_json(tmp_path / "a", {})
    assert (tmp_path / "cache").read_text() == "kept" and not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o027, 0o077])
def test_files_get_the_mode_that_the_umask_gives(tmp_path, umask):
    def private(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))

    before = os.umask(umask)
    try:
        with whole_folder(tmp_path / "folder") as temporary:
            private(temporary / "weights")
            (temporary / "text").write_text("")
        with whole_file(tmp_path / "file") as temporary:
            private(temporary)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (*(tmp_path / "folder").iterdir(), tmp_path / "file")}
    assert modes == {0o666 & ~umask} and names(tmp_path / "folder") == ["text", "weights"]
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


def test_a_file_that_cannot_be_read_is_told_as_the_system_does(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    check_readable(tmp_path / "a")
    with pytest.raises(UserError, match=r"a/b: cannot be read \(Not a directory\)$"):
        check_readable(tmp_path / "a" / "b")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"a: cannot be read \(Permission denied\)$"):
        check_readable(tmp_path / "a")
