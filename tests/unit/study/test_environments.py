"""The conda environments pin what the lock file pins."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from antidote.base.fingerprint import ROOT

# `name==version`, for Python 3.12 where the lock tells versions of Python apart.
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)(?: ; (.*?))? \\$", re.MULTILINE)


def locked(file: str = "requirements.lock") -> dict[str, str]:
    found = PIN.findall((ROOT / file).read_text())
    return {_plain(name): version for name, version, where in found if "python_full_version < '3.12'" not in where}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_of_the_cluster_holds_the_plugin_and_nothing_of_the_other_lock():
    """Its environment lies over the other one; a second version of a package there would hide the first."""
    added = {_plain(name) for name, *_ in PIN.findall((ROOT / "requirements-cluster.lock").read_text())}
    assert "snakemake-executor-plugin-slurm" in added
    assert not added & set(locked())


LOCKS = {
    "train.yaml": "requirements.lock",
    "workflow.yaml": "requirements.lock",
    "download.yaml": "requirements-download.lock",
}


def test_every_environment_has_a_lock():
    assert {path.name for path in (ROOT / "envs").iterdir()} == set(LOCKS)


@pytest.mark.parametrize("file", LOCKS)
def test_pins_are_those_of_the_lock(file):
    environment = yaml.safe_load((ROOT / "envs" / file).read_text())
    pins = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    known = locked(LOCKS[file])
    for pin in pins:
        name, version = pin.split("==")
        assert known.get(_plain(name)) == version, f"{pin}: the lock has {known.get(_plain(name))}"
    assert "python=3.12" in environment["dependencies"]


# --- the cluster's sacct, which stands before Slurm's -----------------------------------------------------------------

STATES = ("-X", "--parsable2", "--noheader", "--format=JobIdRaw,State", "--endtime", "now", "--name", "run-1")


TOOLS = ("sh", "dirname", "tr", "grep", "paste", "mktemp", "cat", "rm", "env")


def ask(
    folder: Path, *question: str, slurms: str | None, squeue: str = 'echo "squeue $*"'
) -> subprocess.CompletedProcess:
    """Ask the cluster's sacct in a folder where Slurm's commands are what is given, and no others are installed."""
    for name in TOOLS:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(shutil.which(name))
    for name, text in (("squeue", squeue), ("sacct", slurms)):
        if text:
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
    path = os.pathsep.join([str(ROOT / "profiles/slurm"), str(folder)])
    program = ROOT / "profiles/slurm/sacct"
    return subprocess.run([program, *question], env={"PATH": path}, capture_output=True, text=True, check=False)


def test_where_accounts_are_kept_slurms_sacct_answers(tmp_path):
    done = ask(tmp_path, *STATES, slurms='echo "sacct $*"; echo careful >&2; exit 3')
    assert (done.stdout, done.stderr, done.returncode) == (f"sacct {' '.join(STATES)}\n", "careful\n", 3)


@pytest.mark.parametrize("slurms", [None, "echo Slurm accounting storage is disabled >&2; exit 1"])
def test_where_none_are_kept_squeue_answers_about_states(tmp_path, slurms):
    done = ask(tmp_path, *STATES, slurms=slurms)
    assert (done.stdout, done.stderr) == ("squeue --format=%i|%T --states=all --noheader --name run-1\n", "")
    reason = ask(tmp_path, "-j", "5.0", "--format=Reason", "--noheader", slurms=slurms)
    assert (reason.stdout, reason.stderr, reason.returncode) == ("", "", 0)


def test_an_answer_that_squeue_cannot_give_is_a_failure(tmp_path):
    """The plugin asks again after a failure; an empty answer it believes."""
    done = ask(tmp_path, *STATES, slurms=None, squeue="exit 1")
    assert done.returncode == 1
