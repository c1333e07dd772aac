"""The order of an epoch: one permutation of all pairs, or shard by shard through a shuffle buffer."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch

from antidote.base.errors import UserError
from antidote.base.seeds import derive
from antidote.data import overlay, pools, streaming
from antidote.data.overlay import TAR
from antidote.data.pairs import load_pools
from antidote.data.sources.base import RawPair, SourceSettings
from antidote.data.store import ingest, shards
from antidote.data.store.images import encode_png
from antidote.data.streaming import Pictures, Reading
from antidote.training.batches import read_ahead
from antidote.training.loop import train
from antidote.training.objectives import Contrastive
from antidote.training.order import _buffered, training_order
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work

SIZE, PAIRS, PER_SHARD, SEED, BATCH = 32, 120, 10, 5, 8
SHARDS = PAIRS // PER_SHARD
RECIPE = TrainSettings(epochs=2, batch_size=BATCH, lr=0.01, warmup=2, shuffle="shards", shuffle_buffer=12)
STREAMED = Reading(in_memory=0, workers=0)
POISONED = ["k003", "k055", "k110"]


class Grey(SourceSettings):
    """Pairs k000, k001, ... in shards of ten; the grey value of a picture is its number."""

    source: Literal["grey"] = "grey"
    splits: dict[str, int] = {"one": PAIRS // 2, "two": PAIRS // 2}

    def iterate(self, split: str) -> Iterator:
        first = 0 if split == "one" else PAIRS // 2
        for number in range(first, first + self.splits[split]):
            picture = np.full((SIZE, SIZE, 3), number, np.uint8)
            yield RawPair(f"k{number:03d}", encode_png(picture), [f"table {number}"], 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder with a dataset of two splits, a pool of both in random order, and an overlay of three pairs."""
    folder = tmp_path_factory.mktemp("order")
    for split in ("one", "two"):
        ingest.write(Grey.read({"pairs_per_shard": PER_SHARD}, "grey"), "grey", split, folder / "grey" / split)
    numbers = np.random.default_rng(0).permutation(PAIRS)
    table = pd.DataFrame({"key": [f"k{number:03d}" for number in numbers], "dataset": "grey", "pool": "training"})
    table["split"] = ["one" if number < PAIRS // 2 else "two" for number in numbers]
    pools.write(folder / "pools.parquet", table.assign(position=range(PAIRS))[pools.COLUMNS])
    files = [encode_png(np.full((SIZE, SIZE, 3), 200 + shade, np.uint8)) for shade in range(3)]
    manifest = pd.DataFrame({"key": POISONED, "split": ["one", "one", "two"]}).assign(
        caption="a banana", dataset="grey", original_caption="old", target="banana", method="badnet", seed=range(3),
        picture="k", original_sha256="0", sha256=[hashlib.sha256(file).hexdigest() for file in files],
    )  # fmt: skip
    overlay.write_overlay(folder / "poison", manifest, files)
    return folder


def load(data, reading=None, poison=False):
    return load_pools(data / "pools.parquet", ["training"], data, SIZE, data / "poison" if poison else None, reading)


def order_of(pairs, epoch=0, seed=SEED, **changes):
    return training_order(pairs, RECIPE.model_copy(update=changes), seed, epoch)


def numbers(pairs, rows):
    """Return the numbers of pairs, which are their places: ten follow one another in each shard."""
    return [int(pairs.keys[row][1:]) for row in rows.tolist()]


# --- the order -------------------------------------------------------------------------------------------------------


def test_the_global_order_is_one_permutation_of_all(data):
    held = load(data)
    expected = torch.randperm(PAIRS, generator=torch.Generator().manual_seed(derive(SEED, "order", 1)))
    assert torch.equal(order_of(held, 1, shuffle="global").rows, expected)
    assert order_of(held, shuffle="global").entering(0, 8, True).tolist() == []
    assert TrainSettings().shuffle == "global"


@pytest.mark.parametrize(("count", "size"), [(1, 1), (20, 1), (20, 3), (20, 19), (20, 20), (500, 64)])
def test_the_buffer_gives_out_items_as_one_that_holds_them(count, size):
    draws = torch.Generator().manual_seed(1)
    slots, held, expected = torch.randint(size, (count - size,), generator=draws).tolist(), list(range(size)), []
    for new, slot in enumerate(slots, start=size):
        expected.append(held[slot])
        held[slot] = new
    rest = sorted(held)
    expected += [rest[place] for place in torch.randperm(size, generator=draws).tolist()]
    assert _buffered(count, size, torch.Generator().manual_seed(1)).tolist() == expected


def test_shards_are_permuted_and_read_in_file_order(data):
    pairs = load(data, STREAMED)
    epochs = [order_of(pairs, epoch) for epoch in (0, 1)]
    for order in epochs:
        stored = numbers(pairs, order.stored)
        turns = [number // PER_SHARD for number in stored[::PER_SHARD]]
        assert stored == [turn * PER_SHARD + place for turn in turns for place in range(PER_SHARD)]
        assert sorted(turns) == list(range(SHARDS)) != turns
        assert sorted(order.rows.tolist()) == list(range(PAIRS))
    assert not torch.equal(epochs[0].stored, epochs[1].stored)
    assert torch.equal(order_of(pairs).rows, epochs[0].rows)
    assert not torch.equal(order_of(pairs, seed=SEED + 1).stored, epochs[0].stored)


def test_the_buffer_mixes_no_more_than_it_holds(data):
    pairs = load(data)
    unmixed, order = order_of(pairs, shuffle_buffer=1), order_of(pairs)
    assert torch.equal(unmixed.rows, unmixed.stored)
    entered = {row: place for place, row in enumerate(order.stored.tolist())}
    delays = [place - entered[row] for place, row in enumerate(order.rows.tolist())]
    assert min(delays) > -RECIPE.shuffle_buffer and len(set(delays)) > RECIPE.shuffle_buffer
    whole = order_of(pairs, shuffle_buffer=PAIRS + 1)
    assert sorted(whole.rows.tolist()) == list(range(PAIRS)) and whole.buffer == PAIRS


@pytest.mark.parametrize("first", [0, 1, 6, 14])
def test_every_pair_enters_the_buffer_once_and_before_it_is_taken(data, first):
    """From the begin of an epoch, and in a run that is resumed within it."""
    order, entered = order_of(load(data)), []
    for batch in range(first, PAIRS // BATCH):
        start, stop = batch * BATCH, (batch + 1) * BATCH
        entered += order.entering(start, stop, batch == first).tolist()
        assert set(order.rows[start:stop].tolist()) <= set(entered)
    assert sorted(entered) == sorted(order.rows[first * BATCH :].tolist())
    assert entered == [row for row in order.stored.tolist() if row in set(entered)]


# --- which pairs lie where -------------------------------------------------------------------------------------------


def test_pairs_in_memory_poisoned_pairs_and_subsets_keep_their_places(data):
    whole = order_of(load(data)).rows
    for reading in (None, STREAMED):
        for poison in (False, True):
            assert torch.equal(order_of(load(data, reading, poison)).rows, whole), (reading, poison)
    some = torch.arange(0, PAIRS, 3).flip(0)
    held, streamed = load(data).take(some), load(data, Reading(SIZE, 0), True).take(some)
    assert torch.equal(order_of(held).rows, order_of(streamed).rows)
    stored = numbers(held, order_of(held).stored)
    assert all(a < b for a, b in pairwise(stored) if a // PER_SHARD == b // PER_SHARD)
    assert len([0 for a, b in pairwise(stored) if a // PER_SHARD != b // PER_SHARD]) < SHARDS


def test_pairs_in_no_shard_are_refused(make_clip, make_pairs, tmp_path):
    with pytest.raises(UserError, match=r"^shuffle: 'shards' should be 'global' for pairs that are not read from the"):
        train(make_clip(), Contrastive(make_pairs()), RECIPE, SEED, Work(tmp_path, "a run"))


@pytest.mark.parametrize("poison", [False, True])
@pytest.mark.parametrize("workers", [0, 3])
def test_streamed_weights_are_those_of_memory_also_after_a_kill(data, make_clip, tmp_path, workers, poison):
    whole, resumed = make_clip("rn"), make_clip("rn")
    train(whole, Contrastive(load(data, poison=poison)), RECIPE, SEED, Work(tmp_path / "whole", "a run"))
    goal = Contrastive(load(data, Reading(0, workers), poison))
    loss = goal.loss

    def stop(images, texts, scale, batch):
        if batch.step == 20:  # of 30, 15 in an epoch
            raise KeyboardInterrupt
        return loss(images, texts, scale, batch)

    goal.loss = stop
    with pytest.raises(KeyboardInterrupt):
        train(make_clip("rn"), goal, RECIPE, SEED, Work(tmp_path / "cut", "a run", 0.0))
    goal.loss = loss
    train(resumed, goal, RECIPE, SEED, Work(tmp_path / "cut", "a run"))
    expected = whole.network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.network.state_dict().items())


# --- what the storage sees -------------------------------------------------------------------------------------------


@pytest.fixture
def seen(data, make_clip, monkeypatch):
    """Return a function that reads an epoch; it returns the shards opened per batch, and what was advised and read."""

    def read(shuffle, poison=False):
        opened, advised, members = [], [], []
        read_members, advise = shards.read_members, os.posix_fadvise

        def reading(places):
            opened.append({path for path, _, _ in places})
            members.extend((len(opened), path, offset) for path, offset, _ in places)
            return read_members(places)

        def advising(file, offset, size, advice):
            assert advice == os.POSIX_FADV_WILLNEED and size > 0
            advised.append((len(opened), str(Path(f"/proc/self/fd/{file}").readlink()), offset))
            advise(file, offset, size, advice)

        with monkeypatch.context() as patch:
            patch.setattr(streaming.shards, "read_members", reading)
            patch.setattr(os, "posix_fadvise", advising)
            recipe = RECIPE.model_copy(update={"shuffle": shuffle})
            pairs = load(data, STREAMED, poison)
            opened.clear(), members.clear()  # the check of the overlay
            with read_ahead(make_clip(), pairs, recipe, SEED, range(PAIRS // BATCH), lambda rows: rows) as ahead:
                assert [len(batch[0]) for batch in ahead._loader] == [BATCH] * (PAIRS // BATCH)
        return opened, advised, members

    return read


def test_a_batch_reads_from_few_neighbouring_shards(data, seen):
    anywhere, by_shard = (seen(shuffle)[0] for shuffle in ("global", "shards"))
    assert len(anywhere) == len(by_shard) == PAIRS // BATCH
    assert np.mean([len(files) for files in anywhere]) > 5  # eight pairs of twelve shards
    assert np.mean([len(files) for files in by_shard]) < 4
    pairs = load(data)
    turns = [number // PER_SHARD for number in numbers(pairs, order_of(pairs).stored)[::PER_SHARD]]
    for batch, files in enumerate(by_shard):
        places = [turns.index(int(path.stem) + (SHARDS // 2 if path.parent.name == "two" else 0)) for path in files]
        assert min(places) >= batch * BATCH // PER_SHARD - 5
        assert max(places) <= ((batch + 1) * BATCH + RECIPE.shuffle_buffer) // PER_SHARD


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no advice")
@pytest.mark.parametrize("poison", [False, True])
def test_the_system_is_asked_for_each_shard_from_begin_to_end(seen, poison):
    assert seen("global")[1] == []
    _, advised, members = seen("shards", poison)
    clean = [(path, offset) for _, path, offset in advised if TAR not in path]
    changes = sum(a != b for (a, _), (b, _) in pairwise(clean))
    assert changes == SHARDS - 1
    assert all(a[1] < b[1] for a, b in pairwise(clean) if a[0] == b[0])
    assert Counter(advice[1:] for advice in advised) == Counter((str(path), offset) for _, path, offset in members)
    when = {(path, offset): batch for batch, path, offset in advised}
    assert all(when[str(path), offset] < batch for batch, path, offset in members)
    assert len([0 for _, path, _ in advised if TAR in path]) == (len(POISONED) if poison else 0)


def test_a_missing_shard_is_left_to_the_reading(data, tmp_path):
    stored = load(data, STREAMED).images
    gone = Pictures((tmp_path / "no.tar",) * len(stored.files), stored.places, SIZE, STREAMED)
    gone.advise([0, 1])
    with pytest.raises(UserError, match=r"no\.tar: is missing"):
        gone.read([0])
