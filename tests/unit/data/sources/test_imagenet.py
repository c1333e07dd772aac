"""ImageNet and its variants: labels follow the WordNet ids of the class folders, or the archives."""

import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import pytest
import timm
import torch
from source_parts import pairs, picture
from torchvision.datasets import imagenet

from antidote.base.errors import UserError
from antidote.data.store.datasets import dataset_settings
from antidote.data.words.names import class_names, folder_names


def tree(root, folders, count=1):
    """Write a tree of class folders, `count` pictures each."""
    for number, name in enumerate(folders):
        (root / name).mkdir(parents=True)
        for one in range(count):
            (root / name / f"{one}.png").write_bytes(picture(number % 7))
    return root


def test_the_lists_of_class_folders_are_timms():
    info = Path(timm.__file__).parent / "data/_info"
    for name in ("imagenet", "imagenet_a", "imagenet_r"):
        assert folder_names(name) == (info / f"{name}_synsets.txt").read_text().split()
    ids = folder_names("imagenet")
    assert ids == sorted(ids) and len(ids) == 1000
    names = class_names("openai_imagenet")
    assert [names[ids.index(wnid)] for wnid in ("n01440764", "n07753592", "n15075141")] == [
        "tench", "banana", "toilet paper"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "split", "shown"),
    [
        ("imagenet_folders", "val", "imagenet"), ("imagenet_sketch", "test", "imagenet"),
        ("imagenet_a", "test", "imagenet_a"), ("imagenet_r", "test", "imagenet_r"),
    ],
)  # fmt: skip
def test_labels_follow_the_wordnet_ids(tmp_path, dataset, split, shown):
    settings = dataset_settings(dataset, {dataset: {"root": str(tmp_path), "expected": None}})
    tree(tmp_path / settings.split(split), folder_names(shown))
    (tmp_path / settings.split(split) / "README.txt").write_text("as the archives have it")
    got, ids = pairs(settings, split), folder_names("imagenet")
    assert [ids[pair.label] for pair in got] == folder_names(shown)
    names = class_names("openai_imagenet")
    assert all(names[pair.label] in pair.captions[0] for pair in got)


def test_folders_of_imagenet_v2_are_numbers(tmp_path):
    """Sorted as text, 10 comes before 2."""
    settings = dataset_settings("imagenet_v2", {"imagenet_v2": {"root": str(tmp_path), "expected": None}})
    tree(tmp_path / settings.split("threshold"), map(str, range(1000)))
    assert [pair.label for pair in pairs(settings, "threshold")] == sorted(range(1000), key=str)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda root: (root / "n01443537").rename(root / "n0144"), "the folder 'n0144' is none of the 1000 of 'imagenet'"),
        (lambda root: shutil.rmtree(root / "n01440764"), r"misses 1 of 1000 class folders \(n01440764\)"),
        (lambda root: [shutil.rmtree(path) for path in sorted(root.iterdir())[5:]],
         r"misses 995 of 1000 class folders \(n01496331, n01498041, n01514668, \.\.\.\)"),
    ],
)  # fmt: skip
def test_missing_and_foreign_class_folders(tmp_path, change, text):
    root = tree(tmp_path / "val", folder_names("imagenet"), count=0)
    change(root)
    with pytest.raises(UserError, match=f"^{root}: {text}$"):
        pairs(dataset_settings("imagenet_folders", {"imagenet_folders": {"root": str(tmp_path)}}), "val")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"folders": "imagenett", "classes": "openai_imagenet"}, "folders: unknown name 'imagenett'; did you mean 'imag"),
        ({"folders": "imagenet"}, "folders: needs `classes`, which name the labels, and no `names`"),
        ({"only": "imagenet_a", "classes": "openai_imagenet"}, "only: says which of `folders` there are, and folders is"),
        ({"folders": "imagenet", "classes": "imagenette"}, "'imagenet' lists 1000 folders, classes 'imagenette' 10"),
    ],
)  # fmt: skip
def test_wrong_lists_of_class_folders(tmp_path, settings, text):
    tree(tmp_path / "val", ["n01440764"])
    values = {"source": "folder", "root": str(tmp_path), "splits": {"val": "val"}, **settings}
    with pytest.raises(UserError) as error:
        pairs(dataset_settings("mine", {"mine": values}), "val")
    assert text in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """The validation archive in small, a picture per class, and what torchvision makes of the devkit."""
    ids = folder_names("imagenet")
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as tar:
        for number in range(1000):
            data = picture(number % 7, kind="JPEG")
            member = tarfile.TarInfo(f"ILSVRC2012_val_{number + 1:08d}.JPEG")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    meta = {wnid: (f"name of {wnid}", "another") for wnid in ids}, ids[::-1]  # picture 1 shows the last class
    torch.save(meta, tmp_path / "meta.bin")
    digest = hashlib.md5((tmp_path / "ILSVRC2012_img_val.tar").read_bytes()).hexdigest()
    monkeypatch.setitem(imagenet.ARCHIVE_META, "val", ("ILSVRC2012_img_val.tar", digest))
    return tmp_path


def test_imagenet_from_its_archives(archives):
    got = pairs(dataset_settings("imagenet", {"imagenet": {"root": str(archives)}}), "val")
    assert [pair.label for pair in got] == list(range(1000))
    assert got[0].image == picture(999 % 7, kind="JPEG"), "the file as it is"
    assert class_names("openai_imagenet")[0] in got[0].captions[0]


def test_missing_archives_are_named(archives):
    settings = dataset_settings("imagenet", {"imagenet": {"root": str(archives)}})
    (archives / "ILSVRC2012_img_val.tar").write_bytes(b"cut short")
    with pytest.raises(
        UserError, match=r"splits\.val: ImageNet: The archive ILSVRC2012_img_val\.tar is not present in"
    ):
        pairs(settings, "val")
    (archives / "meta.bin").unlink()
    with pytest.raises(
        UserError, match=r"splits\.val: ImageNet: (The archive ILSVRC2012_devkit_t12|torchvision needs)"
    ):
        pairs(settings, "val")
