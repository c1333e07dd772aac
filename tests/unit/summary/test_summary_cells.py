"""Cells and costs of a summary: what was measured, and one line for a file that holds something else."""

import csv
import re

import pytest
from tiny_study import put

from antidote.base.errors import UserError
from antidote.summary.cells import read_cells
from antidote.summary.costs import read_costs
from antidote.summary.csv_files import read_frame, text, write_csv
from antidote.summary.plan import SummarySettings


def test_cells_follow_the_plan_and_leave_blank_what_was_not_run(plan, results):
    cells = read_cells(plan, results)
    names = ["attack", "defense", "seed", "ca1", "ca5", "asr1", "asr3", "asr5", "asr10"]
    names += ["asr1_all", "asr3_all", "asr5_all", "asr10_all", "pa", "pa_all", "floor"]
    assert list(cells.columns) == [*names, "target_ca1", "ca1_low", "ca1_high", "asr1_low", "asr1_high", "recall"]
    assert len(cells) == 2 + 2 * 4 * 2
    assert list(zip(cells["attack"], cells["defense"], cells["seed"], strict=True))[:5] == [
        *(("clean", "none", 0), ("clean", "none", 1)),
        *(("patch", "none", 0), ("patch", "none", 1), ("patch", "tune", 0)),
    ]
    filtered = cells[(cells["attack"] == "patch") & (cells["defense"] == "filter")]
    assert list(filtered["ca1"].isna()) == [False, True]
    assert list(filtered["floor"]) == [0.01, 0.03]
    assert cells.loc[cells["attack"] == "clean", ["asr1", "floor"]].isna().all(axis=None)
    assert list(cells["recall"].notna()) == list(cells["defense"] == "tune")


def test_csv_is_fixed_text(plan, results, tmp_path):
    write_csv(read_cells(plan, results), tmp_path / "cells.csv")
    data = (tmp_path / "cells.csv").read_bytes()
    assert b"\r" not in data
    lines = data.decode().splitlines()
    assert lines[1] == "clean,none,0,0.62,0.9,,,,,,,,,,,,,0.6,0.66,,,"
    assert lines[5] == "patch,tune,0,0.57,0.9,0.2,,,,,,,,,,0.01,,0.55,0.61,,,0.5"
    assert lines[-1] == "weak,filter,1,,,,,,,,,,,,,0.1,,,,,,"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, "1"), (0.0, "0"), (1 / 3, "0.333333333"), (float("nan"), ""), (12345678901, "12345678901"), (None, "")],
)
def test_numbers_in_csv(value, expected):
    assert text(value) == expected


def test_names_in_a_csv_stay_text_and_empty_fields_are_missing(tmp_path):
    (tmp_path / "costs.csv").write_text("attack,defense,detector,adaptation,seconds\nNA,1,2,10,\nb,01,,,3\n")
    frame = read_frame(tmp_path / "costs.csv")
    assert frame["attack"].tolist() == ["NA", "b"] and frame["defense"].tolist() == ["1", "01"]
    assert frame["detector"].iloc[0] == "2" and frame["detector"].isna().tolist() == [False, True]
    assert frame["adaptation"].iloc[0] == "10"
    assert frame["seconds"].isna().tolist() == [True, False] and frame["seconds"].iloc[1] == 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "should hold keys and values"),
        ('{"ca1": 61.5, "asr1": null}', "ca1: "),
        ('{"ca1": 0.5}', "asr1: is missing"),
        ('{"ca1": 0.5, "asr1": NaN}', "asr1: "),
        ('{"ca1": 0.5, "asr1": 0.5, "extra": {"pa": 1}}', "extra.pa: "),
    ],
)
def test_a_corrupt_score_is_one_line_that_names_the_file(plan, results, content, says):
    path = results / "patch/seed1/tune/scores.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_cells(plan, results)
    assert str(path) in str(error.value) and says in str(error.value) and "\n" not in str(error.value)


def test_a_blank_cell_of_the_plan_is_not_read(plan, results):
    put(results / "weak/seed0/filter/scores.json", {"ca1": 0.5, "asr1": 0.5})
    cells = read_cells(plan, results)
    assert cells[(cells["attack"] == "weak") & (cells["defense"] == "filter")]["asr1"].isna().all()


def test_none_is_always_in_the_matrix():
    plan = SummarySettings.read({"study": "s", "defenses": [{"name": "tune"}]}, "plan")
    assert [d.name for d in plan.defenses] == ["none", "tune"]
    assert [d.name for d in SummarySettings.read({"study": "s"}, "plan").defenses] == ["none"]


def test_an_unknown_key_of_the_plan_is_one_line():
    with pytest.raises(UserError, match="acuracy_budget: unknown key; did you mean 'accuracy_budget'"):
        SummarySettings.read({"study": "s", "acuracy_budget": 1}, "plan")


def test_costs_hold_what_was_run(plan, results, tmp_path):
    costs = read_costs(plan, results, tmp_path / "data")
    assert list(costs["stage"]) == ["dataset", "pretrain", "pretrain", "defend", "defend"]
    write_csv(costs, tmp_path / "costs.csv")
    with (tmp_path / "costs.csv").open() as file:
        rows = list(csv.reader(file))
    names = ["seconds", "peak_memory_bytes", "peak_gpu_memory_bytes", "trained_parameters", "pairs", "steps", "threads"]
    assert rows[0] == ["stage", "attack", "defense", "seed", *names, "device", "shared", "dataset"]
    assert rows[1] == ["dataset", "", "", "", "5", "", "", "", "", "", "", "", "", "scenes/train"]
    assert rows[2] == ["pretrain", "clean", "", "0", "100.5", "3221225472", "", "", "", "", "2", "a CPU", "", ""]
    assert rows[4] == ["defend", "patch", "tune", "0", "10", "", "", "38316897", "50", "", "", "", "1", ""]


def test_a_corrupt_cost_is_one_line_that_names_the_file(plan, results, tmp_path):
    path = results / "patch/seed0/model/cost.json"
    put(path, {"seconds": "long"})
    with pytest.raises(UserError, match=re.escape(f"{path}: seconds: ")):
        read_costs(plan, results, tmp_path / "data")
