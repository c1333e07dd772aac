"""Import of foreign evaluations: what replaces what, and what is refused."""

from __future__ import annotations

import json

import pytest

from antidote.base.errors import UserError
from scripts import results

FOREIGN = {"dataset": "x", "model": "RN50"}


def imported(folder, metrics, title="Paper A", place="", url="https://example.org"):
    (folder / "one.json").write_text(json.dumps({**FOREIGN, "metrics": metrics}))
    words = ["--track", "open", "--attack", "badnet", "--defense", "none", "--title", title, "--url", url]
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
