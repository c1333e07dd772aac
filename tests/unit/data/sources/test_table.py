"""Tables as a source: captions, labels and class names from Parquet, CSV and TSV."""

import pandas as pd
import pytest
from source_parts import pairs, picture, source

from antidote.base.errors import UserError
from antidote.data.sources.base import RawPair, Skipped


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
