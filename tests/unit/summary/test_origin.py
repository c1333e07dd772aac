"""Commit and code of the jobs behind a cell."""

import shutil

import pytest

from antidote.base import checkout
from antidote.study.layout import Layout
from antidote.summary.exchange import read_result
from antidote.summary.origin import origin
from tests.unit.summary import test_exchange as made
from tests.unit.summary.test_pages import put

board = made.board  # the results files of a made-up study


@pytest.fixture
def kept(tmp_path):
    """Two seeds of a defended cell, and jobs of other cells."""
    kept = Layout(tmp_path)
    for seed in (0, 1):
        names = {"attack": "badnet", "defense": "tune", "seed": seed, "adaptation": "full", "detector": "dao"}
        for stage in ("clean_model", "trigger", "backdoored_model", "defend", "evaluate", "persistence", "detect"):
            put(kept.path(stage, "cost", **names), {"commit": "a", "code": f"{stage} 1"})
    put(kept.path("defend", "cost", attack="badnet", defense="other", seed=0), {"commit": "x", "code": "x"})
    put(kept.path("evaluate", "cost", attack="blended", defense="tune", seed=0), {"seconds": 1})
    return kept


def job(kept, stage, **values):
    put(kept.path(stage, "cost", attack="badnet", defense="tune", seed=1, adaptation="full", detector="dao"), values)


def test_all_jobs_of_one_commit(kept):
    found = origin(kept, "badnet", "tune", ["0", "1"])
    assert (found["commit"], found["recorded"], len(found["code"])) == ("a", True, 16)
    assert origin(kept, "badnet", "tune", ["0"]) == found, "the same code behind fewer seeds"


@pytest.mark.parametrize("stage", ["clean_model", "trigger", "backdoored_model", "defend", "evaluate", "detect"])
def test_jobs_of_several_commits(kept, stage):
    before = origin(kept, "badnet", "tune", ["0", "1"])
    job(kept, stage, commit="b+changes", code=f"{stage} 1")
    found = origin(kept, "badnet", "tune", ["0", "1"])
    assert (found["commit"], found["code"]) == ("a, b+changes", before["code"])
    job(kept, stage, commit="b", code=f"{stage} 2")
    assert origin(kept, "badnet", "tune", ["0", "1"])["code"] != before["code"]


@pytest.mark.parametrize("stage", ["trigger", "evaluate", "persistence"])
def test_a_job_that_recorded_nothing(kept, stage):
    """Results of an earlier version, and a cost that is gone."""
    job(kept, stage, seconds=3)
    assert origin(kept, "badnet", "tune", ["0", "1"]) == {}
    assert origin(kept, "badnet", "tune", ["0"])["recorded"]
    assert origin(kept, "badnet", "none", ["0"]) == {}


def test_outside_of_a_checkout_there_is_code_and_no_commit(kept):
    for path in kept.results.rglob("cost.json"):
        put(path, {"commit": "", "code": "c"})
    for path in kept.results.rglob("*.cost.json"):
        put(path, {"commit": "", "code": "c"})
    assert origin(kept, "badnet", "tune", ["0"])["commit"] == ""


def test_a_file_has_the_commit_with_which_its_jobs_ran(board, tmp_path, monkeypatch):
    """Not that of the moment of writing, unless the jobs recorded none, as in earlier versions."""
    monkeypatch.setattr(checkout, "commit", lambda: "now+changes")
    kept = shutil.copytree(board.parent, tmp_path / "kept")
    for stage in ("badnet/seed{}/model", "badnet/seed{}/none"):
        for seed in made.VALUES:
            put(kept / "results/tiny" / stage.format(seed) / "cost.json", {"commit": f"run {seed}", "code": "c"})
    put(kept / "results/tiny/badnet/seed0/none/detect/dao/cost.json", {"commit": "run 0", "code": "d"})
    made.act("write", kept / "study.yaml", "--results", kept / "results", "--output", tmp_path / "board")
    found = {path.stem: read_result(path).hashes for path in (tmp_path / "board/open-1/tiny").iterdir()}
    assert (found["badnet--none"].commit, found["badnet--none"].recorded) == ("run 0, run 1", True)
    assert (found["badnet--finetune"].commit, found["badnet--finetune"].recorded) == ("now+changes", False)
