"""Tables of addresses: every published format gives the same keys and captions; what is wrong is one line."""

import gzip
import json

import pandas as pd
import pytest

from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.data.download.addresses import addresses, made_key
from antidote.data.store.datasets import dataset_settings, known_datasets
from antidote.data.store.keys import safe_key
from antidote.data.store.subsets import read_subset

CAPTIONS = ['a "quoted banana', "two dogs", "a cat , a hat", "bananas", "a banana."]
URLS = [f"https://pictures.example/{number}.jpg?a=1&b=2" for number in range(5)]


def source(file, **values):
    return method("source", "url_table").read(
        {"source": "url_table", "splits": {"train": str(file)}, **values}, "datasets.x"
    )


def write(folder, name):
    """Write the same five rows in one of the formats; return the file and the settings that read it."""
    file = folder / name
    frame = pd.DataFrame({"caption": CAPTIONS, "url": URLS})
    if name.endswith(".parquet"):
        frame.to_parquet(file)
    elif name.endswith(".csv"):
        frame.to_csv(file, index=False)
    elif name.endswith(".jsonl"):
        frame.to_json(file, orient="records", lines=True)
    elif name == "records.json":
        frame.to_json(file, orient="records")
    elif name == "columns.json":
        file.write_text(json.dumps({"caption": CAPTIONS, "url": URLS, "user": ["x"]}))
    elif name == "coco.json":
        images = [{"id": 100 + n, "coco_url": url, "url": "other"} for n, url in enumerate(URLS)]
        notes = [{"id": n, "image_id": 100 + n, "caption": text} for n, text in enumerate(CAPTIONS)]
        file.write_text(json.dumps({"images": images, "annotations": notes, "licenses": []}))
        return file, {"url": "coco_url"}
    else:
        text = "".join(f"{caption}\t{url}\n" for caption, url in zip(CAPTIONS, URLS, strict=True)).encode()
        file.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return file, {"columns": ["caption", "url"]}
    return file, {}


FORMATS = ["t.parquet", "t.csv", "t.jsonl", "records.json", "columns.json", "coco.json", "t.tsv", "t.tsv.gz"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_the_same(tmp_path, name):
    file, values = write(tmp_path, name)
    found = addresses(source(file, **values), "train")
    assert (found.rows, found.unusable) == (5, {})
    assert found.list["pair"].tolist() == [made_key(url) for url in URLS]
    assert found.list["url"].tolist() == URLS and found.list["caption"].tolist() == CAPTIONS
    assert [list(texts) for texts in found.list["captions"]] == [[text] for text in CAPTIONS]


def test_captions_of_one_address_stay_together(tmp_path):
    rows = {
        "url": [URLS[0], URLS[1], URLS[0], URLS[0]],
        "caption": ["one", "x", "two", "one"],
        "id": ["a", "b", "c", "d"],
    }
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    found = addresses(source(tmp_path / "t.parquet", key="id"), "train").list
    assert [list(texts) for texts in found["captions"]] == [["one", "two"], ["x"]] and found["pair"].tolist() == [
        "a",
        "b",
    ]


@pytest.mark.parametrize("name", ["t.parquet", "t.json", "t.jsonl"])
def test_lists_of_captions_are_so_many_captions(tmp_path, name):
    rows = [{"url": URLS[0], "caption": ["a cat", "two cats"]}, {"url": URLS[1], "caption": ["a dog"]},
            {"url": URLS[2], "caption": []}]  # fmt: skip
    if name == "t.parquet":
        pd.DataFrame(rows).to_parquet(tmp_path / name)
    else:
        (tmp_path / name).write_text(json.dumps(rows) if name == "t.json" else "\n".join(map(json.dumps, rows)))
    found = addresses(source(tmp_path / name), "train")
    assert [list(texts) for texts in found.list["captions"]] == [["a cat", "two cats"], ["a dog"]]
    assert (found.rows, found.unusable) == (3, {"no caption": 1})


@pytest.mark.parametrize(
    "caption,text",
    [([1, 2], "'caption' holds int64, and should hold texts or lists"), ([{"a": 1}, {"a": 2}], "holds struct<a: int64>"),
     ([[1], [2]], "holds list<.*int64>")],
)  # fmt: skip
def test_captions_that_are_no_text_are_one_line(tmp_path, caption, text):
    rows = pd.DataFrame({"url": URLS[:2], "caption": caption})
    rows.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=rf"^caption: .*t\.parquet: column {text if 'column' in text else '.*' + text}"):
        addresses(source(tmp_path / "t.parquet"), "train")
    rows.to_json(tmp_path / "t.json", orient="records")
    with pytest.raises(UserError, match=r"^caption: .*t\.json: column 'caption' holds .*1.*, and should hold texts$"):
        addresses(source(tmp_path / "t.json"), "train")


def test_an_address_that_is_no_text_is_one_line(tmp_path):
    (tmp_path / "t.json").write_text('{"url": [["a"], ["b"]], "caption": ["a", "b"]}')
    with pytest.raises(UserError, match=r"^url: .*t\.json: column 'url' holds \['a'\], and should hold texts$"):
        addresses(source(tmp_path / "t.json"), "train")


def test_separators_of_unicode_do_not_end_a_line(tmp_path):
    rows = [{"url": URLS[0], "caption": "a\u2028cat"}, {"url": URLS[1], "caption": "a\x85dog"}]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "t.jsonl").write_text(lines + "\r\n", newline="")
    assert addresses(source(tmp_path / "t.jsonl"), "train").list["caption"].tolist() == ["a cat", "a dog"]


def test_half_a_character_is_counted(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps([{"url": url, "caption": "smile \ud83d"[: 7 - n]} for n, url in
                                                 enumerate(URLS)]))  # fmt: skip
    found = addresses(source(tmp_path / "t.json"), "train")
    assert found.unusable == {"no caption": 1} and len(found.list) == 4


def test_given_keys_are_made_safe_and_stay_unique(tmp_path):
    ids = ["val2014/1.jpg", "val2014/1.png", "x", "x", "val2014_1"]
    pd.DataFrame({"url": URLS, "caption": "a", "id": ids}).to_parquet(tmp_path / "t.parquet")
    found = addresses(source(tmp_path / "t.parquet", key="id"), "train")
    keys = found.list["pair"].tolist()
    assert keys[0] == "val2014_1" and keys[2] == "x" and len(set(keys)) == 4
    assert [safe_key(key) for key in keys] == keys, "as ingestion and subsets know them"
    assert found.unusable == {"key of another address": 1} and found.rows == 5


def test_rows_that_ask_for_nothing_are_counted(tmp_path):
    urls = ["file:///etc/passwd", "ftp://a.example/x", "/x.jpg", "", None, "HTTP://a.example/x", URLS[0]]
    pd.DataFrame({"url": urls, "caption": ["x"] * 6 + [" "]}).to_parquet(tmp_path / "t.parquet")
    found = addresses(source(tmp_path / "t.parquet"), "train")
    assert found.unusable == {"no address of the web": 5, "no caption": 1} and len(found.list) == 1


def test_a_sample_is_the_same_in_any_order_and_keeps_the_target(tmp_path):
    rows = pd.DataFrame(
        {"url": [f"http://a.example/{n}" for n in range(400)], "caption": ["a dog"] * 390 + ["one banana"] * 10}
    )
    rows.to_parquet(tmp_path / "a.parquet")
    rows.iloc[::-1].to_parquet(tmp_path / "b.parquet")
    sample = {"pairs": 50, "seed": 3, "keep": ["Banana"]}
    chosen = [addresses(source(tmp_path / name, sample=sample), "train").list for name in ("a.parquet", "b.parquet")]
    assert set(chosen[0]["pair"]) == set(chosen[1]["pair"])
    assert (chosen[0]["caption"] == "one banana").sum() == 10 and 50 <= len(chosen[0]) <= 60
    other = addresses(source(tmp_path / "a.parquet", sample={**sample, "seed": 4}), "train").list
    assert set(other["pair"]) != set(chosen[0]["pair"])


def test_a_subset_asks_for_nothing_else_and_for_the_same_pictures(tmp_path):
    file, _ = write(tmp_path, "t.parquet")
    listed = {"key": [made_key(URLS[3]), made_key(URLS[1]), made_key(URLS[2])], "sha256": ["A" * 64, "b" * 64, None]}
    pd.DataFrame(listed).to_csv(tmp_path / "list.csv", index=False)
    found = addresses(source(file, subset=str(tmp_path / "list.csv")), "train").list
    assert found["url"].tolist() == [URLS[1], URLS[3]] and found["sha256"].tolist() == ["b" * 64, "a" * 64]
    pd.DataFrame({"key": ["other"], "sha256": ["a" * 64]}).to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(UserError, match=r"subset: .*list\.csv: lists no key of .*t\.parquet"):
        addresses(source(file, subset=str(tmp_path / "list.csv")), "train")


@pytest.mark.parametrize(
    "columns,text",
    [
        ({"keys": ["a"], "sha256": ["a" * 64]}, "has no column 'key'; did you mean 'keys'?"),
        ({"key": ["a"], "sha256": ["b1"]}, "'a' has 'b1', which is no SHA-256"),
        ({"key": ["a", "a"], "sha256": ["a" * 64] * 2}, "lists 'a' twice"),
        ({"key": ["a"], "sha256": [None]}, "lists nothing"),
    ],
)
def test_damaged_subsets(tmp_path, columns, text):
    pd.DataFrame(columns).to_parquet(tmp_path / "list.parquet")
    with pytest.raises(UserError, match=r"^subset: .*list\.parquet: ") as error:
        read_subset(tmp_path / "list.parquet")
    assert text in str(error.value)


@pytest.mark.parametrize(
    "name,content,values,text",
    [
        ("t.tsv", b"a cat\thttp://a.example/1\n", {}, r"url: .*t\.tsv has no column 'url'; a table without a header line needs `columns`"),
        ("t.csv", b"link,text\nhttp://a.example/1,x\n", {"caption": "text"}, r"url: .*t\.csv has no column 'url'"),
        ("t.csv", b"url,captions\nhttp://a.example/1,x\n", {}, r"did you mean 'captions'\?"),
        ("t.tsv", b"a cat\thttp://a.example/1\n" * 3, {"columns": ["caption", "url", "size"]}, r"columns: .*has no row with 3 columns; its first row is 'a cat"),
        ("t.csv", b"url,caption\nhttp://a.example/1,\xff\xfe\n", {}, "cannot be read"),
        ("t.csv", b"", {}, "cannot be read"),
        ("t.csv", b"url,caption\nx,y\n", {}, r"holds no usable address \(1 x no address of the web\)"),
        ("t.csv", b"url,caption\n", {}, r"holds no usable address \(no row\)"),
        ("t.csv", b"url,caption\nhttp://a.example/1,x\n", {"rows": {"train": 2}}, "holds 1 rows, expected 2"),
        ("t.json", b'{"images": [], "annotations": [{"x": 1}]}', {}, "cannot be read"),
        ("t.json", b'{"url": "x"}', {}, "has no column 'url'"),
        ("t.json", b"[1, 2]", {}, "neither a list of records nor columns by name"),
        ("t.json", b"{", {}, "cannot be read"),
        ("t.parquet", b"PAR1", {}, "cannot be read"),
        ("t.xls", b"x", {}, r"should be one of \.parquet"),
    ],
)  # fmt: skip
def test_wrong_tables_are_one_line(tmp_path, name, content, values, text):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=text) as error:
        addresses(source(tmp_path / name, **values), "train")
    assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)


def test_a_missing_table_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"cc12m\.tsv: no such file; the table is to be had from https://github\.com"):
        addresses(dataset_settings("cc12m"), "train")


def test_a_column_that_the_table_does_not_name():
    with pytest.raises(UserError, match=r"datasets\.x: url: 'link' is not among columns, caption, url"):
        source("t.tsv", url="link", columns=["caption", "url"])


PRESETS = {name: values for name, values in known_datasets().items() if values["source"] == "url_table"}
PUBLISHED = {
    "cc3m": ("tsv", "a cat\thttp://a.example/1\n"),
    "cc12m": ("tsv", "http://a.example/1\ta cat\n"),
    "sbu": ("json", '{"image_urls": ["http://a.example/1"], "captions": ["a cat"], "user_ids": ["9"]}'),
    "coco": ("json", '{"info": {}, "images": [{"id": 7, "coco_url": "http://a.example/1"}],'
             ' "annotations": [{"id": 1, "image_id": 7, "caption": "a cat"}]}'),
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_presets_read_what_is_published(name, tmp_path):
    kind, text = PUBLISHED[name]
    (tmp_path / f"t.{kind}").write_text(text)
    split = next(iter(PRESETS[name]["splits"]))
    settings = dataset_settings(name, {name: {"splits": {split: str(tmp_path / f"t.{kind}")}, "rows": {split: 1}}})
    found = addresses(settings, split).list
    assert found["url"].tolist() == ["http://a.example/1"] and found["caption"].tolist() == ["a cat"]
    assert settings.homepage.startswith("https://") and set(PRESETS[name]["rows"]) == set(PRESETS[name]["splits"])


def test_rows_that_a_quotation_mark_joins_are_counted(tmp_path):
    """The captions of three rows in one: neither is a caption."""
    rows = ["a cat", '"a dog', "a horse", 'a 12" ruler', "two, cats"]
    table = "".join(f"{url},{text}\n" for url, text in zip(URLS[:4], rows, strict=False))
    (tmp_path / "t.csv").write_text(f'url,caption\n{table}{URLS[4]},"two\nlines"\n')
    found = addresses(source(tmp_path / "t.csv"), "train")
    assert found.unusable == {"rows that a quotation mark joins": 1}
    assert sorted(found.list["url"]) == [URLS[0], URLS[4]]
