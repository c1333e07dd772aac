"""Perturbation resistance from the study file to the page, and what it leaves as it was."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from harness import script, snakemake, study

PERTURBATIONS = ("trigger", "noise", "blur", "jitter", "flip")
VIT = {
    "model": {"name": "tiny-vit"},
    "pools.shots": {"split": "defense", "per_class": 1},
    "datasets.tiny.splits.defense": {"pairs": 300, "seed": 2},
    "evaluation.resistance": {"pictures": 20},
    "attacks.blended": None,
    "defenses": {"rvpt": {"method": "rvpt", "depth": 1, "prompts": 2, "tuning": {"epochs": 1, "batch_size": 12}}},
}


def test_it_adds_to_the_scores_and_changes_none(project):
    old = json.loads((project / "results/tiny/badnet/seed0/finetune/scores.json").read_text())
    settings = {"dataset": "tiny", "split": "test", "templates": "scenes", "bootstrap": 100, "classes": "scenes"}
    settings["resistance"] = {"pictures": 20}
    folder = project / "results/tiny/badnet/seed0"
    done = script(
        project, "evaluate", "--settings", json.dumps(settings), "--target", "banana", "--study", "tiny",
        "--attack", "badnet", "--defense", "finetune", "--model", folder / "finetune/model",
        "--trigger", folder / "trigger", "--output", project / "new.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    new = json.loads((project / "new.json").read_text())
    added = {name: new["extra"].pop(f"resistance_{name}") for name in PERTURBATIONS}
    assert new == old and all(-1 <= value <= 1 for value in added.values())


def test_from_the_study_to_the_page(project, quick_jobs):
    (project / "vit.yaml").write_text(study(project, VIT))
    done = snakemake(project, "--cores", "2", config="vit.yaml", jobs=quick_jobs)
    assert done.returncode == 0, done.stdout
    cells = pd.read_csv(project / "results/tiny/summary/cells.csv").set_index(["attack", "defense"])
    columns = [f"resistance_{name}" for name in PERTURBATIONS]
    assert cells.loc["badnet", [*columns, "floor_resistance"]].notna().all(axis=None)
    assert cells.loc[("clean", "none"), columns].notna().tolist() == [False, True, True, True, True]
    floor = json.loads((project / "results/tiny/badnet/seed0/floor/scores.json").read_text())
    wanted = floor["extra"]["floor_resistance"]
    assert cells.loc["badnet", "floor_resistance"].tolist() == pytest.approx([wanted] * 2, abs=1e-6)
    for defense in ("floor", "none", "rvpt"):
        scores = json.loads((project / f"results/tiny/badnet/seed0/{defense}/scores.json").read_text())
        assert {name: len(layers) for name, layers in scores["resistance_layers"].items()} == dict.fromkeys(
            PERTURBATIONS, 4
        )
    page = project / "page.md"
    page.write_text("before\n<!-- resistance:start -->\nold\n<!-- resistance:end -->\n![plane](page.png)\n")
    done = script(project, "pages", "--study", "vit.yaml", "--table", "resistance", "--page", page)
    assert done.returncode == 0, done.stdout
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("![plane](page.png)\n") and "old" not in text
    assert not page.with_suffix(".png").exists()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| BadNet")]
    assert [row[1] for row in rows] == ["clean reference", "none", "rvpt"]
    figures = [f"{value:.3f}" for value in cells.loc[("badnet", "rvpt"), columns]]
    assert rows[2][2:7] == figures and len(rows[2][7].split(", ")) == 4
    assert rows[0][2] == f"{wanted:.3f}"


def test_a_study_without_it_has_no_such_table(project):
    page = project / "page.md"
    page.write_text("<!-- resistance:start -->\n<!-- resistance:end -->\n")
    done = script(project, "pages", "--study", "tests/studies/tiny.yaml", "--table", "resistance", "--page", page)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert "cells.csv: has no perturbation resistance; the study needs evaluation.resistance" in done.stdout
