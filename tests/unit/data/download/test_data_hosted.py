"""Hosted shards, subsets of any source, and archives that are made to do harm."""

import hashlib
import io
import os
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from web import bomb

from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.data.store import ingest, shards


def picture(seed):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def member(name, data=b"", **values):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in values.items():
        setattr(info, key, value)
    return info, io.BytesIO(data)


def tar(path, members):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
        for info, data in members:
            file.addfile(info, data)
    return path


def pairs(*numbers):
    return [member(f"{n}.{kind}", data) for n in numbers for kind, data in (("png", picture(n)), ("txt", b"a cat"))]


def source(pattern, **values):
    return method("source", "webdataset").read(
        {"source": "webdataset", "splits": {"train": str(pattern)}, **values}, "datasets.x"
    )


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; understands `Range: bytes=N-` and If-Range, and breaks off once where it is told to."""

    asked: list = []
    breaks: dict = {}
    tags = False  # whether it names the version of a file

    def do_GET(self):
        name = self.path.partition("?")[0].strip("/")
        data = (Path(self.directory) / name).read_bytes() if "gone" not in self.path else None
        first = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.asked.append((self.path, first))
        tag = f'"{hashlib.sha256(data or b"").hexdigest()}"'
        if self.tags and first:
            first = first if self.headers["If-Range"] == tag else 0
        if data is None:
            return self.send_error(404)
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data) - first))
        if self.tags:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(data[first : self.breaks.pop(self.path, None)])
        self.close_connection = True

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def host(tmp_path, monkeypatch):
    (tmp_path / "host").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Handler, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Handler(*a, directory=str(tmp_path / "host")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_hosted_shards_are_fetched_once_and_taken_up_where_they_broke(host, tmp_path):
    for number in (0, 1):
        tar(tmp_path / "host" / f"0000{number}.tar", pairs(number * 2, number * 2 + 1))
    Handler.breaks["/00001.tar"] = 1500
    settings = source(f"{host}/{{00000..00001}}.tar")
    with pytest.raises(
        UserError, match=r"00001\.tar: cannot be fetched \(\d+ bytes are missing\); what has come is kept"
    ):
        ingest.write(settings, "x", "train", tmp_path / "out")
    ingest.write(settings, "x", "train", tmp_path / "out")
    assert shards.open_index(tmp_path / "out")["key"].tolist() == ["0", "1", "2", "3"]
    assert Handler.asked == [("/00000.tar", 0), ("/00001.tar", 0), ("/00001.tar", 1500)]


@pytest.mark.parametrize("tags", [True, False])
def test_a_file_that_changes_while_it_is_fetched_is_fetched_anew(host, tmp_path, monkeypatch, tags):
    """A version is told by the ETag; where the server has none, by its size."""
    monkeypatch.setattr(Handler, "tags", tags)
    tar(tmp_path / "host" / "a.tar", pairs(1, 2))
    Handler.breaks["/a.tar"] = 1500
    settings = source(f"{host}/a.tar")
    with pytest.raises(UserError, match="what has come is kept"):
        settings.files("train")
    changed = pairs(5, 6) if tags else pairs(5, 6, 7, 8, 9, 10, 11, 12)
    tar(tmp_path / "host" / "a.tar", changed)
    ingest.write(settings, "x", "train", tmp_path / "out")
    assert shards.open_index(tmp_path / "out")["key"].tolist() == [info.name[:-4] for info, _ in changed[::2]]
    assert [path.name for path in tmp_path.glob("data/downloads/hosted/*/*")] == ["a.tar"]


def test_the_hash_holds_for_a_copy_that_is_there_and_for_an_address_with_a_query(host, tmp_path):
    tar(tmp_path / "host" / "a.tar", pairs(1))
    for url in (f"{host}/a.tar", f"{host}/a.tar?download=true"):
        copy = source(url).files("train")[0]
        right = {"a.tar": digest(copy.read_bytes())}
        assert source(url, sha256=right).files("train") == [copy]
        copy.write_bytes(copy.read_bytes()[:700])
        with pytest.raises(UserError, match=rf"^{copy}: has another SHA-256 .*; remove it, and it is fetched again"):
            source(url, sha256=right).files("train")
        copy.unlink()
        with pytest.raises(UserError, match=r"^splits: .*a\.tar.*: has another SHA-256"):
            source(url, sha256={"a.tar": "0" * 64}).files("train")
        assert source(url, sha256=right).files("train") == [copy]


def test_hosted_faults_are_one_line(host, tmp_path):
    tar(tmp_path / "host" / "a.tar", pairs(1))
    for settings, text in (
        (source(f"{host}/gone.tar"), r"gone\.tar: the server says 404"),
        (source(f"{host}/a.tar", sha256={"a.tar": "0" * 64}), "has another SHA-256"),
        (source("http://127.0.0.1:9/a.tar"), r"cannot be fetched \(.*refused"),
        (source(f"{host}/"), "names no file"),
    ):
        with pytest.raises(UserError, match=text) as error:
            list(settings.iterate("train"))
        assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("data/downloads/**/a.tar"))


def digest(data):
    return hashlib.sha256(data).hexdigest()


def test_a_subset_keeps_the_listed_pictures_alone(tmp_path):
    file = tar(tmp_path / "a.tar", pairs(1, 2, 3, 4))
    listed = {"key": ["4", "2"], "sha256": [digest(picture(4)), digest(picture(2))]}
    pd.DataFrame(listed).to_csv(tmp_path / "list.csv", index=False)
    settings = source(file, subset=str(tmp_path / "list.csv"))
    manifest = ingest.write(settings, "x", "train", tmp_path / "out")
    assert (manifest["offered"], manifest["pairs"], manifest["skipped"]) == (2, 2, {})
    assert shards.open_index(tmp_path / "out")["key"].tolist() == ["2", "4"]
    listed = {"key": ["4", "2", "9"], "sha256": [digest(picture(4)), digest(picture(3)), digest(picture(9))]}
    pd.DataFrame(listed).to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(UserError, match="2 of 3 pairs cannot be used") as error:
        ingest.write(settings, "x", "train", tmp_path / "out")
    assert "1 x another picture than the subset lists, 1 x listed in the subset, but not there" in str(error.value)


def test_names_and_texts_that_are_no_utf8_do_no_harm(tmp_path):
    caption = b'{"caption": "smile \\ud83d", "url": "http://x/\\ud83d"}'
    with tarfile.open(tmp_path / "a.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as file:
        for name, data in (("caf\xe9.png", picture(1)), ("caf\xe9.txt", b"a cat"),
                           ("b.png", picture(2)), ("b.json", caption), ("c\xe9.png", b"x"), ("c\xe9.txt", b"x"),
                           ("d.png", picture(3)), ("d.json", caption), ("d.txt", b"kept")):  # fmt: skip
            file.addfile(*member(name, data))
    manifest = ingest.write(source(tmp_path / "a.tar", accepted_skip_share=0.9), "x", "train", tmp_path / "out")
    assert manifest["skipped"] == {"caption that is no text, or no valid Unicode": 1, "not a picture": 1}
    index = shards.open_index(tmp_path / "out")
    assert index["key"].tolist() == ["caf", "d"] and index["caption"].tolist() == ["a cat", "kept"]


def test_a_folder_of_pictures_with_names_that_are_no_utf8(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/train/cat/caf\xe9.png")).write_bytes(picture(1))
    values = {"source": "folder", "root": str(tmp_path), "splits": {"train": "train"}}
    settings = method("source", "folder").read(values, "datasets.x")
    assert ingest.write(settings, "x", "train", tmp_path / "out")["pairs"] == 1
    assert shards.open_index(tmp_path / "out")["key"].tolist() == ["cat_caf"]


def test_paths_links_and_bombs_in_a_tar_do_no_harm(tmp_path):
    outside = tmp_path / "outside.txt"
    members = [
        *pairs(1),
        member("../../evil.png", picture(2)), member("../../evil.txt", b"up"),
        member("/etc/evil2.png", picture(3)), member("/etc/evil2.txt", b"root"),
        member("link.png", type=tarfile.SYMTYPE, linkname=str(outside)), member("link.txt", b"linked"),
        member("hard.png", type=tarfile.LNKTYPE, linkname="1.png"), member("hard.txt", b"linked"),
        member("pipe.png", type=tarfile.FIFOTYPE), member("pipe.txt", b"piped"),
        member("bomb.png", bomb()), member("bomb.txt", b"bomb"),
    ]  # fmt: skip
    outside.write_text("secret")
    settings = source(tar(tmp_path / "a.tar", members), accepted_skip_share=0.9)
    manifest = ingest.write(settings, "x", "train", tmp_path / "deep" / "er" / "out")
    assert manifest["skipped"] == {"no picture member": 3, "picture of more than 89478485 pixels": 1}
    keys = shards.open_index(tmp_path / "deep" / "er" / "out")["key"].tolist()
    assert keys == ["1", "evil", "etc_evil2"]
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "deep", "outside.txt"}


def test_a_member_that_would_fill_memory_ends_the_shard(tmp_path, monkeypatch):
    monkeypatch.setattr("antidote.data.sources.webdataset.LARGEST", 10_000)
    file = tar(tmp_path / "a.tar.gz", [*pairs(1), member("2.png", bytes(20_000)), member("2.txt", b"x")])
    settings = source(file, accepted_skip_share=0.9, expected={"train": 2})
    manifest = ingest.write(settings, "x", "train", tmp_path / "out")
    assert manifest["pairs"] == 1 and manifest["skipped"] == {"lost in a damaged file": 1}


def test_a_shard_cut_short_is_an_error_unless_what_it_lost_is_known_and_accepted(tmp_path):
    tar(tmp_path / "0.tar", pairs(1, 2, 3, 4))
    cut = tar(tmp_path / "1.tar", pairs(5, 6, 7, 8))
    cut.write_bytes(cut.read_bytes()[:1500])
    lost = {"accepted_skip_share": 0.5, "expected": {"train": 8}}
    for values, text in (
        (
            {"accepted_skip_share": 0.9},
            rf"x/train: {cut}: truncated or damaged; fetch again what is damaged, or say by",
        ),
        ({**lost, "accepted_skip_share": 0.3}, r"4 of 8 pairs cannot be used \(3 x lost in a damaged file, 1 x no"),
    ):
        with pytest.raises(UserError, match=text):
            ingest.write(source(tmp_path / "*.tar", **values), "x", "train", tmp_path / "out")
    manifest = ingest.write(source(tmp_path / "*.tar", **lost), "x", "train", tmp_path / "out")
    assert (manifest["offered"], manifest["pairs"]) == (8, 4)
    listed = {"key": ["2", "3"], "sha256": [digest(picture(2)), digest(picture(3))]}
    pd.DataFrame(listed).to_csv(tmp_path / "list.csv", index=False)
    subset = source(tmp_path / "*.tar", subset=str(tmp_path / "list.csv"))
    assert ingest.write(subset, "x", "train", tmp_path / "out")["pairs"] == 2, "nothing of the subset was lost"
