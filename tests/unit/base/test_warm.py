"""Jobs as forks of a process that has imported the large packages: they behave as jobs of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from antidote.base import warm

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks of a server are for Linux")
THREADS = dict.fromkeys(warm.THREADS, "1")
SHOW = """
import json, os, sys
mask = os.umask(0)
print(json.dumps({"arguments": sys.argv[1:], "folder": os.getcwd(), "mark": os.environ.get("MARK"), "mask": mask,
                  "name": __name__, "input": sys.stdin.read(), "warm": "open_clip" in sys.modules,
                  "files": sorted(os.listdir("/proc/self/fd"))[:4]}))
print("said to standard error", file=sys.stderr)
sys.exit(int(os.environ.get("CODE", 0)))
"""
WAIT = """
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1]).write_text("at work")
time.sleep(60)
"""
SCRIPTS = {
    "show": SHOW,
    "wait": WAIT,
    "fail": "raise ValueError('a fault')",
    "die": "import os; os.kill(os.getpid(), 9)",
}
SERVER = "from antidote.base import warm; warm.start(); import os; print(os.environ[warm.WARM], flush=True); input()"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "scripts").mkdir()
    (folder / "scripts/__init__.py").touch()
    for name, text in SCRIPTS.items():
        (folder / "scripts" / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def root():
    return Path(__file__).parents[3]


def variables(root: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in (warm.WARM, "PYTHONPATH")}
    return {**kept, **THREADS, "PYTHONPATH": str(root), **more}


@pytest.fixture(scope="module")
def server(root):
    parent = subprocess.Popen(
        [sys.executable, "-c", SERVER], env=variables(root), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        encoding="utf-8",
    )  # fmt: skip
    path = parent.stdout.readline().strip()
    yield path
    parent.communicate("\n")
    deadline = time.monotonic() + 10
    while Path(path).parent.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(path).parent.exists(), "the server ends with its parent, and removes its folder"


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "antidote.base.warm", name, *arguments]


def run(project: Path, root: Path, name: str, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(name, *arguments), cwd=project, env=variables(root, **more), capture_output=True, text=True,
        encoding="utf-8", input="told", check=False,
    )  # fmt: skip


def test_a_fork_is_as_a_process_of_its_own(project, root, server):
    own, fork = (
        run(project, root, "show", "--a", "ä b", MARK="x", CODE="3", **more) for more in ({}, {warm.WARM: server})
    )
    first, second = (json.loads(done.stdout) for done in (own, fork))
    assert second.pop("warm") and not first.pop("warm")
    assert first == second == {
        "arguments": ["--a", "ä b"], "folder": str(project), "mark": "x", "mask": first["mask"], "name": "__main__",
        "input": "told", "files": ["0", "1", "2", "3"],
    }  # fmt: skip
    assert (own.returncode, own.stderr) == (fork.returncode, fork.stderr) == (3, "said to standard error\n")


def test_an_edit_counts_from_the_next_job_on(project, root, server):
    file = project / "scripts/edited.py"
    for said in ("before", "after it"):
        file.write_text(f"print({said!r})", encoding="utf-8")
        assert run(project, root, "edited", **{warm.WARM: server}).stdout == f"{said}\n"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"OMP_NUM_THREADS": "2"}, id="several threads"),
        pytest.param({"LC_ALL": "C"}, id="another locale"),
        pytest.param({warm.WARM: "0"}, id="switched off"),
        pytest.param({warm.WARM: "/nowhere/jobs"}, id="no server"),
    ],
)
def test_elsewhere_a_job_is_a_process_of_its_own(project, root, server, other):
    done = run(project, root, "show", **{warm.WARM: server, **other})
    assert done.returncode == 0 and json.loads(done.stdout)["warm"] is False


@pytest.mark.parametrize(
    "name,code,said", [("fail", 1, "ValueError: a fault"), ("die", -9, ""), ("none", 1, "No module named")]
)
def test_an_end_by_a_fault_is_the_callers_end(project, root, server, name, code, said):
    for more in ({}, {warm.WARM: server}):
        done = run(project, root, name, **more)
        assert done.returncode == code and said in done.stderr


@pytest.mark.parametrize("number,code", [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_to_the_caller_ends_the_fork_after_it_has_saved(project, root, server, number, code, tmp_path):
    mark = tmp_path / "mark"
    caller = subprocess.Popen(command("wait", str(mark)), cwd=project, env=variables(root, **{warm.WARM: server}))
    told(mark, "at work")
    caller.send_signal(number)
    assert caller.wait(10) == code
    told(mark, "saved")


def told(mark: Path, word: str) -> None:
    deadline = time.monotonic() + 30
    while not (mark.exists() and mark.read_text(encoding="utf-8") == word):
        assert time.monotonic() < deadline, f"no {word!r}"
        time.sleep(0.02)


def test_jobs_run_side_by_side(project, root, server, tmp_path):
    marks = [tmp_path / "one", tmp_path / "two"]
    callers = [
        subprocess.Popen(command("wait", str(mark)), cwd=project, env=variables(root, **{warm.WARM: server}))
        for mark in marks
    ]
    for mark in marks:
        told(mark, "at work")
    callers[1].terminate()
    assert callers[1].wait(10) == 143 and callers[0].poll() is None
    callers[0].terminate()
    assert callers[0].wait(10) == 143


def test_without_linux_or_beside_another_server_nothing_is_started(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    monkeypatch.setenv(warm.WARM, "0")
    warm.start()
    monkeypatch.delenv(warm.WARM)
    monkeypatch.setattr(sys, "platform", "darwin")
    warm.start()
    assert warm.WARM not in os.environ
