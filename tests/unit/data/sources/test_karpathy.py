"""Karpathy's splits as a source."""

import json

import pytest
from source_parts import pairs, picture, source

from antidote.base.errors import UserError
from antidote.data.sources.base import RawPair


def karpathy_file(folder, rows):
    (folder / "val2014").mkdir(exist_ok=True)
    (folder / "val2014" / "a.jpg").write_bytes(picture(1, kind="JPEG"))
    (folder / "b.jpg").write_bytes(picture(2, kind="JPEG"))
    (folder / "dataset.json").write_text(json.dumps({"images": rows, "dataset": "coco"}))
    return source("karpathy", file=str(folder / "dataset.json"), root=str(folder),
                  splits={"train": ["train", "restval"], "test": ["test"]})  # fmt: skip


def row(split, filename="a.jpg", raw=("A cat .", "One cat."), **more):
    return {"split": split, "filename": filename, "sentences": [{"raw": text} for text in raw], **more}


def test_karpathys_splits(tmp_path):
    """COCO names a folder beside the file, Flickr30K does not."""
    rows = [row("test", filepath="val2014"), row("restval", "b.jpg"), row("train", "b.jpg", ["Two dogs"])]
    settings = karpathy_file(tmp_path, rows)
    assert pairs(settings, "test") == [
        RawPair("val2014/a.jpg", picture(1, kind="JPEG"), ["A cat .", "One cat."], None)
    ]  # fmt: skip
    assert [pair.captions for pair in pairs(settings)] == [["A cat .", "One cat."], ["Two dogs"]]


def test_karpathy_faults(tmp_path):
    rows = [row("test", "gone.jpg"), row("test", "../out.jpg"), {**row("test", "b.jpg"), "sentences": [{}]},
            row("test", 7), row("test", "b.jpg", [None]), row("test", "b.jpg", ["half \ud83d"])]  # fmt: skip
    no_text = "caption that is no text, or no valid Unicode"
    assert [pair.reason for pair in pairs(karpathy_file(tmp_path, rows), "test")] == [
        "picture file cannot be read", "path leads out of root", "sentences without raw text",
        "file name that is no text", no_text, no_text,
    ]  # fmt: skip
    got = pairs(karpathy_file(tmp_path, [row("test", "b.jpg", [None, "a cat", "half \ud83d"])]), "test")
    assert got[0].captions == ["a cat"]
    with pytest.raises(UserError, match=r"splits\.train: .*dataset\.json has no split 'train'; known: test"):
        pairs(karpathy_file(tmp_path, rows))
    with pytest.raises(UserError, match="should hold `images` with filename, split and sentences, as Karpathy's"):
        pairs(karpathy_file(tmp_path, [{"filename": "a.jpg"}]))
