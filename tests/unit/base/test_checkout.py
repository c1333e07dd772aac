"""Which code a job runs: commit and fingerprint, as `cost.json` has them."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from antidote.base import checkout, command_line
from antidote.base.fingerprint import edited, fingerprint, remembered
from antidote.base.registry import KINDS


def git(folder, *words):
    own = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *own, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A checkout of its own with one commit."""
    for name in ("antidote/loss.py", "docs/page.md", "data/models/tiny.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "marked"),
    [("antidote/loss.py", True), ("data/models/tiny.json", True), ("docs/page.md", False), ("mine.yaml", False)],
)
def test_the_commit_says_whether_the_code_differs_from_it(project, name, marked):
    first = git(project, "rev-parse", "HEAD")
    assert checkout.commit() == first and len(first) == 40
    (project / name).write_text("2\n")
    assert checkout.commit() == first + ("+changes" if marked else "")
    git(project, "add", ".")
    git(project, "commit", "-qm", "second")
    assert checkout.commit() == git(project, "rev-parse", "HEAD") != first


def test_no_commit_outside_of_a_checkout_of_the_project(project, monkeypatch):
    """As a package that is installed below another project's checkout."""
    monkeypatch.setattr(checkout, "ROOT", project / "antidote")
    assert checkout.commit() == ""


def test_no_commit_before_the_first_one(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    assert checkout.commit() == ""


def test_no_commit_without_git(project, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert checkout.commit() == ""


def test_the_code_is_that_of_the_script_and_its_methods(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkout, "process_start", time.time)  # what was edited while the tests ran does not count
    for name in {place.partition(":")[0] for table in KINDS.values() for place in table.values()}:
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert checkout.code() == "", "pytest runs, no script"
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=SimpleNamespace(name="scripts.poison")))
    assert checkout.code() == fingerprint("scripts.poison")
    monkeypatch.setitem(sys.modules, "antidote.attacks.wanet", SimpleNamespace())
    assert checkout.code() == fingerprint("scripts.poison", "antidote.attacks.wanet") != fingerprint("scripts.poison")
    assert not (tmp_path / ".snakemake").exists(), "a script by itself keeps no memory of fingerprints"


def test_a_source_that_is_gone_was_edited(monkeypatch):
    monkeypatch.setattr("antidote.base.fingerprint._covered", {"antidote.base.naming"})
    assert not edited(time.time())
    monkeypatch.setattr("antidote.base.fingerprint._covered", {"antidote.base.naming", "antidote.base.removed"})
    assert edited(time.time())


def test_a_fingerprint_is_kept_for_the_next_job_of_the_workflow(monkeypatch, tmp_path):
    """Parsing the sources takes time."""
    monkeypatch.setattr("antidote.base.fingerprint._memory", {})
    monkeypatch.setattr("antidote.base.fingerprint._used", set())
    fingerprint.cache_clear()
    (tmp_path / "kept").mkdir()
    found = remembered(tmp_path / "kept/sources.json", "antidote.base.naming")
    assert found in json.loads((tmp_path / "kept/sources.json").read_text()).values()
    remembered(tmp_path / "none/sources.json", "antidote.base.files")
    assert not (tmp_path / "none").exists()


def test_a_job_records_the_commit_of_its_start(project, tmp_path):
    first, cost = checkout.commit(), command_line.Cost()
    (project / "antidote/loss.py").write_text("2\n")
    cost.write(tmp_path / "cost.json")
    assert json.loads((tmp_path / "cost.json").read_text())["commit"] == first
    assert "commit" not in command_line.Cost().write(None), "figures of a scan"
