"""Snakemake's records belong to the checkout, even where DVC has restored them as links into its cache."""

import os

from antidote.study.jobs import own_records


def test_a_linked_record_becomes_the_checkouts_own(tmp_path):
    cache, records = tmp_path / "cache", tmp_path / "metadata"
    cache.mkdir()
    (records / "@long").mkdir(parents=True)
    for name in ("hard", "soft"):
        (cache / name).write_text(name)
        (cache / name).chmod(0o444)
    os.link(cache / "hard", records / "hard")
    (records / "@long" / "soft").symlink_to(cache / "soft")
    (records / "own").write_text("own")
    untouched = (records / "own").stat().st_ino
    own_records(records)
    for path in (records / "hard", records / "@long" / "soft"):
        assert not path.is_symlink() and path.stat().st_nlink == 1 and path.read_text() == path.name
        path.write_text("changed by Snakemake")
    assert {path.name: path.read_text() for path in cache.iterdir()} == {"hard": "hard", "soft": "soft"}
    assert (records / "own").stat().st_ino == untouched and {path.name for path in records.iterdir()} == {
        "@long",
        "hard",
        "own",
    }


def test_a_checkout_without_records_is_left_alone(tmp_path):
    own_records(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
