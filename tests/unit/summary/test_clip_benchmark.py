"""Import of foreign evaluations: what replaces what, and what is refused."""

from __future__ import annotations

import json

import pytest

from antidote.base.errors import UserError
from scripts import results

FOREIGN = {"dataset": "x", "model": "RN50"}


@pytest.fixture(autouse=True)
def _anything(anything_goes):
    """The track open allows any model and evaluation set."""


def imported(folder, metrics, title="Paper A", place="", url="https://example.org", track="open", **facts):
    (folder / "one.json").write_text(json.dumps({**FOREIGN, **facts, "metrics": metrics}))
    words = ["--track", track, "--attack", "badnet", "--defense", "none", "--title", title, "--url", url]
    words += ["--place", place, "--output", str(folder / "board")]
    results.run(results.arguments().parse_args(["import", str(folder / "one.json"), *words]))
    [path] = (folder / "board").rglob("*.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"place": "Table 1"}, {"place": "Table 4"}),
        ({"url": "https://example.org/1"}, {"url": "https://example.org/2"}),
        ({"title": "投毒"}, {"title": "後門"}),
    ],
    ids=["another table", "another address", "titles without letters a to z"],
)
def test_a_result_of_another_source_is_not_replaced(tmp_path, first, second):
    imported(tmp_path, {"asr1": 0.9}, **first)
    with pytest.raises(UserError, match=f"is there already .*{next(iter(first.values()))}.*name another title"):
        imported(tmp_path, {"asr1": 0.1}, **second)
    assert imported(tmp_path, {"asr1": 0.8}, **first)["figures"]["asr1"]["mean"] == 0.8, "the same source again"


@pytest.mark.parametrize("value", ["0.9", True, None, [0.9]])
def test_a_metric_that_is_no_number_is_refused(tmp_path, value):
    with pytest.raises(UserError, match=r"one\.json: metrics\.asr1: should be a number, not "):
        imported(tmp_path, {"acc1": 0.5, "asr1": value})
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize("dataset", ["imagenet1k", "wds/imagenet1k", "imagenet"])
def test_an_evaluation_set_has_the_name_of_this_project(tmp_path, dataset):
    found = imported(tmp_path, {"acc1": 0.6}, track="paper", dataset=dataset)
    assert found["evaluation"] == "imagenet"
    [path] = (tmp_path / "board").rglob("*.json")
    for words in (["check", str(path)], ["clip-benchmark", str(path), "--output", str(tmp_path / "out")]):
        results.run(results.arguments().parse_args(words))
    [path] = (tmp_path / "out").iterdir()
    assert json.loads(path.read_text())["dataset"] == "imagenet1k", "the name of CLIP_benchmark"


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"dataset": "wds/cifar10"}, "one.json: evaluation: the track paper 1 has 'imagenet', not 'cifar10'"),
        ({"dataset": "imagenet1k", "model": "RN101"}, "one.json: model: the track paper 1 has "),
        ({"dataset": ["imagenet1k"]}, "one.json: dataset: should be a name, not ['imagenet1k']"),
    ],
)
def test_what_the_check_refuses_is_not_written(tmp_path, facts, says):
    with pytest.raises(UserError) as error:
        imported(tmp_path, {"acc1": 0.6}, track="paper", **facts)
    assert says in str(error.value) and not (tmp_path / "board").exists()


def test_an_open_dispute_stays(tmp_path):
    imported(tmp_path, {"asr1": 0.9})
    [path] = (tmp_path / "board").rglob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "disputed": "wrong seed"}))
    found = imported(tmp_path, {"asr1": 0.8})
    assert (found["disputed"], found["figures"]["asr1"]["mean"]) == ("wrong seed", 0.8)
