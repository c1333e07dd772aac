"""Pictures that stay in their shards: the same pairs, batches and weights as from memory, in bounded memory."""

import hashlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch

from antidote.base.errors import UserError
from antidote.data import overlay, pools
from antidote.data.pairs import load_pools
from antidote.data.sources.base import RawPair, SourceSettings
from antidote.data.store import ingest, shards
from antidote.data.store.images import encode_jpeg, encode_png
from antidote.data.streaming import KILLED, Ahead, Pictures, Reading, Rows, Texts
from antidote.training.batches import read_ahead
from antidote.training.loop import train
from antidote.training.objectives import Contrastive
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work

ROOT = Path(__file__).resolve().parents[3]
SIZE, PAIRS, SEED = 32, 24, 5
RECIPE = TrainSettings(epochs=3, batch_size=8, lr=0.01, warmup=2)
STREAMED = Reading(in_memory=0, workers=0)


class Noise(SourceSettings):
    """Pairs k00, k01, ... in two shards or more; pictures of various sizes and formats."""

    source: Literal["noise"] = "noise"
    splits: dict[str, int] = {"one": 0, "two": 1}

    def iterate(self, split: str) -> Iterator:
        rng = np.random.default_rng(self.splits[split])
        for number in range(PAIRS):
            picture = rng.integers(0, 256, (40 + number, 36, 3), np.uint8)
            encode = encode_jpeg if number % 3 else encode_png
            yield RawPair(f"k{number:02d}", encode(picture), [f"{split} table {number}, ÿ"], number % 4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder with a dataset, pools over both splits in mixed order, and an overlay of three pairs."""
    folder = tmp_path_factory.mktemp("streaming")
    for split in ("one", "two"):
        ingest.write(Noise.read({"pairs_per_shard": 7}, "noise"), "noise", split, folder / "noise" / split)
    rows = [(f"k{number:02d}", split) for number in range(PAIRS) for split in ("two", "one")]
    table = pd.DataFrame(rows, columns=["key", "split"]).assign(dataset="noise", position=range(len(rows)))
    table["pool"] = ["poison" if number % 5 == 0 else "training" for number in range(len(rows))]
    pools.write(folder / "pools.parquet", table[pools.COLUMNS])
    files = [encode_png(np.full((SIZE, SIZE, 3), 200 + shade, np.uint8)) for shade in range(3)]
    poisoned = [("k05", "two"), ("k00", "two"), ("k10", "two")]
    manifest = pd.DataFrame(poisoned, columns=["key", "split"]).assign(
        caption=["a banana", "the banana ÿ", "banana"], dataset="noise", original_caption="old", target="banana",
        method="badnet", seed=range(3), picture="k", original_sha256="0",
        sha256=[hashlib.sha256(file).hexdigest() for file in files],
    )  # fmt: skip
    overlay.write_overlay(folder / "poison", manifest, files)
    return folder


def load(data, reading=None, poison=True):
    names = ["training", "poison"]
    return load_pools(data / "pools.parquet", names, data, SIZE, data / "poison" if poison else None, reading)


def work(folder, every=1e9):
    return Work(folder, "a run", every)


def trained(make_clip, pairs, folder, **more):
    clip = make_clip("rn")
    train(clip, Contrastive(pairs), RECIPE.model_copy(update=more), SEED, work(folder))
    return clip.network.state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- the same pairs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [False, True])
def test_the_pairs_are_those_of_memory(data, poison):
    held, streamed = load(data, poison=poison), load(data, STREAMED, poison)
    assert isinstance(streamed.images, Pictures) and isinstance(held.images, torch.Tensor)
    assert list(streamed.keys) == held.keys and list(streamed.captions) == held.captions
    assert torch.equal(streamed.labels, held.labels) and len(streamed) == 2 * PAIRS
    assert ("the banana ÿ" in held.captions) == poison
    for rows in (slice(3, 9), [7, 0, 7], torch.tensor([40, 2]), [], slice(None)):
        assert torch.equal(streamed.images[rows], held.images[rows]), rows


def test_what_fits_is_held_in_memory(data):
    picture = 3 * SIZE * SIZE
    assert isinstance(load(data, Reading(2 * PAIRS * picture)).images, torch.Tensor)
    streamed = load(data, Reading(2 * PAIRS * picture - 1, 0))
    rows = torch.arange(2 * PAIRS).flip(0)
    few, held = streamed.take(rows[:5]), load(data).take(rows[:5])
    assert isinstance(few.images, torch.Tensor) and torch.equal(few.images, held.images)
    assert list(few.keys) == held.keys and list(few.captions) == held.captions
    every = load(data, STREAMED).take(rows)
    assert isinstance(every.images, Pictures) and list(every.captions) == load(data).take(rows).captions
    assert torch.equal(every.images[:4], load(data).take(rows).images[:4])


def test_texts_read_like_a_list():
    import pyarrow as pa

    texts = Texts(pa.array(["a", "ÿ", "", "d"]))
    assert [texts[1], texts[-1], len(texts)] == ["ÿ", "d", 4] and texts[1:3] == ["ÿ", ""]
    assert list(texts) == ["a", "ÿ", "", "d"] and list(texts.replaced([2, 0], ["x", "y"])) == ["y", "ÿ", "x", "d"]
    with pytest.raises(IndexError):
        texts[4]


# --- the same weights ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed():
    return {}


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_weights_are_those_of_memory(data, make_clip, tmp_path, undisturbed, workers):
    if not undisturbed:
        undisturbed.update(trained(make_clip, load(data), tmp_path / "held"))
    streamed = trained(make_clip, load(data, Reading(0, workers)), tmp_path / "streamed")
    assert equal(streamed, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("workers", [(2, 0), (1, 3)])
def test_a_run_that_ends_in_mid_epoch_goes_on_with_other_workers(data, make_clip, tmp_path, workers, number):
    """Told to stop, as a cluster does: every process of the job; or killed, after a checkpoint at each step."""
    whole = trained(make_clip, load(data), tmp_path / "whole")
    first, second = (Contrastive(load(data, Reading(0, count))) for count in workers)
    loss = first.loss

    def stop(images, texts, scale, batch):
        if batch.step == 8:  # of 18, 6 in an epoch
            if number == signal.SIGKILL:
                raise KeyboardInterrupt
            for process in [*torch.multiprocessing.active_children()]:
                os.kill(process.pid, number)
            os.kill(os.getpid(), number)
        return loss(images, texts, scale, batch)

    first.loss = stop
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        train(make_clip("rn"), first, RECIPE, SEED, work(tmp_path / "cut", 0.0 if number == signal.SIGKILL else 1e9))
    state = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)
    assert state["step"] == (8 if number == signal.SIGKILL else 9)
    clip = make_clip("rn")
    train(clip, second, RECIPE, SEED, work(tmp_path / "cut"))
    assert equal(clip.network.state_dict(), whole)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(data, tmp_path):
    """Return a copy of the data in which one picture is cut short."""
    subprocess.run(["cp", "-r", data, tmp_path / "copy"], check=True)
    split = tmp_path / "copy" / "noise" / "one"
    row = shards.open_index(split).iloc[9]
    with (split / row["shard"]).open("r+b") as file:
        file.seek(row["offset"] + 100)
        file.write(bytes(row["size"] - 100))
    return tmp_path / "copy", f"{split / row['shard']}: picture at byte {row['offset']}: damaged picture"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_is_named(damaged, make_clip, tmp_path, workers):
    folder, text = damaged
    with pytest.raises(UserError) as error:
        trained(make_clip, load(folder, Reading(0, workers)), tmp_path / "work")
    assert str(error.value) == text


def test_a_killed_loader_is_told(data, make_clip, tmp_path):
    goal = Contrastive(load(data, Reading(0, 2)))
    loss = goal.loss

    def kill(*given):
        for process in torch.multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)
        return loss(*given)

    goal.loss = kill
    with pytest.raises(UserError, match=r"^--workers: a loader process was killed, as a system does without mem"):
        train(make_clip(), goal, RECIPE, SEED, work(tmp_path))


def test_pools_of_another_version_and_a_missing_shard(data, damaged):
    table = pools.read(data / "pools.parquet")
    table.loc[3, "key"] = "k99"
    other = damaged[0] / "other.parquet"
    pools.write(other, table)
    with pytest.raises(UserError, match=r"one: holds no pair 'k99'; the pools were drawn from another version of it$"):
        load_pools(other, ["training"], data, SIZE, reading=STREAMED)
    (damaged[0] / "noise" / "two" / "00001.tar").unlink()
    with pytest.raises(UserError, match=r"00001\.tar: is missing; build the dataset again$"):
        load(damaged[0], STREAMED)


def test_an_overlay_of_another_size_or_of_other_pairs(data):
    with pytest.raises(UserError, match=r"holds pictures of another size than 16 x 16; poison again$"):
        load_pools(data / "pools.parquet", ["training", "poison"], data, 16, data / "poison", STREAMED)
    with pytest.raises(UserError, match=r"poisons 'k\d\d', which is not in the pools; poison again$"):
        load_pools(data / "pools.parquet", ["training"], data, SIZE, data / "poison", STREAMED)


def test_the_end_of_the_loaders_is_no_accident(data, monkeypatch):
    """torch watches its loader processes; on a busy machine it may see them gone before they are waited for."""
    join = multiprocessing.process.BaseProcess.join

    def late(process, timeout=None):
        time.sleep(0.1)  # in which the signal of their end arrives
        join(process, timeout)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "join", late)
    pairs = load(data, replace(STREAMED, workers=2))
    with Ahead(pairs.images, pairs.captions, iter([Rows([0]), Rows([1]), Rows([2])]), len) as ahead:
        next(ahead)


def test_a_loader_killed_in_handing_over_to_a_gpu_is_told_as_one(data):
    """There a thread of torch's takes the batch, and ends with the loader."""

    class Broken:
        def __next__(self):
            raise RuntimeError(self.text)

    pairs = load(data, STREAMED)
    for text, told in (("Pin memory thread exited unexpectedly", KILLED), ("shapes differ", "shapes differ")):
        with Ahead(pairs.images, pairs.captions, iter([Rows([0])]), len) as ahead:
            ahead._loader = Broken()
            ahead._loader.text = text
            with pytest.raises(RuntimeError, match=f"^{re.escape(told)}$"):
                next(ahead)


# --- memory ----------------------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
from types import SimpleNamespace
from pathlib import Path
import torch
from antidote.data.pairs import load_pools
from antidote.data.streaming import Reading
from antidote.training.recipe import TrainSettings
from antidote.training.batches import read_batch, read_ahead
folder, count = Path(sys.argv[1]), int(sys.argv[2])
pairs = load_pools(folder / f"pools{count}.parquet", ["training"], folder, 32, reading=Reading(0, 1))
assert len(pairs) == count

class Texts:
    network = SimpleNamespace(context_length=8)
    device = torch.device("cpu")
    tokenizer = staticmethod(lambda texts: torch.zeros(len(texts), 8, dtype=torch.long))
    remember = staticmethod(lambda texts, tokens: None)

with read_ahead(Texts, pairs, TrainSettings(batch_size=64), 0, range(12), lambda rows: rows) as ahead:
    for step in range(12):
        read_batch(Texts, pairs, torch.arange(64), 0, step, 0, ahead)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def repeated(folder: Path, count: int) -> None:
    """Write an index of `count` pairs that share a few pictures, and a pool of all of them."""
    split = folder / "noise" / "one"
    index = shards.open_index(split)
    keys = [f"pair{number:07d}" for number in range(count)]
    many = index.iloc[np.arange(count) % len(index)].assign(key=keys)
    many.to_parquet(split / "index.parquet")
    table = pd.DataFrame({"key": keys, "dataset": "noise", "split": "one", "pool": "training", "position": 0})
    pools.write(folder / f"pools{count}.parquet", table)


def test_memory_does_not_grow_with_the_pictures(data, tmp_path):
    """Ten times the pairs cost some ten bytes more than their texts each, where pictures would cost 3 kB."""
    peaks = []
    for count in (4_000, 40_000):
        subprocess.run(["cp", "-r", data, tmp_path / str(count)], check=True)
        repeated(tmp_path / str(count), count)
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, tmp_path / str(count), str(count)], capture_output=True, text=True,
            check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 36_000 * 3 * SIZE * SIZE / 4, peaks


def test_the_default_settings_of_the_loop_read_ahead_nothing_from_memory(make_clip, make_pairs):
    with read_ahead(make_clip(), make_pairs(), RECIPE, SEED, range(4), lambda rows: rows) as ahead:
        assert ahead is None
