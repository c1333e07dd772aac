"""Shards: the same settings give the same bytes, every picture is found by its offset, faults are named."""

import io
import json
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.data.sources.base import RawPair, Skipped, SourceSettings
from antidote.data.store import ingest, shards
from antidote.data.store.intake import image_file
from antidote.data.store.keys import safe_key

ITEMS: dict[str, list] = {}


class Given(SourceSettings):
    """A source that yields what a test puts in ITEMS."""

    source: Literal["given"] = "given"
    splits: dict[str, str] = {"train": "train"}

    def iterate(self, split: str) -> Iterator:
        yield from ITEMS[split]


def encode(size=(12, 12), kind="PNG", seed=0, mode="RGB"):
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).convert(mode).save(stream, kind)
    return stream.getvalue()


def pair(key, seed=0, label=None, **options):
    return RawPair(key, encode(seed=seed, **options), [f"caption {seed}", f"other {seed}"], label)


def build(tmp_path, items, **settings):
    ITEMS["train"] = items
    return ingest.write(
        Given.read(settings, "given"), "mine", "train", tmp_path / "mine" / "train"
    ), tmp_path / "mine" / "train"


def test_same_settings_same_bytes(tmp_path):
    settings = method("source", "scenes").read(
        {"splits": {"train": {"pairs": 50, "seed": 1}}, "pairs_per_shard": 20}, "x"
    )
    for folder in ("one", "two"):
        ingest.write(settings, "scenes", "train", tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["00000.tar", "00001.tar", "00002.tar", "index.parquet", "manifest.json"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_webdataset_reads_what_is_written(tmp_path):
    import webdataset

    items = [pair("a", 1, label=4), pair("b", 2, kind="JPEG"), pair("c", 3, kind="WEBP", label=0)]
    _, folder = build(tmp_path, items)
    got = list(webdataset.WebDataset(str(folder / "00000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in got] == ["a", "b", "c"]
    assert [sample[kind] for sample, kind in zip(got, ("png", "jpg", "webp"), strict=True)] == [i.image for i in items]
    assert [sample.get("cls") for sample in got] == [b"4", None, b"0"]
    assert got[0]["txt"] == b"caption 1" and json.loads(got[0]["json"]) == {"captions": ["caption 1", "other 1"]}


def test_pictures_are_found_by_their_offset(tmp_path):
    items = [pair(f"k{number}", number, size=(5 + number, 30)) for number in range(25)]
    manifest, folder = build(tmp_path, items, pairs_per_shard=10)
    index = shards.open_index(folder)
    assert [shard["pairs"] for shard in manifest["shards"]] == [10, 10, 5]
    assert index["key"].tolist() == [item.key for item in items] and index["label"].tolist() == [-1] * 25
    assert list(index["captions"][3]) == ["caption 3", "other 3"] and index["caption"][3] == "caption 3"
    rows = [24, 0, 13, 9, 10, 0]
    assert shards.read_images(folder, index.iloc[rows]) == [items[row].image for row in rows]
    assert shards.read_images(folder, index.iloc[:0]) == []


def test_manifest_tells_what_was_kept_and_skipped(tmp_path):
    items = [pair("a", 1, label=1), pair("b", 2, label=1), pair("c", 3, label=0)]
    items += [Skipped("d", "no caption"), RawPair("e", b"junk", ["x"], None), RawPair("f", encode(), [], None)]
    manifest, folder = build(tmp_path, items, accepted_skip_share=0.5, terms="free")
    assert manifest == json.loads((folder / "manifest.json").read_text())
    assert (manifest["offered"], manifest["pairs"]) == (6, 3)
    assert manifest["skipped"] == {"no caption": 2, "not a picture": 1}
    assert manifest["examples"][1] == {"key": "e", "reason": "not a picture"}
    assert manifest["labels"] == {"0": 1, "1": 2}
    assert manifest["definition"]["terms"] == "free"


def test_too_many_skipped_pairs(tmp_path):
    items = [pair(str(number)) for number in range(98)] + [
        Skipped("d", "no caption"),
        RawPair("e", b"junk", ["x"], None),
    ]
    with pytest.raises(UserError) as error:
        build(tmp_path, items)
    assert str(error.value) == (
        "mine/train: 2 of 100 pairs cannot be used (1 x no caption, 1 x not a picture; such as d, e);"
        " accepted_skip_share is 0.01"
    )
    assert not list(tmp_path.rglob("*.tar")) and not list(tmp_path.rglob("*.tmp"))
    build(tmp_path, items, accepted_skip_share=0.02)


@pytest.mark.parametrize("items", [[], [Skipped("a", "no caption")]])
def test_no_usable_pair(tmp_path, items):
    with pytest.raises(UserError, match="mine/train: holds no usable pair"):
        build(tmp_path, items, accepted_skip_share=1)


def test_another_number_than_expected(tmp_path):
    with pytest.raises(UserError, match="mine/train: offers 1 pairs, expected 2"):
        build(tmp_path, [pair("a")], expected={"train": 2})
    build(tmp_path, [pair("a")], expected={"train": 1, "test": 7})


def test_keys_are_safe_and_unique(tmp_path):
    keys = [
        "a/b.jpg",
        "a_b",
        "../../etc/passwd",
        "/abs",
        "__meta__",
        "x.y.png",
        "é",
        "n" * 300,
        "n" * 301,
        "a b",
        "a_b",
    ]
    manifest, folder = build(tmp_path, [pair(key, n) for n, key in enumerate(keys)], accepted_skip_share=0.2)
    assert manifest["skipped"] == {"duplicate key": 1} and manifest["examples"][0]["key"] == "a_b"
    index = shards.open_index(folder)
    assert index["key"].is_unique and index["key"].str.fullmatch(r"[A-Za-z0-9_-]{1,90}").all()
    assert index["key"][0] == "a_b" and index["key"][1].startswith("a_b-")
    assert len(shards.read_images(folder, index)) == 10

    import webdataset

    assert len(list(webdataset.WebDataset(str(folder / "00000.tar"), shardshuffle=False))) == 10


def test_the_same_key_twice_is_a_duplicate(tmp_path):
    manifest, _ = build(tmp_path, [pair("a"), pair("a", 1), pair("b", 2)], accepted_skip_share=0.5)
    assert manifest["skipped"] == {"duplicate key": 1} and manifest["pairs"] == 2


def test_safe_key_keeps_safe_keys():
    assert safe_key("train-0000001") == "train-0000001"
    assert safe_key("1000268201_693b08cb0e.jpg") == "1000268201_693b08cb0e"
    assert safe_key("...") == "pair"


def test_files_stay_untouched_unless_they_shrink():
    for kind, extension in (("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")):
        data = encode((40, 30), kind)
        assert image_file(data, None) == (data, extension)
        assert image_file(data, 30) == (data, extension)
        assert image_file(data, 50) == (data, extension), "nothing is enlarged"
    smaller, extension = image_file(encode((40, 30), "JPEG"), 15)
    assert Image.open(io.BytesIO(smaller)).size == (20, 15) and extension == "jpg"
    smaller, extension = image_file(encode((40, 80), "PNG", mode="P"), 20)
    assert Image.open(io.BytesIO(smaller)).size == (20, 40) and extension == "png"
    converted, extension = image_file(encode((40, 30), "GIF", mode="P"), None)
    assert Image.open(io.BytesIO(converted)).mode == "RGB" and extension == "png"


def test_missing_and_truncated_shards_are_named(tmp_path):
    _, folder = build(tmp_path, [pair(str(number), number) for number in range(4)], pairs_per_shard=2)
    index, shard = shards.open_index(folder), folder / "00001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:600])
    for act in (
        lambda: shards.open_index(folder),
        lambda: shards.read_images(folder, index),
        lambda: shards.verify(folder),
    ):
        with pytest.raises(UserError, match=r"00001\.tar: .*; build the dataset again$"):
            act()
    assert shards.read_images(folder, index.iloc[:2])
    shard.unlink()
    for act in (
        lambda: shards.open_index(folder),
        lambda: shards.read_images(folder, index),
        lambda: shards.verify(folder),
    ):
        with pytest.raises(UserError, match=r"00001\.tar: is missing; build the dataset again$"):
            act()


def test_verify_finds_one_changed_bit(tmp_path):
    _, folder = build(tmp_path, [pair("a")])
    shards.verify(folder)
    for name in ("00000.tar", "index.parquet"):
        data = bytearray((folder / name).read_bytes())
        data[300] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name}: differs from its hash"):
            shards.verify(folder)
        data[300] ^= 1
        (folder / name).write_bytes(data)


def test_folder_without_manifest(tmp_path):
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        shards.open_index(tmp_path / "nowhere")


def test_damaged_index(tmp_path):
    _, folder = build(tmp_path, [pair("a")])
    (folder / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"index\.parquet: cannot be read"):
        shards.open_index(folder)


def test_rebuilding_leaves_no_stale_shard(tmp_path):
    items = [pair(str(number), number) for number in range(4)]
    build(tmp_path, items, pairs_per_shard=1)
    _, folder = build(tmp_path, items[:2], pairs_per_shard=1)
    assert sorted(path.name for path in folder.glob("*.tar")) == ["00000.tar", "00001.tar"]
    shards.verify(folder)


def test_a_failed_build_leaves_the_old_split(tmp_path):
    _, folder = build(tmp_path, [pair("a")])
    with pytest.raises(UserError):
        build(tmp_path, [])
    shards.verify(folder)
    assert len(shards.open_index(folder, ["key"])) == 1
