"""The conda environments pin what the lock file pins."""

import re

import pytest
import yaml

from antidote.fingerprint import ROOT

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
