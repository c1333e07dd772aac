"""What the training scripts share: a run's identity, and what is left when it ends."""

import argparse
import json

import pandas as pd
import pytest

from antidote.base import cache
from antidote.base.command_line import Cost
from antidote.base.errors import UserError
from antidote.clip.folder import load_model
from antidote.data import pools
from antidote.data.streaming import Reading
from antidote.training.run import finish, reading_of, training_arguments, work_of
from antidote.training.session import Report


@pytest.fixture
def arguments(tmp_path):
    parser = argparse.ArgumentParser()
    training_arguments(parser)
    table = pd.DataFrame({"key": ["a"], "dataset": ["d"], "split": ["s"], "pool": ["training"], "position": [0]})
    pools.write(tmp_path / "pools.parquet", table)
    (tmp_path / "d" / "s").mkdir(parents=True)
    (tmp_path / "d" / "s" / "manifest.json").write_text("{}")
    (tmp_path / "start").write_text("weights")
    return parser.parse_args(
        ["--output", str(tmp_path / "model"), "--pools", str(tmp_path / "pools.parquet"), "--data", str(tmp_path)]
    )


def identity(arguments, settings=None, **changes):
    given = argparse.Namespace(**{**vars(arguments), **changes})
    start = given.data / "start"
    return work_of(given, settings or {"lr": 0.1}, [start], "antidote.training.loop").identity


def test_a_runs_identity_is_what_it_is_made_from(arguments, tmp_path):
    """Settings, seed, the content of inputs, pools and data; not where anything lies, nor how often it saves."""
    first = identity(arguments)
    assert first == identity(arguments, checkpoint_seconds=1.0, work=tmp_path / "w", output=tmp_path / "o")
    found = {first, identity(arguments, {"lr": 0.2}), identity(arguments, seed=1)}
    for name in ("start", "d/s/manifest.json"):
        path = tmp_path / name
        old = path.read_text()
        path.write_text(old + " ")
        found.add(identity(arguments))
        path.write_text(old)
    assert len(found) == 5 and identity(arguments) == first


def test_a_runs_identity_holds_its_code(arguments, monkeypatch):
    first = identity(arguments)
    monkeypatch.setattr(cache, "fingerprint", lambda *modules: "other code")
    assert identity(arguments) != first


def test_the_work_folder_lies_beside_the_output(arguments, tmp_path):
    work = work_of(arguments, {}, [], "antidote.training.loop")
    assert work.folder == tmp_path / "model.work" and work.every == 120


@pytest.mark.parametrize("trained", [True, False])
def test_the_end_of_a_run(arguments, make_clip, tmp_path, trained):
    """Model, card, training log if there is one, cost; the work folder is gone."""
    work = work_of(arguments, {}, [], "antidote.training.loop")
    if trained:
        work.folder.mkdir()
        (work.folder / "train.jsonl").write_text("{}\n")
        (work.folder / "checkpoint.pt").write_text("state")
    arguments.cost = tmp_path / "cost.json"
    report = Report(7, 5, 3)
    finish(arguments, make_clip(), {"kind": "clean"}, report, work, Cost(), cache.Shared("pretrain", str))
    assert load_model(tmp_path / "model").size == 32 and (tmp_path / "model" / "train.jsonl").exists() == trained
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert (cost["steps"], cost["trained_parameters"], cost["pairs"]) == (7, 5, 3) and not work.folder.exists()


def test_how_pictures_are_read(arguments):
    """Changes no result, so the run's identity does not know it."""
    assert reading_of(arguments) == Reading(4 << 30, 2)
    four = argparse.Namespace(**{**vars(arguments), "processes": 4})
    assert reading_of(four) == Reading(1 << 30, 2), "each process would hold all pictures"
    changed = argparse.Namespace(**{**vars(arguments), "in_memory_mb": 0, "workers": 0, "processes": 4})
    assert reading_of(changed) == Reading(0, 0) and identity(changed) == identity(arguments)
    with pytest.raises(UserError, match=r"^--in-memory-mb: -1 should be 0 or more$"):
        reading_of(argparse.Namespace(**{**vars(arguments), "in_memory_mb": -1}))
