"""An error anywhere in a loader process ends the training with one line; a wait for a batch heeds a wish to stop."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from antidote.base.errors import UserError
from antidote.data import loaders
from antidote.data.loaders import Failed, Packed
from antidote.data.pairs import Pairs
from antidote.data.sources.scenes import Scenes
from antidote.data.store import images, ingest, shards
from antidote.data.streaming import Reading, Texts, pictures
from antidote.training import parallel, session
from antidote.training.loop import train
from antidote.training.objectives import Contrastive
from antidote.training.recipe import TrainSettings
from antidote.training.session import Interrupt, Work

ROOT = Path(__file__).resolve().parents[3]
RECIPE = TrainSettings(epochs=4, batch_size=8, lr=0.01, warmup=2)
LIMIT = 30  # seconds in which a training has to end, on a busy machine


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loaders") / "tiny" / "test"
    settings = Scenes.read({"source": "scenes", "splits": {"test": {"pairs": 48, "seed": 3}}}, "tiny")
    ingest.write(settings, "tiny", "test", folder)
    return folder


@pytest.fixture
def streamed(split):
    import pyarrow as pa

    index = shards.open_index(split, ["key"])
    rows = shards.find_rows(split, index["key"].tolist(), ["shard", "offset", "size", "caption", "label"])
    found = pictures(split, rows, 32, Reading(in_memory=0, workers=2))
    texts = Texts(pa.array(rows["caption"].to_pylist()))
    return Pairs(index["key"].tolist(), found, texts, torch.tensor(rows["label"].to_numpy()))


@pytest.fixture
def limit():
    """End a test that waits without end, by an error that nothing takes for an answer."""

    def late(*_):
        raise AssertionError(f"the training did not end within {LIMIT} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def once(action, after=2):
    """Return what acts in place of `images.load_pictures` from the third batch of a loader process on."""
    real, calls = images.load_pictures, []

    def load(*given):
        calls.append(1)
        if len(calls) > after:
            action()
        return real(*given)

    return load


def raises(error):
    def act(*_):
        raise error

    return act


# --- errors ----------------------------------------------------------------------------------------------------------

ERRORS = {
    "of a library": (
        ValueError("odd\nshape"),
        r"^--workers: a loader process failed \(ValueError: odd shape\); --work",
    ),
    "of the disk": (OSError(errno.EIO, "Input/output error", "a.tar"), r"^--workers: .*Input/output error: 'a\.tar'"),
    "of memory": (MemoryError(), r"^--workers: a loader process needs more memory than there is"),
    "of a picture": (UserError("a.tar: picture at byte 3: damaged"), r"^a\.tar: picture at byte 3: damaged$"),
    "of files": (OSError(errno.EMFILE, "Too many open files"), r"^--workers: too many open files; raise the limit"),
    "that ends the process": (SystemExit(3), r"^--workers: a loader process was killed"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_in_a_loader_is_one_line(streamed, make_clip, tmp_path, monkeypatch, limit, kind):
    error, line = ERRORS[kind]
    monkeypatch.setattr(images, "load_pictures", once(raises(error)))
    with pytest.raises(UserError, match=line) as told:
        train(make_clip("rn"), Contrastive(streamed), RECIPE, 0, Work(tmp_path, "a run"))
    assert "\n" not in str(told.value)


class Unsendable:
    """What takes the place of a batch and cannot be pickled."""

    def __reduce__(self):
        raise OSError("AF_UNIX path too long")


def test_an_error_in_handing_over_is_one_line(streamed, make_clip, tmp_path, monkeypatch, limit):
    """There a batch is pickled, and its memory shared: by torch, in a thread whose errors reach nobody."""
    monkeypatch.setattr(torch, "from_numpy", lambda _: Unsendable())
    with pytest.raises(UserError, match=r"^TMPDIR: its path is too long for the sockets of loader processes; name"):
        train(make_clip("rn"), Contrastive(streamed), RECIPE, 0, Work(tmp_path, "a run"))


def test_an_error_of_the_queue_itself_ends_the_loader(streamed, make_clip, tmp_path, monkeypatch, limit):
    """Whatever the thread of the queue fails of, in however later a version of torch."""
    monkeypatch.setattr("antidote.data.streaming.Packed", lambda batch: Unsendable())
    with pytest.raises(UserError, match=r"^--workers: a loader process was killed"):
        train(make_clip("rn"), Contrastive(streamed), RECIPE, 0, Work(tmp_path, "a run"))


def test_loaders_that_cannot_start_are_told(streamed, make_clip, tmp_path, monkeypatch, limit):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", raises(full))
    with pytest.raises(UserError, match=r"^--workers: .*/dev/shm is full; allow more of /dev/shm"):
        train(make_clip("rn"), Contrastive(streamed), RECIPE, 0, Work(tmp_path, "a run"))


def test_a_batch_that_cannot_be_taken_is_told(streamed, make_clip, tmp_path, monkeypatch, limit):
    for error, line in (
        (ConnectionRefusedError(), r"^--workers: a loader process was killed"),
        (FileNotFoundError(), r"^--workers: a loader process was killed"),
        (OSError(errno.EMFILE, "Too many open files"), r"^--workers: too many open files"),
    ):
        monkeypatch.setattr(Packed, "unpack", raises(error))
        with pytest.raises(UserError, match=line):
            train(make_clip("rn"), Contrastive(streamed), RECIPE, 0, Work(tmp_path, "a run"))


def test_a_failure_passes_the_thread_that_feeds_a_gpu():
    line = Failed("a line")
    assert torch.utils.data._utils.pin_memory.pin_memory(line) is line
    packed = Packed((torch.arange(3), torch.ones(2, 2)))
    assert [torch.equal(*pair) for pair in zip(packed.unpack(), (torch.arange(3), torch.ones(2, 2)), strict=True)]


# --- a wish to stop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_wait_for_a_batch_heeds_a_wish_to_stop(streamed, make_clip, tmp_path, monkeypatch, limit, number):
    monkeypatch.setattr(images, "load_pictures", once(lambda: time.sleep(1000)))
    threading.Timer(6, os.kill, (os.getpid(), number)).start()
    with pytest.raises(SystemExit) as stopped:
        train(make_clip("rn"), Contrastive(streamed), RECIPE, 0, Work(tmp_path, "a run", 1e9))
    assert stopped.value.code == 128 + number
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 4
    monkeypatch.undo()
    train(make_clip("rn"), Contrastive(streamed), RECIPE, 0, Work(tmp_path, "a run"))


def test_one_of_several_processes_waits_a_little_for_its_batch(monkeypatch):
    """Those that wait for this one in mid-step would break off without saving their state."""
    interrupt = Interrupt()
    assert not interrupt.overdue()
    with interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.overdue()
        monkeypatch.setattr(parallel, "size", lambda: 2)
        assert not interrupt.overdue()
        monkeypatch.setattr(session, "GRACE_SECONDS", 0)
        assert interrupt.overdue()


# --- shared memory ---------------------------------------------------------------------------------------------------


def test_too_little_shared_memory_is_told_before_the_start(monkeypatch, streamed, make_clip, tmp_path):
    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda path: usage_of(path, 64_000_000))
    loaders.check_shared_memory(128, 224, 77, 1, 100)
    loaders.check_shared_memory(128, 224, 77, 0, 100)
    loaders.check_shared_memory(128, 224, 77, 2, 3)
    line = (
        r"^--workers: 2 loader processes hold 5 batches of 128 pictures: 97 MB in shared memory; /dev/shm has 64 MB "
        r"free; allow more of /dev/shm \(docker run --shm-size=1g\), or use fewer --workers; --workers 0 needs none$"
    )
    with pytest.raises(UserError, match=line):
        loaders.check_shared_memory(128, 224, 77, 2, 4_000)
    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda path: usage_of(path, 64_000))
    with pytest.raises(UserError, match=r"^--workers: 2 loader processes hold 5 batches of 8 pictures: 0\.13 MB"):
        train(make_clip("rn"), Contrastive(streamed), RECIPE, 0, Work(tmp_path, "a run"))


def usage_of(path, free):
    assert str(path) == "/dev/shm"
    return type("usage", (), {"free": free})


FILL = """
import sys, time
from pathlib import Path
import pyarrow as pa, torch
from antidote.data.store import shards
from antidote.data.streaming import Ahead, Reading, Rows, Texts, pictures
from antidote.base.errors import UserError
folder = Path(sys.argv[1])
index = shards.open_index(folder, ["key"])
rows = shards.find_rows(folder, index["key"].tolist(), ["shard", "offset", "size", "caption", "label"])
found = pictures(folder, rows, 224, Reading(in_memory=0, workers=2))
tokens = lambda texts: torch.zeros(len(texts), 77, dtype=torch.long)
order = [Rows([(batch + row) % len(found) for row in range(16)]) for batch in range(12)]
try:
    with Ahead(found, Texts(pa.array(rows["caption"].to_pylist())), order, tokens) as ahead:
        for number in range(12):
            kept = next(ahead)
            time.sleep(0.3)
except UserError as error:
    print(error)
"""


def test_shared_memory_that_fills_up_is_told(split):
    """2.4 MB a batch, 4 MB of shared memory."""
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("a small /dev/shm of one's own needs root and leave to unshare")
    mount = f'mount -t tmpfs -o size=4m tmpfs /dev/shm && exec "{sys.executable}" -c "$1" "{split}"'
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "bash", "-c", mount, "bash", FILL],
        capture_output=True, text=True, check=False, timeout=90, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    line = "--workers: loader processes hand over batches in shared memory, and /dev/shm is full; allow more"
    assert done.stdout.startswith(line), done.stdout + done.stderr
