"""Jobs as forks of a process that has imported the large packages: they behave as jobs of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from antidote.base import warm

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks of a server are for Linux")
PATIENCE = 120  # seconds; an interpreter with torch in it takes long to end on a busy machine
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
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # each thread of a parent that ends may send one
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1]).write_text("at work")
time.sleep(60)
"""
VARIABLES = """
import json, os, signal, sys, tempfile, open_clip, pandas, torchvision.transforms.v2
kept = {key: value for key, value in os.environ.items() if key != "ANTIDOTE_WARM"}
fork = b"--serve" in open("/proc/self/cmdline", "rb").read()
print(json.dumps({"fork": fork, "environment": kept, "temporary": tempfile.gettempdir(),
                  "interrupts": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
                  "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
                  "child": signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL}))
"""
SCRIPTS = {
    "variables": VARIABLES,
    "show": SHOW,
    "wait": WAIT,
    "fail": "raise ValueError('a fault')",
    "die": "import os; os.kill(os.getpid(), 9)",
}
SERVER = """
import os
from antidote.base import warm
warm.start()
print(os.environ[warm.WARM], warm.STARTED[0].pid, flush=True)
input()
"""


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


@contextlib.contextmanager
def started(root: Path, **more: str):
    """Start a server; yield the path of its socket and its process number."""
    parent = subprocess.Popen(
        [sys.executable, "-c", SERVER], env=variables(root, **more), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, encoding="utf-8",
    )  # fmt: skip
    path, process = parent.stdout.readline().rsplit(maxsplit=1)
    yield path, int(process)
    parent.communicate("\n")
    deadline = time.monotonic() + PATIENCE
    while Path(path).parent.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(path).parent.exists(), "the server ends with its parent, and removes its folder"


@pytest.fixture(scope="module")
def process(root, tmp_path_factory):
    """A server in a folder for temporary files whose path is longer than a socket's address."""
    folder = tmp_path_factory.mktemp("ü " + 120 * "x")
    with started(root, TMPDIR=str(folder)) as (path, number):
        assert folder in Path(path).parents
        yield path, number


@pytest.fixture(scope="module")
def server(process):
    return process[0]


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


def test_a_fork_has_the_callers_variables_and_those_that_packages_set(project, root, server, tmp_path):
    more = {"MARK": "\udcff ä", "TMPDIR": str(tmp_path)}
    own, fork = (json.loads(run(project, root, "variables", **more, **way).stdout) for way in ({}, {warm.WARM: server}))
    assert fork.pop("fork") and not own.pop("fork")
    for found in (own, fork):  # a folder in TMPDIR, which torch names when it is imported
        assert found["environment"].pop("TORCHINDUCTOR_CACHE_DIR", "absent")
    assert own == fork and own["temporary"] == str(tmp_path) and own["blocked"] == 0


def test_a_caller_that_ignores_ctrl_c_has_a_fork_that_does(project, root, server):
    """As commands in the background of a shell script do."""
    shell = ["/bin/sh", "-c", f"trap '' INT; exec {' '.join(command('variables'))}"]
    done = subprocess.run(
        shell, cwd=project, env=variables(root, **{warm.WARM: server}), capture_output=True, check=True
    )
    assert json.loads(done.stdout)["interrupts"] is False


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
    assert caller.wait(PATIENCE) == code
    told(mark, "saved")


def told(mark: Path, word: str) -> None:
    deadline = time.monotonic() + PATIENCE
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
    ended = (143, -signal.SIGTERM)  # the latter where the fork is at work before the caller has its handler
    callers[1].terminate()
    assert callers[1].wait(PATIENCE) in ended and callers[0].poll() is None
    callers[0].terminate()
    assert callers[0].wait(PATIENCE) in ended


def test_a_caller_that_ends_while_it_calls_ends_neither_the_server_nor_runs_on(project, root, process, tmp_path):
    path, number = process
    run(project, root, "show", **{warm.WARM: path})  # the packages are imported
    mark = tmp_path / "mark"
    os.kill(number, signal.SIGSTOP)
    caller = subprocess.Popen(
        command("wait", str(mark)), cwd=project, env=variables(root, **{warm.WARM: path}),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in the background
    )  # fmt: skip
    waits = Path(f"/proc/{caller.pid}/wchan")
    deadline = time.monotonic() + PATIENCE
    while "unix_stream" not in waits.read_text(encoding="utf-8") and time.monotonic() < deadline:
        time.sleep(0.02)
    caller.send_signal(signal.SIGINT)
    assert caller.wait(PATIENCE) == -signal.SIGINT
    os.kill(number, signal.SIGCONT)
    assert json.loads(run(project, root, "show", **{warm.WARM: path}).stdout)["warm"]
    assert not mark.exists()


def test_a_caller_that_reads_no_answer_does_not_end_the_server(project, root, process, monkeypatch):
    path, number = process
    monkeypatch.setattr(os, "environ", variables(root))
    message = {"place": warm.place(), "name": "show", "arguments": [], "mask": 0, "interrupts": True}
    text = json.dumps({**message, "folder": str(project), "environment": variables(root)}).encode()
    os.kill(number, signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX) as caller, warm._address(path) as address, Path(os.devnull).open("r+b") as null:
        caller.connect(address)
        socket.send_fds(caller, [len(text).to_bytes(warm.NUMBER, "big")], [null.fileno()] * 3)
        caller.sendall(text)
        os.kill(number, signal.SIGCONT)
        time.sleep(2)  # the answer has come and is not read: the end of the connection is a reset
    assert json.loads(run(project, root, "show", **{warm.WARM: path}).stdout)["warm"]


def test_without_a_process_left_a_job_is_one_of_its_own(monkeypatch):
    def no_fork():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    monkeypatch.setattr(os, "fork", no_fork)
    monkeypatch.setattr(warm, "_told", lambda *_: {"files": [read, write]})
    listening = type("Listening", (), {"accept": lambda _: (theirs, "")})()
    assert warm._call(listening, type("Jobs", (), {"place": []})) is None
    assert ours.recv(1) == warm.REFUSED
    ours.close()
    with pytest.raises(OSError):
        os.fstat(read)


def test_the_end_of_the_server_is_one_line_and_ends_the_fork_after_it_has_saved(project, root, tmp_path):
    mark = tmp_path / "mark"
    with started(root) as (path, number):
        caller = subprocess.Popen(
            command("wait", str(mark)), cwd=project, env=variables(root, **{warm.WARM: path}), stderr=subprocess.PIPE
        )
        told(mark, "at work")
        os.kill(number, signal.SIGKILL)
        assert caller.communicate(timeout=PATIENCE)[1].count(b"\n") == 1 and caller.returncode == 1
        told(mark, "saved")
        assert json.loads(run(project, root, "show", **{warm.WARM: path}).stdout)["warm"] is False
        shutil.rmtree(Path(path).parent)


def test_without_a_folder_for_temporary_files_jobs_are_processes_of_their_own(monkeypatch):
    def none(**_):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.delenv(warm.WARM, raising=False)
    monkeypatch.setattr(warm.tempfile, "mkdtemp", none)
    warm.start()
    assert warm.WARM not in os.environ


def test_without_linux_or_beside_another_server_nothing_is_started(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    monkeypatch.setenv(warm.WARM, "0")
    warm.start()
    monkeypatch.delenv(warm.WARM)
    monkeypatch.setattr(sys, "platform", "darwin")
    warm.start()
    assert warm.WARM not in os.environ
