"""Stages shared between checkouts and studies: what is in a key, what an entry survives, what a bad place costs."""

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from antidote.base import cache
from antidote.base.cache import PLACE, Shared
from antidote.base.errors import UserError
from antidote.base.files import sha256
from antidote.base.fingerprint import ROOT
from antidote.data import pools
from antidote.data.pools import drawn_from
from antidote.training import loop


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(PLACE, str(tmp_path / "place"))
    return tmp_path / "place"


@pytest.fixture
def made(tmp_path):
    """Return a folder with the two files of a finished job."""
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "weights").write_bytes(os.urandom(3 << 20))
    (folder / "card.json").write_text("{}")
    return folder


def entry(identity="made from this", stage="pretrain"):
    return Shared(stage, lambda: identity)


def stored(made, **options):
    found = entry(**options)
    found.put(made, ["weights", "card.json"], {"seconds": 812.5, "pairs": 3})
    return found


# --- the key ---------------------------------------------------------------------------------------------------------


def identity(folder, parts=({"lr": 0.1}, 0), modules=("antidote.training.loop",)):  # noqa: B006 - nothing changes it
    return cache.identity(parts, [folder / "weights", folder / "card.json"], *modules)


def test_an_identity_is_settings_content_and_source(made, tmp_path, monkeypatch):
    first = identity(made)
    assert identity(made, ({"lr": 0.2}, 0)) != first, "settings"
    assert identity(made, ({"lr": 0.1}, 1)) != first, "seed"
    (made / "card.json").write_text("{ }")
    assert identity(made) != first, "content of an input"
    (made / "card.json").write_text("{}")
    assert identity(made) == first
    monkeypatch.setattr(cache, "fingerprint", lambda *modules: "other source")
    assert identity(made) != first


def test_an_identity_is_neither_place_nor_time_nor_user(made, tmp_path, monkeypatch):
    first = identity(made)
    elsewhere = shutil.copytree(made, tmp_path / "elsewhere")
    os.utime(elsewhere / "weights", (0, 0))
    monkeypatch.chdir(elsewhere)
    for name in ("USER", "LOGNAME", "HOME", "HOSTNAME"):
        monkeypatch.setenv(name, "somebody")
    assert identity(elsewhere) == first == identity(Path())


def test_a_missing_input_is_named(made):
    (made / "card.json").unlink()
    with pytest.raises(UserError, match=r"card\.json: cannot be read"):
        identity(made)


def test_pools_stand_for_the_data_they_are_drawn_from(tmp_path):
    table = pd.DataFrame({"key": ["a", "b"], "dataset": ["d", "c"], "split": "s", "pool": "training", "position": 0})
    pools.write(tmp_path / "training.parquet", table)
    found = drawn_from([tmp_path / "training.parquet"], Path("data"))
    manifests = [Path("data/c/s/manifest.json"), Path("data/d/s/manifest.json")]
    assert found == [tmp_path / "training.parquet", *manifests]
    assert drawn_from([], Path("data")) == []


@pytest.mark.parametrize("name", ["python", *cache.PACKAGES])
def test_a_key_holds_the_environment(place, made, tmp_path, monkeypatch, name):
    stored(made)
    here = cache.environment()
    assert here["torch"] and "+" not in here["torch"]
    monkeypatch.setattr(cache, "environment", lambda: {**here, name: "0.0.1"})
    assert entry().take(tmp_path / "out") == []


def test_another_identity_or_stage_finds_nothing(place, made, tmp_path):
    stored(made)
    assert entry("made from that").take(tmp_path / "out") == []
    assert entry(stage="defend").take(tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


# --- taking and storing ----------------------------------------------------------------------------------------------


def test_a_stage_is_taken_with_what_it_cost(place, made, tmp_path, caplog):
    stored(made)
    caplog.set_level(logging.INFO, "antidote")
    taken = entry().take(tmp_path / "out", tmp_path / "cost.json")
    assert taken == ["card.json", "weights"] == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert (tmp_path / "out/weights").read_bytes() == (made / "weights").read_bytes()
    assert json.loads((tmp_path / "cost.json").read_text()) == {"seconds": 812.5, "pairs": 3, "shared": True}
    assert str(entry().entry) in caplog.text and "812.5 s" in caplog.text


def test_what_is_taken_can_be_changed_without_harm(place, made, tmp_path):
    stored(made).take(tmp_path / "out")
    with (tmp_path / "out/weights").open("r+b") as file:
        file.write(b"other")
    entry().take(tmp_path / "again")
    assert sha256(tmp_path / "again/weights") == sha256(made / "weights")


def test_a_result_of_a_job_whose_code_was_edited_meanwhile_is_not_shared(place, made, tmp_path, monkeypatch, caplog):
    """The key is that of the code on disk; the job may have loaded the code before the edit."""
    found = Shared("pretrain", lambda: identity(made))
    monkeypatch.setattr(cache, "process_start", lambda: Path(loop.__file__).stat().st_mtime - 1)
    found.put(made, ["weights"], {})
    assert not found.take(tmp_path / "b") and "the code was edited while this job ran" in caplog.text
    monkeypatch.setattr(cache, "process_start", time.time)
    found.put(made, ["weights"], {})
    assert found.take(tmp_path / "b") == ["weights"]


def test_without_a_place_nothing_is_asked_or_kept(made, tmp_path, monkeypatch):
    monkeypatch.delenv(PLACE, raising=False)
    nothing = Shared("pretrain", lambda: pytest.fail("hashed for nothing"))
    nothing.put(made, ["weights"], {})
    assert nothing.take(tmp_path / "out") == [] and {path.name for path in tmp_path.iterdir()} == {"made"}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a bit": lambda folder: flip(folder / "weights"),
    "cut short": lambda folder: os.truncate(folder / "weights", 1 << 20),
    "a file less": lambda folder: (folder / "weights").unlink(),
    "no description": lambda folder: (folder / "entry.json").unlink(),
    "half a description": lambda folder: os.truncate(folder / "entry.json", 20),
    "another description": lambda folder: (folder / "entry.json").write_text("[]"),
    "a way out": lambda folder: (folder / "entry.json").write_text('{"files": {"../../x": ""}, "cost": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_costs_a_line_and_is_made_anew(place, made, tmp_path, caplog, damage):
    found = stored(made)
    DAMAGES[damage](found.entry)
    assert found.take(tmp_path / "out", tmp_path / "cost.json") == []
    assert not (tmp_path / "out").exists() and not (tmp_path / "cost.json").exists()
    assert len(caplog.messages) == 1 and "cannot be used" in caplog.messages[0]
    stored(made)
    assert found.take(tmp_path / "out") and sha256(tmp_path / "out/weights") == sha256(made / "weights")


def test_a_place_that_takes_nothing_costs_a_line(place, made, tmp_path, caplog):
    place.write_text("not a folder")
    stored(made)
    assert entry().take(tmp_path / "out") == []
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(f"{PLACE}: {place}: ")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO])
def test_a_place_that_cannot_be_entered_costs_a_line(place, made, tmp_path, caplog, monkeypatch, number):
    """As a folder of another account is, or a share of a server that is gone."""
    found = stored(made)

    def fails(path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "is_dir", fails)
    assert found.take(tmp_path / "out", tmp_path / "cost.json") == [] and not (tmp_path / "out").exists()
    assert caplog.messages == [f"{PLACE}: {place}: {os.strerror(number)}; computing anew"]
    caplog.clear()
    assert found.put(made, ["weights", "card.json"], {}) is None
    assert caplog.messages == [f"{PLACE}: {place}: {os.strerror(number)}; this result is not shared"]


def test_a_full_place_costs_a_line_and_leaves_no_part(place, made, caplog):
    """The limit on file sizes stands for the full disk; the system reports both while a file is being written."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from antidote.base.cache import Shared\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        f"Shared('pretrain', str).put(Path({str(made)!r}), ['weights'], {{}})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.count("\n") == 1 and "not shared" in done.stderr, done.stderr
    assert [path for path in place.rglob("*") if path.is_file()] == []


# --- several at once, and killed -------------------------------------------------------------------------------------


def test_of_several_writers_one_wins(place, made, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: stored(made), range(16)))
        taken = list(pool.map(lambda i: entry().take(tmp_path / f"out{i}"), range(16)))
    assert taken == [["card.json", "weights"]] * 16
    assert [path.name for path in place.iterdir()] == ["pretrain"] and len(list((place / "pretrain").iterdir())) == 1


def test_a_killed_writer_leaves_no_entry(place, made, tmp_path):
    """Killed at various moments while it writes; what is there afterwards is whole, or nothing."""
    with (made / "weights").open("wb") as file:
        file.truncate(400 << 20)
    code = f"from pathlib import Path; from antidote.base.cache import Shared\nShared('pretrain', lambda: 'made from this').put(Path({str(made)!r}), ['weights', 'card.json'], {{}})\n"
    for delay in (0.0, 0.05, 0.2):
        writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        while not list(place.glob(".*.tmp")) and writer.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        if writer.wait() == -signal.SIGKILL and not entry().entry.exists():
            assert list(place.glob(".*.tmp")), "killed in the middle"
            assert entry().take(tmp_path / "out") == [] and not (tmp_path / "out").exists()
    stored(made)
    assert entry().take(tmp_path / "out") == ["card.json", "weights"]
    assert sha256(tmp_path / "out/weights") == sha256(made / "weights")
