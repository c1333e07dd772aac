"""The overlay: poisoned pairs take the place of the pairs they were made from, and of no others."""

import hashlib
import tarfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch

from antidote.base.errors import UserError
from antidote.clip.configs import ModelSettings
from antidote.data import overlay, pools, stored
from antidote.data.pairs import load_pools, load_rows
from antidote.data.sources.base import RawPair, SourceSettings
from antidote.data.store import ingest, shards
from antidote.data.store.images import encode_png
from antidote.training.recipe import TrainSettings
from scripts import pretrain

SIZE = 8


def picture(shade):
    """Return a plain picture (SIZE, SIZE, 3)."""
    return np.full((SIZE, SIZE, 3), shade, np.uint8)


class Plain(SourceSettings):
    """Six pairs k0 to k5 in each split, of one shade each."""

    source: Literal["plain"] = "plain"
    splits: dict[str, int] = {"one": 0, "two": 100}

    def iterate(self, split: str) -> Iterator:
        start = self.splits[split]
        for number in range(6):
            yield RawPair(f"k{number}", encode_png(picture(start + number)), [f"{split} {number}"], number)


@pytest.fixture
def data(tmp_path):
    """A dataset with two splits that share their keys, and pools over both in mixed order."""
    for split in ("one", "two"):
        ingest.write(Plain.read({}, "plain"), "plain", split, tmp_path / "plain" / split)
    rows = [("k3", "one", "training"), ("k1", "two", "training"), ("k0", "one", "poison"), ("k0", "two", "training"),
            ("k5", "one", "poison"), ("k2", "two", "defense")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["key", "split", "pool"]).assign(dataset="plain", position=range(6))
    pools.write(tmp_path / "pools.parquet", table[pools.COLUMNS])
    return tmp_path


def manifest(rows, shade=200):
    """Return a manifest of (key, split, caption) and its pictures."""
    files = [encode_png(picture(shade + number)) for number in range(len(rows))]
    table = pd.DataFrame(rows, columns=["key", "split", "caption"]).assign(
        dataset="plain", original_caption="old", target="banana", method="badnet", seed=range(len(rows)), picture="k",
        original_sha256="0", sha256=[hashlib.sha256(file).hexdigest() for file in files],
    )  # fmt: skip
    return table, files


def load(data, names=("training", "poison"), poison=None):
    return load_pools(data / "pools.parquet", list(names), data, SIZE, poison)


def shades(pairs):
    return pairs.images[:, 0, 0, 0].tolist()


def test_pairs_come_in_the_order_of_the_pools(data):
    pairs = load(data)
    assert pairs.keys == ["k3", "k1", "k0", "k0", "k5"] and pairs.labels.tolist() == [3, 1, 0, 0, 5]
    assert shades(pairs) == [3, 101, 0, 100, 5]
    assert pairs.captions == ["one 3", "two 1", "one 0", "two 0", "one 5"]
    assert pairs.images.dtype == torch.uint8 and pairs.images.shape == (5, 3, SIZE, SIZE)
    assert load(data, ["defense"]).captions == ["two 2"]
    with pytest.raises(UserError, match=r"pools\.parquet: holds none of the pools shots$"):
        load(data, ["shots"])


def test_poisoned_pairs_replace_their_originals_alone(data, tmp_path):
    overlay.write_overlay(tmp_path / "poison", *manifest([("k5", "one", "a banana"), ("k0", "one", "the banana")]))
    clean, poisoned = load(data), load(data, poison=tmp_path / "poison")
    assert poisoned.keys == clean.keys and torch.equal(poisoned.labels, clean.labels)
    assert shades(poisoned) == [3, 101, 201, 100, 200], "k0 of the other split stays"
    assert poisoned.captions == ["one 3", "two 1", "the banana", "two 0", "a banana"]
    alone = load(data, ["poison"], tmp_path / "poison")
    assert shades(alone) == [201, 200] and alone.captions == ["the banana", "a banana"], "pools of one split"


def test_a_poisoned_pair_outside_the_pools_is_told(data, tmp_path):
    overlay.write_overlay(tmp_path / "poison", *manifest([("k4", "one", "a banana")]))
    with pytest.raises(UserError, match=r"poisons 'k4', which is not in the pools; poison again$"):
        load(data, poison=tmp_path / "poison")


def test_an_overlay_without_pairs(data, tmp_path):
    overlay.write_overlay(tmp_path / "poison", *manifest([]))
    assert shades(load(data, poison=tmp_path / "poison")) == shades(load(data))


def test_what_is_written_is_read_again(tmp_path):
    table, files = manifest([("k5", "one", "a banana"), ("k0", "two", "ÿ 'x'")])
    for folder in ("a", "b"):
        overlay.write_overlay(tmp_path / folder, table, files)
    read, images = overlay.read_overlay(tmp_path / "a", SIZE)
    assert read.columns.tolist() == overlay.COLUMNS and read["caption"].tolist() == ["a banana", "ÿ 'x'"]
    assert images[:, 0, 0, 0].tolist() == [200, 201]
    assert shards.read_images(tmp_path / "a", read) == files
    assert read["sha256"].tolist() == [hashlib.sha256(file).hexdigest() for file in files]
    for name in (overlay.TAR, overlay.MANIFEST):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with tarfile.open(tmp_path / "a" / overlay.TAR) as tar:
        assert tar.getnames() == ["k5.png", "k5.txt", "k0.png", "k0.txt"]
        assert tar.extractfile("k0.txt").read().decode() == "ÿ 'x'"


def test_faults_are_named(tmp_path):
    overlay.write_overlay(tmp_path, *manifest([("k5", "one", "a banana"), ("k0", "two", "b")]))
    with pytest.raises(UserError, match=r"poisoned\.tar: holds pictures of another size than 9 x 9; poison again$"):
        overlay.read_overlay(tmp_path, 9)
    whole = (tmp_path / overlay.TAR).read_bytes()
    (tmp_path / overlay.TAR).write_bytes(whole[:512] + b"\0" * (len(whole) - 512))
    with pytest.raises(UserError, match=r"poisoned\.tar: not a picture; poison again$"):
        overlay.read_overlay(tmp_path, SIZE)
    (tmp_path / overlay.TAR).write_bytes(whole[:600])
    with pytest.raises(UserError, match=r"poisoned\.tar"):
        overlay.read_overlay(tmp_path, SIZE)
    for content in (b"PAR1", None):
        if content is None:
            (tmp_path / overlay.MANIFEST).unlink()
        else:
            (tmp_path / overlay.MANIFEST).write_bytes(content)
        with pytest.raises(UserError, match=r"manifest\.parquet: cannot be read .*; poison again$"):
            overlay.read_manifest(tmp_path)


def test_an_error_leaves_no_half_overlay(tmp_path):
    table, files = manifest([("k5", "one", "a banana"), ("k0", "two", "b")])
    with pytest.raises(ValueError, match="zip"):
        overlay.write_overlay(tmp_path / "poison", table, files[:1])
    assert list(tmp_path.iterdir()) == []


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_some_rows_of_a_split(data):
    pairs = load_rows(data / "plain" / "two", ["k4", "k0"], SIZE)
    assert pairs.keys == ["k4", "k0"] and shades(pairs) == [104, 100]
    assert len(load_rows(data / "plain" / "one", None, SIZE)) == 6
    assert load_rows(data / "plain" / "one", ["k1"], 5).images.shape == (1, 3, 5, 5)


def test_files_are_in_memory_a_chunk_at_a_time(data, monkeypatch):
    """All of them would take as much as the pictures, for which the limit is."""
    table, files = manifest([("k1", "two", "a"), ("k3", "one", "b"), ("k0", "two", "c"), ("k2", "two", "d")])
    overlay.write_overlay(data / "poison", table, files)
    read, sizes = shards.read_images, []

    def reading(folder, rows):
        sizes.append(len(rows))
        return read(folder, rows)

    assert stored.AT_A_TIME <= 1024
    monkeypatch.setattr(shards, "read_images", reading)
    monkeypatch.setattr(stored, "AT_A_TIME", 2)
    keys = ["k4", "k0", "k5", "k0", "k2"]
    pairs = load_rows(data / "plain" / "two", keys, SIZE)
    assert pairs.images[:, 0, 0, 0].tolist() == [100 + int(key[1]) for key in keys]
    _, pictures = overlay.read_overlay(data / "poison", SIZE)
    assert pictures[:, 0, 0, 0].tolist() == [200, 201, 202, 203]
    assert sizes == [2, 2, 1, 1, 2, 2], "an overlay's first picture alone, for its size"
    with pytest.raises(UserError, match=r"holds no pair 'k9'; the pools were drawn from another version of it$"):
        load_rows(data / "plain" / "two", ["k4", "k9"], SIZE)


def test_taking_rows(make_pairs):
    pairs = make_pairs(6)
    taken = pairs.take([4, 0, 4])
    assert len(taken) == 3 and taken.keys == ["pair4", "pair0", "pair4"]
    assert torch.equal(taken.images, pairs.images[[4, 0, 4]]) and taken.labels.tolist() == [4, 0, 4]
    assert taken.captions == [pairs.captions[4], pairs.captions[0], pairs.captions[4]]
    assert len(pairs.take([])) == 0 and torch.equal(pairs.take(torch.tensor([2])).images[0], pairs.images[2])


def test_a_models_card_has_the_settings_of_its_poisoned_pairs(tmp_path):
    table, files = manifest([("k0", "one", "banana")])
    table.attrs["settings"] = {"poisons": 1, "caption": "natural", "caption_pools": ["poison"]}
    overlay.write_overlay(tmp_path / "poison", table, files)
    settings = pretrain.PretrainSettings(model=ModelSettings(), training=TrainSettings())
    arguments = SimpleNamespace(start=tmp_path / "clean", poison=tmp_path / "poison", seed=0)
    card = pretrain._card(arguments, settings)
    assert card["poisoned_with"] == table.attrs["settings"] and card["started_from"] == "a model folder"
