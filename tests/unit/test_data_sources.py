"""Every source yields the same pairs from the same pictures, and counts what it cannot use."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from antidote.data import images
from antidote.data.sources.base import RawPair, Skipped
from antidote.errors import UserError
from antidote.registry import method


def picture(seed=0, size=12, kind="PNG"):
    array = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def source(kind, **values):
    return method("source", kind).read({"source": kind, **values}, "datasets.mine")


def pairs(settings, split="train"):
    return list(settings.iterate(split))


# --- table -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path):
    rows = {
        "image": [picture(n) for n in range(4)],
        "wrapped": [{"bytes": picture(n), "path": None} for n in range(4)],
        "text": ["a cat", "a  dog\n", None, " "],
        "texts": [["a cat", "one cat"], ["a dog"], [], None],
        "label": [0, 1, 2, 9],
        "name": ["tench", "English springer", "church", "whale"],
        "id": ["a", "b", "c", "d"],
    }
    pd.DataFrame(rows).to_parquet(tmp_path / "part.parquet", row_group_size=2)
    return str(tmp_path / "part.parquet")


def test_table_with_captions(parquet):
    got = pairs(source("table", splits={"train": parquet}, image="image", caption="text", key="id"))
    assert got[:2] == [RawPair("a", picture(0), ["a cat"], None), RawPair("b", picture(1), ["a dog"], None)]
    assert got[2:] == [Skipped("c", "no caption"), Skipped("d", "no caption")]


def test_table_with_lists_of_captions_and_wrapped_images(parquet):
    got = pairs(source("table", splits={"train": parquet}, image="wrapped", caption="texts"))
    assert got[0] == RawPair("part-0000000", picture(0), ["a cat", "one cat"], None)
    assert [item.reason for item in got[2:]] == ["no caption", "no caption"]


def test_table_with_labels_makes_captions(parquet):
    got = pairs(
        source("table", splits={"train": parquet}, image="image", label="label", classes="imagenette", key="id")
    )
    assert [item.captions for item in got] == [[f"a photo of a {name}."] for name in
            ("tench", "English springer", "cassette player", "parachute")]  # fmt: skip
    assert [item.label for item in got] == [0, 1, 2, 9]


def test_table_with_class_names_finds_labels(parquet):
    got = pairs(source("table", splits={"train": parquet}, image="image", class_name="name", classes="imagenette"))
    assert [item.label for item in got[:3]] == [0, 1, 4]
    assert got[3] == Skipped("part-0000003", "class 'whale' is not in classes 'imagenette'")


def test_label_beyond_the_classes_is_skipped(parquet, tmp_path):
    table = pd.read_parquet(parquet).assign(label=[0, -1, 10, 9])
    table.to_parquet(tmp_path / "labels.parquet")
    where = {"train": str(tmp_path / "labels.parquet")}
    got = pairs(source("table", splits=where, image="image", label="label", classes="imagenette"))
    assert [getattr(item, "reason", None) for item in got] == [None, "label out of range", "label out of range", None]


def test_templates_vary_by_key_and_stay(parquet):
    def captions(seed):
        values = {"image": "image", "class_name": "name", "templates": "openai_imagenet", "seed": seed}
        return [item.captions[0] for item in pairs(source("table", splits={"train": parquet}, **values))]

    assert captions(0) == captions(0) != captions(1)
    assert len({caption.replace(name, "") for caption, name in
                zip(captions(0), ["tench", "English springer", "church", "whale"], strict=True)}) > 1  # fmt: skip


@pytest.mark.parametrize("ending,separator", [("csv", ","), ("tsv", "\t")])
def test_csv_with_paths(tmp_path, ending, separator):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(picture(1))
    rows = {
        "file": ["pictures/a.png", "pictures/gone.png", "pictures/a.png"],
        "text": ["NA", "a cat", ""],
        "n": ["1", "x", ""],
    }
    pd.DataFrame(rows).to_csv(tmp_path / f"table.{ending}", sep=separator, index=False)
    where = {"train": str(tmp_path / f"table.{ending}")}
    got = pairs(source("table", splits=where, path="file", caption="text"))
    assert got[0] == RawPair("table-0000000", picture(1), ["NA"], None)
    assert [item.reason for item in got[1:]] == ["picture file cannot be read", "no caption"]
    got = pairs(source("table", splits=where, path="file", caption="text", label="n"))
    assert got[0].label == 1


def test_csv_label_that_is_no_number(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    pd.DataFrame({"file": ["a.png"], "text": ["x"], "n": ["one"]}).to_csv(tmp_path / "t.csv", index=False)
    got = pairs(source("table", splits={"train": str(tmp_path / "t.csv")}, path="file", caption="text", label="n"))
    assert got == [Skipped("t-0000000", "label is not an integer")]


def test_table_with_unknown_column(parquet):
    with pytest.raises(UserError, match=r"^caption: .*part\.parquet has no column 'txt'; did you mean 'text'\?$"):
        pairs(source("table", splits={"train": parquet}, image="image", caption="txt"))


def test_table_in_several_files_is_read_in_order(parquet, tmp_path):
    for number in (2, 1):
        pd.DataFrame({"image": [picture(number)], "text": [f"number {number}"]}).to_parquet(
            tmp_path / f"x-{number}.parquet"
        )
    for pattern in ("x-*.parquet", "x-{1..2}.parquet", "x-{2,1}.parquet"):
        got = pairs(source("table", splits={"train": str(tmp_path / pattern)}, image="image", caption="text"))
        assert [item.captions for item in got] == [["number 1"], ["number 2"]]


def test_damaged_and_missing_tables(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no table")
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00a,b\n1")
    (tmp_path / "bad.xlsx").write_bytes(b"x")
    for name, text in (
        ("bad.parquet", "cannot be read"),
        ("bad.csv", "cannot be read|no column"),
        ("bad.xlsx", "should be"),
        ("gone", "no such"),
    ):
        settings = source("table", splits={"train": str(tmp_path / name)}, image="i", caption="c")
        with pytest.raises(UserError, match=text) as error:
            pairs(settings)
        assert "\n" not in str(error.value)


def test_table_needs_an_image_and_a_caption_column(parquet):
    for values, key in (
        ({"caption": "text"}, "image"),
        ({"image": "image", "path": "file", "caption": "text"}, "image"),
        ({"image": "image", "label": "label"}, "caption"),
    ):
        with pytest.raises(UserError, match=f"^datasets.mine: {key}: name "):
            source("table", splits={"train": parquet}, **values)


def test_changed_file_is_refused(parquet):
    settings = source(
        "table", splits={"train": parquet}, image="image", caption="text", sha256={"part.parquet": "0" * 64}
    )
    with pytest.raises(UserError, match="another SHA-256"):
        pairs(settings)


# --- webdataset ------------------------------------------------------------------------------------------------------


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return str(path)


def test_webdataset_members(tmp_path):
    path = tar(
        tmp_path / "0.tar",
        [
            ("a.jpg", picture(0, kind="JPEG")), ("a.txt", b"a cat"), ("a.json", b'{"caption": "a cat"}'),
            ("a.cls", b"3"),
            ("b.png", picture(1)), ("b.json", json.dumps({"caption": "a dog", "url": None}).encode()),
            ("c.webp", picture(2, kind="WEBP")), ("c.json", b'{"captions": ["one", "two"]}'),
            ("d.png", picture(3)),
            ("e.txt", b"no picture"),
            ("f.png", picture(4)), ("f.txt", b"\xff\xfe"),
            ("g.png", picture(4)), ("g.cls", b"many"), ("g.txt", b"x"),
            ("/h.png", picture(5)), ("/h.txt", b"outside"),
        ],
    )  # fmt: skip
    got = pairs(source("webdataset", splits={"train": path}))
    assert got == [
        RawPair("a", picture(0, kind="JPEG"), ["a cat"], 3),
        RawPair("b", picture(1), ["a dog"], None),
        RawPair("c", picture(2, kind="WEBP"), ["one", "two"], None),
        Skipped("d", "no caption"),
        Skipped("e", "no picture member"),
        Skipped("f", "damaged txt, cls or json member"),
        Skipped("g", "damaged txt, cls or json member"),
        RawPair("/h", picture(5), ["outside"], None),
    ]


def test_webdataset_with_labels_makes_captions(tmp_path):
    path = tar(tmp_path / "0.tar", [("a.png", picture()), ("a.cls", b"8")])
    got = pairs(source("webdataset", splits={"train": path}, classes="imagenette"))
    assert got == [RawPair("a", picture(), ["a photo of a golf ball."], 8)]


def test_truncated_and_empty_shards_are_counted(tmp_path):
    members = [
        (f"{number}.{kind}", data) for number in range(6) for kind, data in (("png", picture(number)), ("txt", b"x"))
    ]
    whole = Path(tar(tmp_path / "whole.tar", members)).read_bytes()
    for length in (len(whole) * 2 // 5, 512 * 3 + 100, 700, 0):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        got = pairs(source("webdataset", splits={"train": str(tmp_path / "{cut,whole}.tar")}))
        kept = [item for item in got if isinstance(item, RawPair)]
        assert Skipped("cut.tar", "truncated or damaged shard") in got, length
        assert kept[-6:] == [RawPair(str(number), picture(number), ["x"], None) for number in range(6)]
        assert all(item.image == picture(int(item.key)) for item in kept)


def test_shard_with_a_damaged_header_is_counted(tmp_path):
    path = Path(tar(tmp_path / "0.tar", [(f"{n}.{kind}", picture(n)) for n in range(3) for kind in ("png", "cls")]))
    damaged = bytearray(path.read_bytes())
    damaged[4 * 1024 : 4 * 1024 + 512] = b"x" * 512
    path.write_bytes(damaged)
    assert pairs(source("webdataset", splits={"train": str(path)}))[-1] == Skipped(
        "0.tar", "truncated or damaged shard"
    )


def test_compressed_and_duplicate_members(tmp_path):
    plain = Path(tar(tmp_path / "0.tar", [("a.png", picture()), ("a.txt", b"x"), ("a.txt", b"y"), ("b.png", b"")]))
    packed = gzip.compress(plain.read_bytes())
    (tmp_path / "1.tar.gz").write_bytes(packed)
    (tmp_path / "2.tar.gz").write_bytes(packed[: len(packed) // 2])
    got = pairs(source("webdataset", splits={"train": str(tmp_path / "1.tar.gz")}))
    damaged = "truncated or damaged shard"
    assert got == [RawPair("a", picture(), ["x"], None), Skipped("b", "no caption"), Skipped("1.tar.gz", damaged)]
    assert Skipped("2.tar.gz", damaged) in pairs(source("webdataset", splits={"train": str(tmp_path / "2.tar.gz")}))


def test_webdataset_never_runs_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        pairs(source("webdataset", splits={"train": "pipe:touch ran"}))
    assert not Path("ran").exists()


# --- folder ----------------------------------------------------------------------------------------------------------


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


# --- torchvision -----------------------------------------------------------------------------------------------------


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


# --- scenes ----------------------------------------------------------------------------------------------------------


def test_scenes_split_is_the_generators_pictures():
    from antidote.data import scenes

    settings = source("scenes", splits={"train": {"pairs": 300, "seed": 5}})
    got = pairs(settings)
    arrays, captions, labels = scenes.generate(5, 0, 300, 32)
    assert len({item.key for item in got}) == 300
    assert all(np.array_equal(item.image, array) for item, array in zip(got, arrays, strict=True))
    assert [item.captions for item in got] == [[caption] for caption in captions]
    assert [item.label for item in got] == labels.tolist()
    assert images.encode_png(got[0].image)
