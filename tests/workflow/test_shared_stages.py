"""A second checkout, and a second study with stages in common, take them from the shared place."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import environment, new_project, study

RESULTS = Path("results/tiny")
STAGES = {"clean-seed0-model", "badnet-seed0-trigger", "badnet-seed0-poison", "badnet-seed0-model",
          "badnet-seed0-finetune-model"}  # fmt: skip


def checkout(folder: Path, data: Path, **changes: object) -> Path:
    """Make a project with the tiny study's data, and in `study.yaml` the study with one attack and one defense."""
    project = new_project(folder)
    shutil.copytree(data / "data/tiny", project / "data/tiny")
    small = {"attacks.blended": None, "defenses.ta_cleaner": None}
    (project / "study.yaml").write_text(
        study(project, {**small, **{key.replace("__", "."): changes[key] for key in changes}})
    )
    return project


def run(
    project: Path, place: Path, *arguments: str, prefix: tuple[str, ...] = (), jobs: dict[str, str] | None = None
) -> tuple[str, set[str]]:
    """Run a study with a shared place; return what Snakemake said and the stages whose log says that they were taken."""
    done = subprocess.run(
        [*prefix, Path(sys.executable).with_name("snakemake"), *arguments, "--cores", "2", "--configfile", "study.yaml"],
        cwd=project, env=environment(ANTIDOTE_CACHE=str(place), **jobs or {}), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    logs = (project / "results").rglob("logs/*.log")
    return done.stdout, {path.stem for path in logs if f"taken from {place}" in path.read_text()}


def contents(project: Path, results: Path = RESULTS) -> dict[str, bytes]:
    """Return what must not differ: models, cards, triggers, poisoned pairs."""
    folder = project / results
    names = ["*.safetensors", "card.json", "trigger.json", "manifest.parquet", "poisoned.tar"]
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in folder.rglob(name)}


@pytest.fixture(scope="module")
def filled(finished, quick_jobs, tmp_path_factory):
    """A checkout whose run has filled the shared place, and that place."""
    folder = tmp_path_factory.mktemp("shared")
    project = checkout(folder / "first", finished)
    said, taken = run(project, folder / "place", "models", jobs=quick_jobs)
    assert taken == set() and "not shared" not in said
    yield project, folder / "place"
    shutil.rmtree(folder)


def test_sharing_changes_no_result(filled, finished):
    mine, theirs = contents(filled[0]), contents(finished)
    assert len(mine) == 13 and mine == {name: theirs[name] for name in mine}


def test_a_second_checkout_takes_every_expensive_stage(filled, finished, quick_jobs, tmp_path):
    first, place = filled
    second = checkout(tmp_path / "another" / "checkout", finished)
    _, taken = run(second, place, jobs=quick_jobs)
    assert taken == STAGES and contents(second) == contents(first)
    assert "Nothing to be done" in run(second, place, "-n")[0]
    first_cost, cost = (json.loads((p / RESULTS / "badnet/seed0/model/cost.json").read_text()) for p in (first, second))
    assert cost == {**first_cost, "shared": True}
    with (second / RESULTS / "summary/costs.csv").open() as file:
        shared = {row["stage"] for row in csv.DictReader(file) if row["shared"]}
    assert shared == {"pretrain", "trigger", "poison", "backdoor", "defend"}
    scores = "badnet/seed0/finetune/scores.json"
    assert (second / RESULTS / scores).read_bytes() == (finished / RESULTS / scores).read_bytes()


def test_a_second_study_takes_what_it_has_in_common(filled, finished, quick_jobs, tmp_path):
    """Another name and other labels change no model; another learning rate of a defense changes its own."""
    first, place = filled
    changes = {"study": "other", "attacks__badnet__label": "Other words", "defenses__finetune__training__lr": 2e-3}
    project = checkout(tmp_path / "project", finished, **changes)
    _, taken = run(project, place, "models", jobs=quick_jobs)
    assert taken == STAGES - {"badnet-seed0-finetune-model"}
    mine, theirs = contents(project, Path("results/other")), contents(first)
    assert {name for name in theirs if mine[name] != theirs[name]} == {
        f"badnet/seed0/finetune/model/{name}" for name in ("card.json", "open_clip_model.safetensors")
    }


def test_a_change_of_the_source_takes_nothing_that_it_reaches(filled, finished, quick_jobs, tmp_path):
    """The trigger and the poisoned pairs are made anew, turn out the same, and so the models serve that they led to."""
    first, place = filled
    project = checkout(tmp_path / "project", finished)
    source = project / "antidote/attacks/badnet.py"
    source.write_text(source.read_text() + "\n_CHANGED = 1\n")
    _, taken = run(project, place, "models", jobs=quick_jobs)
    assert taken == STAGES - {"badnet-seed0-trigger", "badnet-seed0-poison"} and contents(project) == contents(first)


def without_override() -> tuple[str, ...]:
    """Return what makes file modes bind the superuser too."""
    if os.geteuid():
        return ()
    if not shutil.which("setpriv"):
        pytest.skip("the superuser may write anywhere, and setpriv is not there")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def test_a_place_for_reading_only_serves_and_warns(filled, finished, tmp_path):
    prefix = without_override()
    first, place = filled
    readable = shutil.copytree(place, tmp_path / "place")
    shutil.rmtree(readable / "defend")  # something is to be made
    before = {path: path.read_bytes() for path in readable.rglob("*") if path.is_file()}
    project = checkout(tmp_path / "project", finished)
    modes(readable, 0o555)
    try:
        said, taken = run(project, readable, "models", prefix=prefix)
    finally:
        modes(readable, 0o755)
    assert taken == STAGES - {"badnet-seed0-finetune-model"} and contents(project) == contents(first)
    assert len(re.findall(rf"ANTIDOTE_CACHE: {readable}: Permission denied; this result is not shared", said)) == 1, (
        said
    )
    assert {path: path.read_bytes() for path in readable.rglob("*") if path.is_file()} == before


def modes(folder: Path, mode: int) -> None:
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        path.chmod(mode)
