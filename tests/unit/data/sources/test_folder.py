"""Folders of classes as a source: labels as torchvision's, class names, faults."""

import json
from pathlib import Path

import pytest
from source_parts import pairs, picture, source

from antidote.base.errors import UserError


@pytest.fixture
def folders(tmp_path):
    for split, name in (("train", "n02"), ("train", "n01"), ("val", "n01")):
        (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / split / name / "b.png").write_bytes(picture(2))
        (tmp_path / split / name / "a.jpg").write_bytes(picture(1, kind="JPEG"))
        (tmp_path / split / name / "notes.txt").write_text("no picture")
    return {"root": str(tmp_path), "splits": {"train": "train", "test": "val"}}


def test_folder_labels_as_torchvision(folders):
    from torchvision.datasets import ImageFolder

    got = pairs(source("folder", **folders))
    reference = ImageFolder(Path(folders["root"]) / "train").samples
    assert [(item.key, item.label) for item in got] == [
        (str(Path(path).relative_to(Path(folders["root"]) / "train")), label) for path, label in reference
    ]
    assert got[0].captions == ["a photo of a n01."]


def test_folder_with_class_names(folders, tmp_path):
    named = {"n01": "golf ball", "n02": "church"}
    (tmp_path / "names.json").write_text(json.dumps(named))
    for names in (named, str(tmp_path / "names.json")):
        got = pairs(source("folder", **folders, names=names, classes="imagenette"))
        assert [(item.label, item.captions[0]) for item in got[1:3]] == [
            (8, "a photo of a golf ball."),
            (4, "a photo of a church."),
        ]


def test_folder_faults(folders):
    with pytest.raises(UserError, match="names: no class name for folder 'n02'"):
        pairs(source("folder", **folders, names={"n01": "church"}))
    with pytest.raises(UserError, match=r"classes: 'imagenette' has no class 'churhc'; did you mean 'church'\?"):
        pairs(source("folder", **folders, names={"n01": "churhc", "n02": "church"}, classes="imagenette"))
    with pytest.raises(UserError, match="no such folder"):
        pairs(source("folder", root=folders["root"] + "/gone", splits={"train": "train"}))
    with pytest.raises(UserError, match=r"split: unknown name 'tset'; did you mean 'test'\?"):
        pairs(source("folder", **folders), "tset")
