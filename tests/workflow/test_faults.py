"""Killed again and again at random moments, on a full disk, or run twice at once: nothing is lost, nothing half taken."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Driver, copy_project, environment, new_project, snakemake, study

KILLS = 20
CONFIG = "small.yaml"
CHANGES = {"attacks.blended": None, "defenses.ta_cleaner": None}
RESULTS = Path("results/tiny")
# Outputs whose content follows from settings and seed alone.
EXACT = {
    "manifest.json",
    "card.json",
    "trigger.json",
    "scores.json",
    "open_clip_config.json",
    "examples.png",
    "cells.csv",
}
EXACT_ENDS = (".safetensors", ".parquet", ".tar")


def small(project: Path) -> Path:
    """Write the tiny study with one attack and one defense into a project."""
    (project / CONFIG).write_text(study(project, CHANGES))
    return project


def start(project: Path, log: Path, *arguments: str, **more: object) -> subprocess.Popen:
    command = [Path(sys.executable).with_name("snakemake"), "--cores", "2", "--configfile", CONFIG, *arguments]
    with log.open("a", encoding="utf-8") as file:
        return subprocess.Popen(command, cwd=project, env=environment(ANTIDOTE_WARM="0"), stdout=file, stderr=file,
                                start_new_session=True, **more)  # fmt: skip


def names(project: Path) -> list[str]:
    """Return every finished-looking output; names with a dot in front are being written."""
    found = []
    for part in ("data/tiny", str(RESULTS)):
        for folder, inside, files in os.walk(project / part):
            inside[:] = [name for name in inside if not name.startswith(".") and name != "work"]
            found += [os.path.relpath(Path(folder, name), project) for name in files
                      if not name.startswith(".") and (name in EXACT or name.endswith(EXACT_ENDS))]  # fmt: skip
    return found


def outputs(project: Path) -> dict[str, bytes]:
    return {name: (project / name).read_bytes() for name in names(project)}


def remove(project: Path, *parts: str) -> None:
    for part in parts:
        shutil.rmtree(project / RESULTS / part)


@pytest.fixture(scope="module")
def reference(finished, tmp_path_factory) -> Iterator[Path]:
    """The small study, run undisturbed."""
    project = small(copy_project(finished, tmp_path_factory.mktemp("reference") / "project"))
    remove(project, "blended", "badnet/seed0/ta_cleaner", "summary")
    done = snakemake(project, "--cores", "2", config=CONFIG)
    assert done.returncode == 0, done.stdout
    yield project
    shutil.rmtree(project)


def test_killed_at_random_moments_it_ends_as_if_undisturbed(reference, tmp_path):
    """The kills are spread over the whole study: each waits for a share of it, then for a random while."""
    project, log = small(new_project(tmp_path / "project")), tmp_path / "log"
    expected, rng = outputs(reference), random.Random(0)
    whole = len(expected)
    unlock = Driver(project, "snakemake")
    killed = 0
    for number in range(KILLS):
        run = start(project, log)
        while run.poll() is None and len(names(project)) < whole * number // (KILLS + 2):
            time.sleep(0.1)
        time.sleep(rng.uniform(0.5, 5))
        killed += run.poll() is None
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        there = outputs(project)
        assert {name for name in there if there[name] != expected[name]} == set(), f"partial after kill {number}"
        code, said = unlock("snakemake", ["--unlock", "--configfile", CONFIG])
        assert code == 0, said
    unlock.close()
    assert killed == KILLS, log.read_text()[-3000:]
    done = snakemake(project, "--cores", "2", config=CONFIG)
    assert done.returncode == 0, done.stdout
    assert outputs(project) == expected
    assert (project / RESULTS / "summary/cells.csv").read_bytes() == (
        reference / RESULTS / "summary/cells.csv"
    ).read_bytes()
    assert not list((project / "results").rglob("*.tmp")) and not list((project / RESULTS / "work").glob("*"))
    assert "Nothing to be done" in snakemake(project, "-n", config=CONFIG).stdout


def test_a_full_disk_is_a_line_and_the_run_goes_on_from_there(reference, tmp_path):
    """The limit on file sizes stands for the full disk; the system reports both while a file is being written."""
    project, log = small(copy_project(reference, tmp_path / "project")), tmp_path / "log"
    remove(project, "badnet", "summary")
    limit = (2 << 20, 2 << 20)  # bytes; a model has more
    run = start(project, log, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert run.wait() != 0
    said = log.read_text()
    assert f"error: {RESULTS}/badnet/seed0/model: File too large; free or allow space there and run again" in said, said
    assert "Traceback" not in said
    assert (
        not list((project / RESULTS).rglob("*.tmp"))
        and not (project / RESULTS / "badnet/seed0/model/card.json").exists()
    )
    done = snakemake(project, "--cores", "2", config=CONFIG)
    assert done.returncode == 0, done.stdout
    assert outputs(project) == outputs(reference)


def test_a_second_run_in_one_folder_is_refused(reference, tmp_path):
    project, log = small(copy_project(reference, tmp_path / "project")), tmp_path / "log"
    remove(project, "badnet/seed0/floor", "summary")
    first = start(project, log)
    while not list((project / ".snakemake/locks").glob("*")) and first.poll() is None:
        time.sleep(0.01)
    second = snakemake(project, "--cores", "2", config=CONFIG)
    assert first.poll() is None, "still at work"
    assert second.returncode != 0 and "Directory cannot be locked" in second.stdout and "Traceback" not in second.stdout
    assert first.wait() == 0, log.read_text()
    assert outputs(project) == outputs(reference)
    assert "Nothing to be done" in snakemake(project, "-n", config=CONFIG).stdout
