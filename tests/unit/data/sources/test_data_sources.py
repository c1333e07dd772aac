"""Every source yields the same pairs from the same pictures, and counts what it cannot use."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from torchvision.datasets import imagenet

from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.data.sources.base import Damaged, RawPair, Skipped
from antidote.data.store import images
from antidote.data.store.datasets import dataset_settings
from antidote.data.words.names import class_names, folder_names


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


def test_tsv_takes_a_quotation_mark_for_text(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    rows = ["a cat", '"quoted start of a dog', "a horse", 'end of quote" here']
    (tmp_path / "t.tsv").write_text("file\ttext\n" + "".join(f"a.png\t{text}\n" for text in rows))
    got = pairs(source("table", splits={"train": str(tmp_path / "t.tsv")}, path="file", caption="text"))
    assert [pair.captions for pair in got] == [[text] for text in rows]


def test_csv_rows_that_a_quotation_mark_joins_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    where = {"train": str(tmp_path / "t.csv")}
    settings = source("table", splits=where, path="file", caption="text")
    (tmp_path / "t.csv").write_text('file,text\na.png,one\na.png,"two\na.png,three\na.png,four" or five\na.png,six\n')
    with pytest.raises(
        UserError, match=r"t\.csv: row 1: a quotation mark at the start of its 'text' joins it with the"
    ):
        pairs(settings)
    (tmp_path / "t.csv").write_text('file,text\na.png,"one, two\nand, three"\na.png,"say ""hello"""\n')
    assert [pair.captions for pair in pairs(settings)] == [["one, two and, three"], ['say "hello"']]


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path):
    rows = {"image": [picture()], "text": ["\ufeffa cat"]}
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    got = pairs(source("table", splits={"train": str(tmp_path / "t.parquet")}, image="image", caption="text"))
    assert got[0].captions == ["a cat"]


@pytest.mark.parametrize("value", [None, "", "nan", float("nan")])
def test_what_a_table_does_not_say_is_none(tmp_path, value):
    (tmp_path / "a.png").write_bytes(picture())
    rows = pd.DataFrame({"file": ["a.png"], "text": ["x"], "n": [value], "id": [value]})
    rows.to_csv(tmp_path / "t.csv", index=False)
    rows.astype({"n": object, "id": object}).to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        common = {"splits": {"train": str(tmp_path / name)}, "path": "file", "caption": "text"}
        assert pairs(source("table", label="n", **common))[0].label is None
        assert pairs(source("table", key="id", **common)) == [Skipped("t-0000000", "no key")]


@pytest.mark.parametrize("folder", ["data [final]", "a*b", "plain", "[1]", "x[!y]"])
def test_a_folder_whose_name_looks_like_a_pattern(tmp_path, folder):
    (tmp_path / folder).mkdir()
    for number in (1, 2):
        table = pd.DataFrame({"image": [picture(number)], "text": [f"number {number}"]})
        table.to_parquet(tmp_path / folder / f"x-{number}.parquet")
    for pattern in ("x-*.parquet", "x-[12].parquet", "x-{1,2}.parquet"):
        settings = source("table", splits={"train": str(tmp_path / folder / pattern)}, image="image", caption="text")
        assert len(pairs(settings)) == 2 == len(settings.present("train")) and not settings.absent("train")
    (tmp_path / folder / "x-[1].parquet").write_bytes((tmp_path / folder / "x-1.parquet").read_bytes())
    settings = source("table", splits={"train": f"{tmp_path / folder}/x-[1].parquet"}, image="image", caption="text")
    assert [path.name for path in settings.files("train")] == ["x-[1].parquet"]


@pytest.mark.parametrize(
    "captions,held",
    [([1, 2], "int64"), ([[1], [2]], "list<.*int64>"), ([{"a": "x"}, {"a": "y"}], "struct<a: .*>"), ([b"a", b"b"], "binary")],
)  # fmt: skip
def test_captions_of_another_type_are_one_line(tmp_path, captions, held):
    pd.DataFrame({"image": [picture(1), picture(2)], "text": captions}).to_parquet(tmp_path / "t.parquet")
    settings = source("table", splits={"train": str(tmp_path / "t.parquet")}, image="image", caption="text")
    text = rf"^caption: .*t\.parquet: column 'text' holds {held}, and should hold texts or lists of texts$"
    with pytest.raises(UserError, match=text):
        pairs(settings)


def test_categories_are_texts(tmp_path):
    values = pd.DataFrame({"image": [picture(1), picture(2)], "text": pd.Categorical(["a", "b"])})
    values.to_parquet(tmp_path / "t.parquet")
    got = pairs(source("table", splits={"train": str(tmp_path / "t.parquet")}, image="image", caption="text"))
    assert [pair.captions for pair in got] == [["a"], ["b"]]


def test_csv_label_that_is_no_number(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    pd.DataFrame({"file": ["a.png"], "text": ["x"], "n": ["one"]}).to_csv(tmp_path / "t.csv", index=False)
    got = pairs(source("table", splits={"train": str(tmp_path / "t.csv")}, path="file", caption="text", label="n"))
    assert got == [Skipped("t-0000000", "label is not an integer", "'one'")]


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
            ("g.png", picture(4)), ("g.cls", b"\xff"), ("g.txt", b"x"),
            ("/h.png", picture(5)), ("/h.txt", b"outside"),
        ],
    )  # fmt: skip
    got = pairs(source("webdataset", splits={"train": path}))
    assert got == [
        RawPair("a", picture(0, kind="JPEG"), ["a cat"], 3),
        RawPair("b", picture(1), ["a dog"], None),
        RawPair("c", picture(2, kind="WEBP"), ["one", "two"], None),
        Skipped("f", "damaged txt, cls or json member"),
        Skipped("g", "damaged txt, cls or json member"),
        RawPair("/h", picture(5), ["outside"], None),
        Skipped("d", "no caption", "holds png"),
        Skipped("e", "no picture member", "holds txt"),
    ]


def test_webdataset_with_labels_makes_captions(tmp_path):
    path = tar(tmp_path / "0.tar", [("a.png", picture()), ("a.cls", b"8")])
    got = pairs(source("webdataset", splits={"train": path}, classes="imagenette"))
    assert got == [RawPair("a", picture(), ["a photo of a golf ball."], 8)]


def test_truncated_and_empty_shards_are_named(tmp_path):
    members = [
        (f"{number}.{kind}", data) for number in range(6) for kind, data in (("png", picture(number)), ("txt", b"x"))
    ]
    whole = Path(tar(tmp_path / "whole.tar", members)).read_bytes()
    for length in (len(whole) * 2 // 5, 512 * 3 + 100, 700, 0):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        got = pairs(source("webdataset", splits={"train": str(tmp_path / "{cut,whole}.tar")}))
        kept = [item for item in got if isinstance(item, RawPair)]
        assert Damaged(str(tmp_path / "cut.tar"), "truncated or damaged") in got, length
        assert kept[-6:] == [RawPair(str(number), picture(number), ["x"], None) for number in range(6)]
        assert all(item.image == picture(int(item.key)) for item in kept)


def test_shard_with_a_damaged_header_is_named(tmp_path):
    path = Path(tar(tmp_path / "0.tar", [(f"{n}.{kind}", picture(n)) for n in range(3) for kind in ("png", "cls")]))
    damaged = bytearray(path.read_bytes())
    damaged[4 * 1024 : 4 * 1024 + 512] = b"x" * 512
    path.write_bytes(damaged)
    assert pairs(source("webdataset", splits={"train": str(path)}))[-1] == Damaged(str(path), "truncated or damaged")


def test_compressed_and_duplicate_members(tmp_path):
    plain = Path(tar(tmp_path / "0.tar", [("a.png", picture()), ("a.txt", b"x"), ("a.txt", b"y"), ("b.png", b"")]))
    packed = gzip.compress(plain.read_bytes())
    (tmp_path / "1.tar.gz").write_bytes(packed)
    (tmp_path / "2.tar.gz").write_bytes(packed[: len(packed) // 2])
    got = pairs(source("webdataset", splits={"train": str(tmp_path / "1.tar.gz")}))
    twice = Damaged(str(tmp_path / "1.tar.gz"), "holds two members of one name (a.txt)")
    assert got == [RawPair("a", picture(), ["x"], None), twice, Skipped("b", "no caption", "holds png")]
    cut = Damaged(str(tmp_path / "2.tar.gz"), "truncated or damaged")
    assert cut in pairs(source("webdataset", splits={"train": str(tmp_path / "2.tar.gz")}))


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


# --- karpathy --------------------------------------------------------------------------------------------------------


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


# --- ImageNet --------------------------------------------------------------------------------------------------------


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
    from antidote.data.scenes.draw import generate

    settings = source("scenes", splits={"train": {"pairs": 300, "seed": 5}})
    got = pairs(settings)
    arrays, captions, labels = generate(5, 0, 300, 32)
    assert len({item.key for item in got}) == 300
    assert all(np.array_equal(item.image, array) for item, array in zip(got, arrays, strict=True))
    assert [item.captions for item in got] == [[caption] for caption in captions]
    assert [item.label for item in got] == labels.tolist()
    assert images.encode_png(got[0].image)
