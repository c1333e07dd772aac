"""Shards as other tools leave them: read as they are meant, or refused by a line that names what they are."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from source_parts import pairs, picture, shard, source, stored, tar, told

from antidote.base.errors import UserError
from antidote.command.sources import _keys
from antidote.data.sources.base import RawPair, Skipped


def test_keys_with_dots_are_named(tmp_path):
    members = [(f"img.{n:04d}.{kind}", b"x") for n in range(9) for kind in ("jpg", "txt")]
    text = told(tmp_path, members)
    assert "keys with a dot, where webdataset ends a key" in text and "img: holds 0000.jpg, 0000.txt" in text


def test_members_that_are_not_adjacent_are_named(tmp_path):
    members = [(f"{n}.{kind}", picture() if kind == "png" else b"a cat") for kind in ("png", "txt") for n in range(3)]
    assert "3 x members of a sample are not adjacent" in told(tmp_path, members)


def test_keys_of_a_json_without_captions_are_named(tmp_path):
    text = told(tmp_path, [("a.jpg", picture()), ("a.json", b'{"text": "a cat", "url": "x"}')])
    assert "json without 'caption' (setting `caption`), with text, url" in text
    (got,) = shard(tmp_path, [("a.jpg", picture()), ("a.json", b'{"text": "a cat"}')], caption="text")
    assert got.captions == ["a cat"]


def test_list_under_the_key_of_the_caption(tmp_path):
    (got,) = shard(tmp_path, [("a.jpg", picture()), ("a.json", b'{"caption": ["a cat", "one cat"]}')])
    assert got == RawPair("a", picture(), ["a cat", "one cat"], None)


def test_class_names_in_cls(tmp_path):
    members = [("a.png", picture()), ("a.cls", b"church\n"), ("b.png", picture(1)), ("b.cls", b"whale")]
    first, second = shard(tmp_path, members, classes="imagenette")
    assert first == RawPair("a", picture(), ["a photo of a church."], 4)
    assert second == Skipped("b", "class 'whale' is not in classes 'imagenette'")
    first, _ = shard(tmp_path, members)
    assert first.label is None and "class name in cls, read without a label" in first.notes[0]


def test_equal_keys_of_two_runs(tmp_path):
    for run in (0, 1):
        (tmp_path / f"run{run}").mkdir()
        tar(tmp_path / f"run{run}" / "0.tar", [("7.png", picture(run)), ("7.txt", b"a cat")])
    where = {"train": str(tmp_path / "run*" / "0.tar")}
    with pytest.raises(
        UserError, match=r"1 x duplicate key; such as 7; `prefix: true` tells pairs of different shards"
    ):
        stored(tmp_path, source("webdataset", splits=where))
    _, index = stored(tmp_path, source("webdataset", splits=where, prefix=True))
    assert index["key"].tolist() == ["run0_0_7", "run1_0_7"]
    where = {"train": str(tmp_path / "run0" / "0.tar")}
    assert stored(tmp_path, source("webdataset", splits=where, prefix=True))[1]["key"].tolist() == ["0_7"]


@pytest.mark.parametrize(
    "data,text",
    [
        (b"\x28\xb5\x2f\xfd\x00", "is packed by zstd, which is not read"),
        (b"PK\x03\x04...", "is a zip and no tar"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"<!DOCTYPE html>", "is a page of the web"),
    ],
)
def test_files_that_are_no_tar_are_named(tmp_path, data, text):
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(UserError, match=text):
        pairs(source("webdataset", splits={"train": str(tmp_path / "0.tar")}))


def test_a_folder_is_there(tmp_path):
    tar(tmp_path / "0.tar", [("a.png", picture())])
    settings = source("webdataset", splits={"train": str(tmp_path)})
    with pytest.raises(UserError, match=r"is a folder; name the files in it, such as .*/\*\.tar$"):
        pairs(settings)
    assert "is a folder" in settings.absent("train")[0]


def test_damaged_files_name_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr("antidote.data.sources.webdataset.LARGEST", 10)
    assert "member of more than 0 MB (a.png)" in told(tmp_path, [("a.png", picture())])


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_headers_that_declare_a_huge_name_are_not_read(tmp_path, kind, first, pack):
    """tarfile asks for the declared size at once, which may be more than there is memory."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 1500 * 10**6
    members = [("a.png", picture()), ("a.txt", b"a cat")]
    before = b"" if first else Path(tar(tmp_path / "1.tar", members)).read_bytes()[: 4 * tarfile.BLOCKSIZE]
    file = tmp_path / "0.tar"
    file.write_bytes(pack(before + header.tobuf(tarfile.GNU_FORMAT) + bytes(20 * tarfile.BLOCKSIZE)))
    got = pairs(source("webdataset", splits={"train": str(file)}))
    assert got[-1].reason == "header of more than 1 MB"
    assert set(_keys(file)) == (set() if first else {"a"})


def test_names_longer_than_a_plain_header_are_read(tmp_path):
    key = "a" * 300
    for name, form in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / f"{name}.tar", "w", format=form) as file:
            for ending, data in (("png", picture()), ("txt", b"a cat")):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
        (got,) = pairs(source("webdataset", splits={"train": str(tmp_path / f"{name}.tar")}))
        assert (got.key, got.image) == (key, picture())


def test_each_frequent_reason_has_an_example(tmp_path):
    members = [(f"{n}.txt", b"x") for n in range(5)] + [("x.png", picture()), ("y.png", b"junk"), ("y.txt", b"a")]
    text = told(tmp_path, members)
    assert "(5 x no picture member, 1 x not a picture, 1 x no caption; such as 0: holds txt, " in text
    assert "such as 0: holds txt, y, x: holds png)" in text


def test_many_reasons_are_cut(tmp_path):
    members = [(f"{n}.{kind}", picture() if kind == "png" else f"whale{n}".encode())
               for n in range(12) for kind in ("png", "cls")]  # fmt: skip
    assert "and 4 reasons more; such as 0" in told(tmp_path, members, classes="imagenette")
