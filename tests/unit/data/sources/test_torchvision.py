"""Torchvision's datasets as a source."""

import numpy as np
import pytest
from source_parts import pairs, picture, source

from antidote.base.errors import UserError
from antidote.data.sources.base import RawPair


def test_torchvision_pictures_and_labels(tmp_path):
    values = {"dataset": "FakeData", "root": str(tmp_path), "classes": "imagenette"}
    splits = {"train": {"size": 5, "image_size": [3, 16, 16]}, "wrong": {"image_sise": 5}, "size": {"size": "many"}}
    settings = source("torchvision", **values, splits=splits)
    got = pairs(settings)
    assert len(got) == 5 and got[0].key == "train-0000000"
    assert got[0].image.shape == (16, 16, 3) and got[0].image.dtype == np.uint8
    assert got[0].captions == [f"a photo of a {settings.class_list[got[0].label]}."]
    with pytest.raises(UserError, match=r"FakeData has no argument 'image_sise'; did you mean 'image_size'\?"):
        pairs(settings, "wrong")


def test_torchvision_keeps_image_files_as_they_are(tmp_path):
    folder = tmp_path / "imagenette2-160" / "val" / "n01440764"
    folder.mkdir(parents=True)
    (folder / "x.jpeg").write_bytes(picture(0, kind="JPEG"))
    values = {"dataset": "Imagenette", "root": str(tmp_path), "download": False}
    got = pairs(source("torchvision", **values, splits={"train": {"split": "val", "size": "160px"}}))
    assert got == [RawPair("train-0000000", picture(0, kind="JPEG"), ["a photo of a tench."], 0)]


def test_torchvision_faults(tmp_path):
    with pytest.raises(UserError, match=r"torchvision has no 'CIFAR11'; did you mean 'CIFAR10"):
        pairs(source("torchvision", dataset="CIFAR11", splits={"train": {}}))
    settings = source("torchvision", dataset="CIFAR10", root=str(tmp_path), download=False, splits={"train": {}})
    with pytest.raises(UserError, match="CIFAR10: Dataset not found or corrupted"):
        pairs(settings)
