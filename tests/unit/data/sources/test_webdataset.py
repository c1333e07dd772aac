"""Shards as a source: their members, and shards that are cut, damaged or packed."""

import gzip
import json
from pathlib import Path

import pytest
from source_parts import pairs, picture, source, tar

from antidote.base.errors import UserError
from antidote.data.sources.base import Damaged, RawPair, Skipped


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
