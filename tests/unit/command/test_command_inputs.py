"""Datasets as a user names them: every kind is read whole, and what is left out is recorded."""

import io
import json
import logging
import tarfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from antidote.base.errors import UserError
from antidote.command import audit, inputs
from antidote.command.inputs import Columns
from antidote.command.sources import LISTED, Omitted


def picture(shade=0):
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def shard(path, keys, members=("png", "txt")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, key in enumerate(keys):
            for kind in members:
                content = f"caption {key}".encode() if kind == "txt" else picture(number)
                member = tarfile.TarInfo(f"{key}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def tree(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture())
    return folder


def keys(dataset, columns=inputs.USUAL, **options):
    return [item.key for item in inputs.stream(dataset, columns, **options)]


def shown(dataset, columns=inputs.USUAL):
    """Return (key, file) of each picture as `antidote inspect` reads a dataset."""
    return [(item.key, item.file) for item in inputs.stream(dataset, columns, captions=False)]


def test_shards_that_restart_their_keys_are_read_whole(tmp_path):
    for name in ("00000.tar", "00001.tar"):
        shard(tmp_path / "s" / name, ["a", "b"])
    omitted = Omitted()
    assert keys(tmp_path / "s", omitted=omitted) == ["00000_a", "00000_b", "00001_a", "00001_b"]
    assert omitted.count == 0
    shard(tmp_path / "t" / "00000.tar", ["a", "b"])
    shard(tmp_path / "t" / "00001.tar", ["c", "d"])
    assert keys(tmp_path / "t") == ["a", "b", "c", "d"], "keys that differ stay those of a study"


def test_a_later_key_of_another_shard_is_told_apart(tmp_path):
    numbered = [f"k{number}" for number in range(120)]
    shard(tmp_path / "s" / "0.tar", numbered)
    shard(tmp_path / "s" / "1.tar", ["other", *(f"n{number}" for number in range(100)), "k110"])
    for found in (keys(tmp_path / "s"), [key for key, _ in shown(tmp_path / "s")]):
        assert len(found) == len(set(found)) == 222 and found[:120] == numbered and found[-1] == "1_k110"


def test_pictures_beside_shards_are_told(tmp_path, caplog):
    shard(tmp_path / "s" / "0.tar", ["a"])
    tree(tmp_path / "s", "b.png")
    assert keys(tmp_path / "s") == ["a"] and "holds shards and 1 pictures" in caplog.text


def test_a_truncated_shard_is_named_and_the_rest_is_read(tmp_path, caplog):
    shard(tmp_path / "s" / "0.tar", ["a", "b"])
    broken = shard(tmp_path / "s" / "1.tar", ["c", "d"])
    broken.write_bytes(broken.read_bytes()[:2200])  # in the second picture
    omitted = Omitted()
    with caplog.at_level(logging.WARNING):
        assert keys(tmp_path / "s", omitted=omitted) == ["a", "b", "c"]
    assert omitted.damaged == [f"{broken}: truncated or damaged"] and str(broken) in caplog.text
    assert "truncated or damaged" in omitted.shown and omitted.facts["damaged"] == omitted.damaged
    assert "expected" not in caplog.text, "no setting that the command does not have"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(UserError, match=r"1\.tar: holds no usable pair; .*truncated or damaged"):
        keys(broken)


def test_what_is_left_out_is_counted_and_named(tmp_path):
    folder = tree(tmp_path / "p", "good.png")
    for number in range(LISTED + 20):
        (folder / f"x{number:03d}.png").write_text("no picture")
    omitted = Omitted()
    assert keys(folder, omitted=omitted) == ["good"]
    facts = omitted.facts
    assert facts["count"] == LISTED + 20 and facts["reasons"] == {"not a picture": LISTED + 20}
    assert len(facts["keys"]) == LISTED and facts["keys"][0] == "x000.png"
    assert "x000.png" in omitted.shown and "and 20 more" in omitted.shown
    assert Omitted().shown == "none"


def test_pictures_beside_folders_of_pictures_are_all_read(tmp_path):
    folder = tree(tmp_path / "p", "b.png", "sub/a.png", "sub/deep/c.png", ".hidden/d.png", "__MACOSX/e.png")
    (folder / "sub" / "up").symlink_to(folder)
    found = [("b", "b.png"), ("sub_a", "sub/a.png"), ("sub_deep_c", "sub/deep/c.png")]
    assert shown(folder) == found and keys(folder) == [key for key, _ in found]
    assert shown(folder / "sub") == [("a", "a.png"), ("deep_c", "deep/c.png")]
    with pytest.raises(UserError, match="holds no pictures"):
        shown(tree(tmp_path / "none", "sub/.a.png"))


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_column_that_a_table_does_not_have_is_told_by_its_option(tmp_path, ending):
    (tmp_path / "a.png").write_bytes(picture())
    table, path = pd.DataFrame({"file": ["a.png"], "caption": ["a"]}), tmp_path / f"t.{ending}"
    table.to_parquet(path) if ending == "parquet" else table.to_csv(
        path, sep="," if ending == "csv" else "\t", index=False
    )
    for option in ("path", "image", "caption"):
        with pytest.raises(UserError) as error:
            keys(path, Columns(**{option: "fiel"}))
        assert str(error.value) == f"--{option}: {path} has no column 'fiel'; did you mean 'file'?"
    assert [file for _, file in shown(path, Columns(caption="none"))] == ["a.png"], "captions have no effect"
    assert len(keys(path, Columns(path="file", caption="caption"))) == 1


def test_marks_in_the_header_of_a_tsv_are_text(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "t.tsv").write_text('"file"\tcaption\na.png\ta\n')
    with pytest.raises(UserError, match=r'^--path: is missing; .* which has "file", caption$'):
        keys(tmp_path / "t.tsv")
    assert len(keys(tmp_path / "t.tsv", Columns(path='"file"'))) == 1


def test_a_column_in_a_file_of_given_data_is_told_by_its_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("file,caption\na.png,a\n")
    (tmp_path / "given.yaml").write_text("model: rn\npairs: t.csv\npath: fiel\n")
    told = {(): "given.yaml: path", ("--path", "fiel"): "--path"}
    for words, place in told.items():
        args = audit.arguments().parse_args(["--given", "given.yaml", *words])
        with pytest.raises(UserError) as error:
            keys(args.pairs, inputs.columns(args))
        assert str(error.value) == f"{place}: t.csv has no column 'fiel'; did you mean 'file'?"


def test_pictures_of_one_name_are_told_apart_by_their_files(tmp_path):
    found = shown(tree(tmp_path / "p", "same.jpg", "same.png"))
    assert [file for _, file in found] == ["same.jpg", "same.png"] and len(set(found)) == 2


def test_one_picture_is_a_dataset(tmp_path):
    tree(tmp_path, "one.PNG", "other.png")
    assert shown(tmp_path / "one.PNG") == [("one", "one.PNG")] and keys(tmp_path / "one.PNG") == ["one"]


def test_pictures_need_no_captions(tmp_path):
    folder = tree(tmp_path / "p", "a.png", "b.png")
    (folder / "a.txt").write_text(" ")
    assert [key for key, _ in shown(folder)] == ["a", "b"]
    (folder / "paths.csv").write_text("path\na.png\nb.png\n")
    assert shown(folder / "paths.csv") == [("paths-0000000", "a.png"), ("paths-0000001", "b.png")]
    (folder / "empty.csv").write_text("path,caption\na.png,\nb.png,\n")
    assert [file for _, file in shown(folder / "empty.csv")] == ["a.png", "b.png"]
    pd.DataFrame({"image": [{"bytes": picture(), "path": "x.png"}]}).to_parquet(folder / "bytes.parquet")
    assert len(shown(folder / "bytes.parquet")) == 1
    file = shard(tmp_path / "s.tar", ["a", "b"], ["png"])
    assert shown(file) == [("a", "s.tar/a.png"), ("b", "s.tar/b.png")]
    with pytest.raises(UserError, match="2 x no caption"):
        keys(file)


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"shards": 3}', "no json"])
def test_a_manifest_of_another_program_is_no_written_split(tmp_path, manifest):
    folder = tree(tmp_path / "p", "a.png")
    (folder / "manifest.json").write_text(manifest)
    assert keys(folder) == ["a"]


def test_names_of_files_decide_their_kind(tmp_path):
    tree(tmp_path, "a.png")
    for name in ("clean.target.csv", "my.tar.csv", "PAIRS.CSV", "PAIRS.TSV"):
        mark = "\t" if name.endswith("TSV") else ","
        (tmp_path / name).write_text(f"path{mark}caption\na.png{mark}one\n")
        assert len(keys(tmp_path / name)) == 1, name
    pd.DataFrame({"path": ["a.png"], "caption": ["one"]}).to_parquet(tmp_path / "PAIRS.PARQUET")
    assert len(keys(tmp_path / "PAIRS.PARQUET")) == 1
    (tmp_path / "notes.target").write_text("x")
    with pytest.raises(UserError, match="is no dataset"):
        keys(tmp_path / "notes.target")


def test_braces_in_existing_names_are_no_pattern(tmp_path):
    folder = tmp_path / "run{1,2} [x]"
    shard(folder / "0.tar", ["a"])
    assert keys(folder) == keys(folder / "0.tar") == ["a"]
    tree(folder, "a.png")
    (folder / "{0..3}.csv").write_text("path,caption\na.png,one\n")
    assert len(keys(folder / "{0..3}.csv")) == 1
    shard(tmp_path / "1.tar", ["b"])
    shard(tmp_path / "2.tar", ["c"])
    assert keys(tmp_path / "{1..2}.tar") == ["b", "c"], "a pattern stays one"


def test_a_column_image_of_texts_holds_paths(tmp_path):
    tree(tmp_path, "a.png")
    (tmp_path / "p.csv").write_text("image,caption\na.png,one\n")
    pd.DataFrame({"image": ["a.png"], "caption": ["one"]}).to_parquet(tmp_path / "p.parquet")
    for name in ("p.csv", "p.parquet"):
        assert keys(tmp_path / name) == ["p-0000000"]
        with pytest.raises(UserError, match="`--path image`"):
            keys(tmp_path / name, Columns(image="image"))


def test_pictures_in_memory_have_their_keys_as_files(make_pairs):
    pairs = make_pairs(count=3)
    found = inputs.load_pictures(pairs, inputs.USUAL, 32)
    assert found.pairs is pairs and found.files == pairs.keys and json.dumps(found.omitted.facts)
