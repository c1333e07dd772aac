"""Tiny-ImageNet-200: its lists against ImageNet's, and the archive's layout as docs/data.md changes it."""

import re
import subprocess
from pathlib import Path

import pytest

from antidote.base.errors import UserError
from antidote.data.store.datasets import given_settings
from antidote.data.words.names import class_names, folder_names, one_gap

ROOT = Path(__file__).parents[4]


def test_the_classes_are_those_of_imagenet():
    """200 of its folders, in their order; the class names are those that open_clip has for them."""
    folders, names = folder_names("tiny_imagenet"), class_names("tiny_imagenet")
    of_imagenet = dict(zip(folder_names("imagenet"), class_names("openai_imagenet"), strict=True))
    assert len(folders) == len(names) == 200 and folders == sorted(folders)
    assert names == [of_imagenet[folder] for folder in folders]
    assert "banana" in names


def archive(root):
    """Write two training and two validation pictures of each class as the archive holds them."""
    lines = []
    (root / "val/images").mkdir(parents=True)
    for number, folder in enumerate(folder_names("tiny_imagenet")):
        (root / "train" / folder / "images").mkdir(parents=True)
        (root / "train" / folder / f"{folder}_boxes.txt").write_text("box\n")
        for picture in range(2):
            (root / "train" / folder / "images" / f"{folder}_{picture}.JPEG").write_bytes(b"")
            name = f"val_{(number * 7 + picture * 200) % 400}_{picture}.JPEG"
            (root / "val/images" / name).write_bytes(b"")
            lines.append(f"{name}\t{folder}\t0\t32\t44\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))


def test_the_documented_commands_make_class_folders(tmp_path):
    """All but the lines that download, check and unpack."""
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    commands = re.search(r"^while read .*?(?=^```)", text, re.DOTALL | re.MULTILINE)[0]
    archive(tmp_path)
    subprocess.run(["bash", "-euc", commands], cwd=tmp_path / "val", check=True)
    source = given_settings("tiny_imagenet", {"root": str(tmp_path), "expected": {"train": 400, "val": 400}})
    for split in ("train", "val"):
        assert source.absent(split) == []
        pairs = list(source.iterate(split))
        assert sorted(pair.label for pair in pairs) == sorted([*range(200)] * 2)
        names = class_names("tiny_imagenet")
        assert all(names[pair.label] in pair.captions[0] for pair in pairs)
        for pair in pairs if split == "train" else ():
            assert folder_names("tiny_imagenet")[pair.label] in pair.key
    assert len({pair.captions[0].replace(names[pair.label], "") for pair in pairs}) > 20, "captions of few templates"
    assert not any(one_gap(pair.captions[0]) for pair in pairs)


def test_missing_pictures_are_told_before_any_is_read(tmp_path):
    archive(tmp_path)
    source = given_settings("tiny_imagenet", {"root": str(tmp_path)})
    told = "train: holds 400 pictures, expected 100000; if 400 are all, set expected: {train: 400}"
    assert source.absent("train")[0].endswith(told)
    with pytest.raises(UserError, match=re.escape(told)):
        next(source.iterate("train"))


def test_the_small_pictures_differ_in_nothing_but_their_size():
    large, small = (given_settings(name, {}).model_dump() for name in ("tiny_imagenet", "tiny_imagenet_32"))
    assert small == {**large, "image_size": 32} and large["image_size"] is None
