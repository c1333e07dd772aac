"""A job whose sources are edited while it runs: no record claims that it ran the code that is on disk at its end."""

import shutil
import subprocess
import sys
import time

import pytest

from antidote.base import machine, warm
from antidote.base.fingerprint import ROOT
from tests.unit.base import test_warm as made

process, root, server = made.process, made.root, made.server  # of the server that forks jobs

JOB = """
import os, sys
from pathlib import Path
from antidote.attacks import badnet
from antidote.base.command_line import Cost

cost = Cost()
method, other = Path("antidote/attacks/badnet.py"), Path("antidote/attacks/sig.py")
exec(sys.argv[1])
print(cost.write(Path("cost.json"))["code"])
"""


@pytest.fixture
def project(tmp_path):
    """The base of the project with two methods and a job of one of them; a file of the other's next version."""
    shutil.copytree(ROOT / "antidote/base", tmp_path / "antidote/base", ignore=shutil.ignore_patterns("__pycache__"))
    texts = {"antidote/attacks/badnet": "A = 1\n", "antidote/attacks/sig": "A = 1\n", "next": "A = 2\n"}
    texts |= {"scripts/job": JOB} | dict.fromkeys([f"{name}/__init__" for name in ("antidote", "antidote/attacks")], "")
    texts["scripts/__init__"] = ""
    for name, text in texts.items():
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def code(project, what="", **more):
    words = [sys.executable, "-m", "antidote.base.warm", "job", what]
    done = subprocess.run(
        words, cwd=project, env=made.variables(project, **more), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("what", "recorded"),
    [
        ("", True),
        ("other.write_text('A = 2')", True),
        ("other.unlink()", True),
        ("method.write_text('A = 2')", False),
        ("method.unlink()", False),
        pytest.param("os.utime('next.py', (0, 0)); os.rename('next.py', method)", False, id="moved there"),
        pytest.param("method.write_text('A = 2'); method.write_text('A = 1')", False, id="edited and undone"),
    ],
)
def test_the_code_is_recorded_only_if_it_is_the_one_that_ran(project, what, recorded):
    assert len(code(project, what)) == (16 if recorded else 0)


def test_a_fork_started_when_it_was_forked(project, server):
    """And not when its server started: a fork imports the project's code itself."""
    first = code(project, **{warm.WARM: server})
    (project / "antidote/attacks/badnet.py").write_text("A = 2\n")  # while the server runs
    second = code(project, **{warm.WARM: server})
    assert len(first) == len(second) == 16 and first != second
    assert code(project, "method.write_text('A = 3')", **{warm.WARM: server}) == ""


def test_the_start_of_a_process(monkeypatch, tmp_path):
    asked = "from antidote.base import machine; print(machine.process_start())"
    before = time.time()
    started = float(subprocess.run([sys.executable, "-c", asked], capture_output=True, cwd=ROOT, check=True).stdout)
    assert before - 0.1 <= started <= time.time() and machine.process_start() < before
    monkeypatch.setattr(machine, "PROCESS", tmp_path / "none")
    assert machine.process_start() == machine.LOADED, "on other systems"
