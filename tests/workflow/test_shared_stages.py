"""A second checkout, and a second study with stages in common, take them from the shared place."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from harness import STUDY, environment, new_project, study

RESULTS = Path("results/tiny")
SHARED = {"clean_model", "trigger", "poison", "backdoored_model", "defend"}


def run(project: Path, place: Path, config: str = STUDY, prefix: tuple[str, ...] = ()) -> tuple[str, set[str]]:
    """Run a study with a shared place; return what Snakemake said and the stages whose log says that they were taken."""
    logs = project / "results"
    done = subprocess.run(
        [*prefix, Path(sys.executable).with_name("snakemake"), "--cores", "2", "--configfile", config],
        cwd=project, env=environment(ANTIDOTE_CACHE=str(place)), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout, {path.stem for path in logs.rglob("logs/*.log") if f"taken from {place}" in path.read_text()}


def contents(project: Path, results: Path = RESULTS) -> dict[str, bytes]:
    """Return what must not differ: models, cards, triggers, poison, and the cells of the summary."""
    folder = project / results
    names = ["*.safetensors", "card.json", "trigger.json", "manifest.parquet", "poisoned.tar", "cells.csv"]
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in folder.rglob(name)}


@pytest.fixture(scope="module")
def filled(finished, tmp_path_factory):
    """A checkout whose run has filled the shared place, and that place."""
    folder = tmp_path_factory.mktemp("shared")
    project = new_project(folder / "first")
    shutil.copytree(finished / "data/tiny", project / "data/tiny")
    said, taken = run(project, folder / "place")
    assert taken == set() and "not shared" not in said
    yield project, folder / "place"
    shutil.rmtree(folder)


def test_sharing_changes_no_result(filled, finished):
    assert contents(filled[0]) == contents(finished) and len(contents(finished)) > 20


def test_a_second_checkout_takes_every_expensive_stage(filled, tmp_path):
    first, place = filled
    second = new_project(tmp_path / "another" / "checkout")
    _, taken = run(second, place)
    assert taken == {
        "clean-seed0-model",
        *(f"{attack}-seed0-{stage}" for attack in ("badnet", "blended") for stage in ("trigger", "poison", "model")),
        *(
            f"{attack}-seed0-{defense}-model"
            for attack in ("badnet", "blended")
            for defense in ("finetune", "ta_cleaner")
        ),
    }
    assert contents(second) == contents(first)
    assert "Nothing to be done" in snakemake_dry(second, place)
    first_cost, cost = (json.loads((p / RESULTS / "badnet/seed0/model/cost.json").read_text()) for p in (first, second))
    assert cost == {**first_cost, "shared": True}
    with (second / RESULTS / "summary/costs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["stage"] for row in rows if row["shared"]} == {"pretrain", "trigger", "poison", "backdoor", "defend"}


def snakemake_dry(project: Path, place: Path) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("snakemake"), "-n", "--configfile", STUDY],
        cwd=project, env=environment(ANTIDOTE_CACHE=str(place)), text=True, capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_a_second_study_takes_what_it_has_in_common(filled, tmp_path):
    """Another name, other labels, another defense: the models are the same. Another poison rate: its attack is not."""
    first, place = filled
    project = new_project(tmp_path / "project")
    shutil.copytree(first / "data/tiny", project / "data/tiny")
    changes = {
        "study": "other", "attacks.badnet.label": "Other words", "attacks.blended.poisons": 20,
        "defenses.ta_cleaner": None, "defenses.finetune.training.lr": 2e-3,
    }  # fmt: skip
    (project / "other.yaml").write_text(study(project, changes))
    _, taken = run(project, place, "other.yaml")
    assert taken == {
        "clean-seed0-model", "badnet-seed0-trigger", "badnet-seed0-poison", "badnet-seed0-model", "blended-seed0-trigger",
    }  # fmt: skip
    mine, theirs = contents(project, Path("results/other")), contents(first)
    for name in ("clean/seed0/model", "badnet/seed0/model"):
        weights = f"{name}/open_clip_model.safetensors"
        assert mine[weights] == theirs[weights]


def test_a_change_of_the_source_takes_nothing_that_it_reaches(filled, tmp_path):
    first, place = filled
    project = new_project(tmp_path / "project")
    shutil.copytree(first / "data/tiny", project / "data/tiny")
    source = project / "antidote/attacks/badnet.py"
    source.write_text(source.read_text() + "\n_CHANGED = 1\n")
    _, taken = run(project, place)
    names = {name for name in taken if name.startswith("badnet")}
    # The trigger and the poisoned pairs are made anew, and turn out the same: so do not the models trained on them.
    assert names == {"badnet-seed0-model", "badnet-seed0-finetune-model", "badnet-seed0-ta_cleaner-model"}
    assert {name for name in taken if name.startswith("blended")} == {
        f"blended-seed0-{stage}" for stage in ("trigger", "poison", "model", "finetune-model", "ta_cleaner-model")
    }


def without_override() -> tuple[str, ...]:
    """Return what makes file modes bind the superuser too."""
    if os.geteuid():
        return ()
    if not shutil.which("setpriv"):
        pytest.skip("the superuser may write anywhere, and setpriv is not there")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def test_a_place_for_reading_only_serves_and_warns(filled, tmp_path):
    first, place = filled
    prefix = without_override()
    readable = shutil.copytree(place, tmp_path / "place")
    for entry in (readable / "defend").iterdir():
        shutil.rmtree(entry)  # something is to be made
    before = {path: path.read_bytes() for path in readable.rglob("*") if path.is_file()}
    modes(readable, 0o555)
    project = new_project(tmp_path / "project")
    shutil.copytree(first / "data/tiny", project / "data/tiny")
    try:
        said, taken = run(project, readable, prefix=prefix)
    finally:
        modes(readable, 0o755)
    assert {name for name in taken if name.endswith("-model")} == {
        f"{a}-seed0-model" for a in ("clean", "badnet", "blended")
    }
    warnings = re.findall(rf"ANTIDOTE_CACHE: {readable}: .*; this result is not shared", said)
    assert len(warnings) == 4 and "Permission denied" in warnings[0], said
    assert contents(project) == contents(first)
    assert {path: path.read_bytes() for path in readable.rglob("*") if path.is_file()} == before


def modes(folder: Path, mode: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(stat.S_IMODE(mode))
