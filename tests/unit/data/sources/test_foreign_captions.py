"""Several captions of a picture as other tools write them: as a list, as text, or one per line."""

import json

import pandas as pd
import pytest
from source_parts import picture, shard, source, stored

from antidote.data.download.addresses import addresses
from antidote.data.sources.base import RawPair, listed


@pytest.mark.parametrize(
    "text,captions",
    [
        ('["a cat", "one cat"]', ["a cat", "one cat"]),
        ("['a cat', \"it's one\"]", ["a cat", "it's one"]),
        (" [] ", []),
        ("[laughs]", None), ("[1, 2]", None), ("a [cat]", None), ("[" * 5000 + "]" * 5000, None), ('["a", 1]', None),
    ],
)  # fmt: skip
def test_lists_written_as_text(text, captions):
    assert listed([text]) == ([text] if captions is None else captions, captions is not None)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("write", [json.dumps, str])
def test_table_with_lists_written_as_text(tmp_path, caplog, ending, write):
    (tmp_path / "a.png").write_bytes(picture())
    table = pd.DataFrame({"file": ["a.png"], "text": [write(["a cat", "one  cat"])]})
    getattr(table, f"to_{ending}")(tmp_path / f"t.{ending}", index=False)
    settings = source("table", splits={"train": str(tmp_path / f"t.{ending}")}, path="file", caption="text")
    manifest, index = stored(tmp_path, settings)
    assert list(index["captions"][0]) == ["a cat", "one cat"] and index["caption"][0] == "a cat"
    assert manifest["adapted"] == {"list of captions written as text, read as a list": 1}
    assert "mine/train: read otherwise than written: 1 x list of captions written as text" in caplog.text


@pytest.mark.parametrize(
    "more,settings,captions,note",
    [
        ([], {}, ["a cat", "one cat"], "per line"),
        ([("a.json", b'{"caption": "a cat\\n one cat"}')], {}, ["a cat one cat"], "as one"),
        ([("a.json", b'{"caption": "a cat\\n one cat"}')], {"lines": True}, ["a cat", "one cat"],
         "per line"),
        ([], {"lines": False}, ["a cat one cat"], "as one"),
    ],
)  # fmt: skip
def test_txt_of_several_lines(tmp_path, more, settings, captions, note):
    (got,) = shard(tmp_path, [("a.png", picture()), ("a.txt", b"a cat\n one cat\n"), *more], **settings)
    assert got.captions == captions
    assert len(got.notes) == 1 and note in got.notes[0]


def test_one_line_is_one_caption_without_a_note(tmp_path):
    (got,) = shard(tmp_path, [("a.png", picture()), ("a.txt", b"a  cat\n")])
    assert got == RawPair("a", picture(), ["a cat"], None)


def test_captions_left_out_of_several_are_said(tmp_path):
    (got,) = shard(tmp_path, [("a.png", picture()), ("a.json", b'{"captions": ["a cat", 7, {"raw": "x"}]}')])
    assert got.captions == ["a cat"] and "left out of several" in got.notes[0]


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_table_of_addresses_with_lists_written_as_text(tmp_path, caplog, ending):
    urls = [f"https://a.example/{n}.jpg" for n in range(3)]
    table = pd.DataFrame({"url": urls, "caption": ['["a cat", "one  cat"]', "[laughs]", "a dog"]})
    if ending == "json":
        table.to_json(tmp_path / "t.json", orient="records")
    else:
        getattr(table, f"to_{ending}")(tmp_path / f"t.{ending}", index=False)
    wanted = addresses(source("url_table", splits={"train": str(tmp_path / f"t.{ending}")}), "train")
    assert wanted.list["captions"].tolist() == [["a cat", "one cat"], ["[laughs]"], ["a dog"]]
    assert "read otherwise than written: 1 x list of captions" in caplog.text
