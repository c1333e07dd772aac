"""Tables as other tools leave them: paths, missing values, values of another kind."""

import os

import pandas as pd
import pytest
from source_parts import pairs, picture, source, stored

from antidote.base.errors import UserError
from antidote.data.sources.base import Skipped


def csv(tmp_path, path):
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "0.png").write_bytes(picture())
    pd.DataFrame({"file": [path], "text": ["a cat"]}).to_csv(tmp_path / "t.csv", index=False)
    return source("table", splits={"train": str(tmp_path / "t.csv")}, path="file", caption="text")


def test_the_path_that_was_tried_is_named(tmp_path):
    (got,) = pairs(csv(tmp_path, "/media/disk4/0.png"))
    assert got.detail == "/media/disk4/0.png: No such file or directory"
    settings = csv(tmp_path, "data/0.png")
    tried = f"{tmp_path}/data/0.png: No such file or directory; 'data/0.png' is relative to the table's folder"
    assert pairs(settings)[0].detail == tried
    assert settings.absent("train") == [f"{tmp_path}/t.csv: t-0000000: picture file cannot be read ({tried})"]
    with pytest.raises(UserError) as error:
        stored(tmp_path, settings)
    assert f"1 x picture file cannot be read; such as t-0000000: {tried}" in str(error.value)


@pytest.mark.parametrize(
    "path,reason",
    [("", "row without a picture"), ("https://example.org/0.png", "an address of the web where a path is wanted")],
)
def test_rows_without_a_file_are_named(tmp_path, path, reason):
    (got,) = pairs(csv(tmp_path, path))
    assert got.reason.startswith(reason)


def test_pipes_devices_and_huge_files_are_not_read(tmp_path, monkeypatch):
    csv(tmp_path, "images/0.png")
    os.mkfifo(tmp_path / "images" / "pipe.png")
    for path in ("/dev/null", "images/pipe.png"):
        (got,) = pairs(csv(tmp_path, path))
        assert (
            got.reason == "picture file cannot be read" and f"{path}: is a pipe or a device, not a file" in got.detail
        )
    monkeypatch.setattr("antidote.data.sources.base.LARGEST", len(picture()))
    assert pairs(csv(tmp_path, "images/0.png"))[0].image == picture()
    monkeypatch.setattr("antidote.data.sources.base.LARGEST", len(picture()) - 1)
    assert "0.png: is larger than 0 MB" in pairs(csv(tmp_path, "images/0.png"))[0].detail


def test_paths_of_windows(tmp_path):
    (got,) = pairs(csv(tmp_path, "images\\0.png"))
    assert got.image == picture() and got.notes == ("path with backslashes, read as slashes",)
    (got,) = pairs(csv(tmp_path, "images\\1.png"))
    assert "images\\1.png: No such file" in got.detail


def test_paths_where_a_parquet_holds_no_bytes(tmp_path):
    (tmp_path / "0.png").write_bytes(picture())
    values = [{"bytes": None, "path": "0.png"}, {"bytes": b"", "path": str(tmp_path / "0.png")},
              {"bytes": None, "path": "gone.png"}, {"bytes": None, "path": None}]  # fmt: skip
    pd.DataFrame({"image": values, "text": ["a cat"] * 4}).to_parquet(tmp_path / "t.parquet")
    got = pairs(source("table", splits={"train": str(tmp_path / "t.parquet")}, image="image", caption="text"))
    assert [getattr(item, "image", None) for item in got] == [picture(), picture(), None, None]
    assert [item.reason for item in got[2:]] == ["picture file cannot be read", "row without a picture"]
    assert "gone.png" in got[2].detail


def test_values_of_another_kind_are_no_pictures_labels_or_names(tmp_path):
    rows = {"image": ["0.png", "1.png"], "bytes": [picture(), picture()], "text": ["a", "b"], "label": [2.0, 2.5],
            "name": [7, 8]}  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    where = {"splits": {"train": str(tmp_path / "t.parquet")}}
    got = pairs(source("table", **where, image="image", caption="text"))
    assert got[0].reason == "str where the bytes of a picture are wanted; a column of paths is named by `path`"
    got = pairs(source("table", **where, image="bytes", caption="text", label="label"))
    assert got[0].label == 2 and got[1] == Skipped("t-0000001", "label is not an integer", "2.5")
    got = pairs(source("table", **where, image="bytes", class_name="name"))
    assert got[0] == Skipped("t-0000000", "class name that is no text", "7")


def test_rows_of_tables_of_one_name_are_told_apart(tmp_path):
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        pd.DataFrame({"image": [picture()], "text": [part]}).to_parquet(tmp_path / part / "train.parquet")
    where = {"train": str(tmp_path / "*" / "train.parquet")}
    got = pairs(source("table", splits=where, image="image", caption="text"))
    assert [item.key for item in got] == ["a/train-0000000", "b/train-0000000"]
