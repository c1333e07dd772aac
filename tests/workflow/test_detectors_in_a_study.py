"""Detectors of all three subjects through the whole chain, and what a change of one of them reruns."""

from __future__ import annotations

import copy
import json

import pandas as pd
import pytest
from harness import scheduled, script, snakemake, study

CHANGES = {
    "attacks": {"badnet": {"method": "badnet", "label": "BadNet", "location": "bottom-right", "patch_size": 6, "poisons": 24}},
    "detectors": {
        "dao": {"method": "dao", "k": 4, "batch_size": 64},
        "guess": {"method": "random", "subject": "model"},
        "shown": {"method": "random", "subject": "pictures"},
    },
    "detect_pictures": 40,
}  # fmt: skip
NAMES = ["dao", "guess", "shown", "random_pairs", "oracle_pairs", "oracle_model", "oracle_pictures"]


@pytest.fixture(scope="module")
def detected(finished, tmp_path_factory):
    """The finished tiny study with detectors added, run to its end; what ran."""
    from harness import copy_project

    project = copy_project(finished, tmp_path_factory.mktemp("detectors") / "project")
    (project / "study.yaml").write_text(study(project, CHANGES))
    cells = (project / "results/tiny/summary/cells.csv").read_text()
    planned = scheduled(project, config="study.yaml")
    done = snakemake(project, "--cores", "2", config="study.yaml")
    assert done.returncode == 0, done.stdout
    return project, planned, cells


def test_detectors_run_beside_what_is_there(detected):
    """No other job runs again, the cells stay as they are, and the figures of both controls are what they must be."""
    project, planned, cells = detected
    clean = {f"detect_clean 0 {name}" for name in ("guess", "oracle_model")}
    assert {" ".join(sorted(job.split())) for job in planned} == {
        " ".join(sorted(job.split()))
        for job in {*clean, *(f"detect badnet 0 none {name}" for name in NAMES), "summary"}
    }
    folder = project / "results/tiny/summary"
    kept = [line for line in cells.splitlines() if not line.startswith("blended")]
    assert (folder / "cells.csv").read_text().splitlines() == kept
    found = pd.read_csv(folder / "detections.csv").set_index("detector")
    assert set(found.index) == set(NAMES)
    assert (found.loc[["oracle_pairs", "oracle_pictures"], "auroc"] == 1).all()
    over = found.loc["oracle_model"].query("seed.isna()")
    assert over[["auroc", "items", "poisoned", "precision", "recall"]].to_numpy().tolist() == [[1, 2, 1, 1, 1]]
    assert 0.3 < found.loc["random_pairs", "auroc"] < 0.7
    assert found.loc["dao", ["items", "poisoned"]].tolist() == [384, 24] and 0 <= found.loc["dao", "auroc"] <= 1
    assert found.loc["shown", ["items", "poisoned"]].tolist() == [80, 40]
    scores = pd.read_parquet(project / "results/tiny/badnet/seed0/none/detect/dao/scores.parquet")
    assert list(scores.columns) == ["item", "score"] and scores["item"].str.startswith("tiny/train/").all()
    costs = pd.read_csv(folder / "costs.csv")
    assert (costs["stage"] == "detect").sum() == 9 and set(costs["detector"].dropna()) == set(NAMES)


def test_the_tables_hold_them(detected):
    folder = detected[0] / "results/tiny/summary"
    text, page = (folder / "table.md").read_text(), (folder / "report.html").read_text()
    for title in ("Detectors of backdoored models", "Detectors of poisoned training pairs",
                  "Detectors of triggered pictures"):  # fmt: skip
        assert f"## {title}" in text and title in page
    assert "| oracle_pairs, control | 100.0 / 100.0 |" in text
    assert (folder / "detection.png").stat().st_size > 5000 and (folder / "roc.png").stat().st_size > 5000


@pytest.mark.parametrize(("change", "jobs"), [
    ({"detectors.dao.k": 5}, {"detect", "summary"}),
    ({"detect_pictures": 30}, {"detect", "summary"}),
    ({"detectors.dao.label": "Other"}, {"summary"}),
])  # fmt: skip
def test_a_change_of_a_detector_reruns_its_job_and_the_summary(detected, change, jobs):
    project = detected[0]
    (project / "changed.yaml").write_text(study(project, copy.deepcopy({**CHANGES, **change})))
    planned = scheduled(project, config="changed.yaml")
    assert {job.split()[0] for job in planned} == jobs
    named = {name for job in planned for name in NAMES if name in job.split()}
    expected = {"detectors.dao.k": {"dao"}, "detect_pictures": {"shown", "oracle_pictures"}}
    assert named == expected.get(next(iter(change)), set())


def test_a_detector_that_is_no_more_is_a_leftover(detected):
    project = detected[0]
    fewer = {**CHANGES, "detectors": {"dao": CHANGES["detectors"]["dao"]}}
    (project / "fewer.yaml").write_text(study(project, fewer))
    done = script(project, "collect", "--configfile", "fewer.yaml")
    assert done.returncode == 0, done.stdout
    assert "results/tiny/badnet/seed0/none/detect/shown" in done.stdout and "detect/dao" not in done.stdout
    assert "results/tiny/clean/seed0/none/detect/guess" in done.stdout


def test_what_is_detected_says_what_it_is(detected):
    path = detected[0] / "results/tiny/badnet/seed0/none/detect/dao/detection.json"
    values = json.loads(path.read_text())
    assert (values["attack"], values["defense"], values["detector"], values["method"]) == (
        "badnet",
        "none",
        "dao",
        "dao",
    )
    assert len(values["roc"]) == 201 and values["roc"][-1] == 1
