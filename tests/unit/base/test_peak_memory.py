"""The peak memory of a process tree: what processes share counts once, what each has itself counts each time."""

import subprocess
import sys

import pytest

from antidote.base.fingerprint import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import peak_memory

MIB = peak_memory.MIB
# A process maps a file and writes 200 MiB; two children read all of both, and write 50 MiB each. All wait for the test.
TREE = f"""
import mmap, os, sys
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
shared = b"1" * (200 * {MIB})
for _ in range(2):
    if os.fork() == 0:
        own = b"2" * (50 * {MIB})
        shared.count(b"1"), mapped[:].count(b"1")
        os.write(1, b"x")
        sys.stdin.buffer.read()
        os._exit(0)
sys.stdin.close()
for _ in range(2):
    os.wait()
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")


@pytest.fixture
def tree(tmp_path):
    """Return two trees as TREE says; both map the same file."""
    (tmp_path / "file").write_bytes(bytes(40 * MIB))
    command = [sys.executable, "-c", TREE, str(tmp_path / "file")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    started = [peak_memory.psutil.Popen(command, **pipes) for _ in range(2)]
    for process in started:
        assert process.stdout.read(2) == b"xx"
    yield peak_memory.family(started[0])
    for process in started:
        process.communicate()
        assert process.returncode == 0


def test_shared_memory_counts_once(tree):
    found = peak_memory.written(tree)
    assert len(found) == 3 and 300 <= sum(size for size, _ in found) / MIB <= 350


def test_a_file_counts_once_and_as_a_whole_where_others_map_it_too(tree):
    code = peak_memory.mapped(tree[:0]), peak_memory.mapped([peak_memory.psutil.Process()])
    assert code[0] == 0 and 40 <= peak_memory.mapped(tree) / MIB <= 40 + code[1] / MIB


def test_the_largest_sample_is_the_peak(monkeypatch):
    process = peak_memory.psutil.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    samples = iter([[(1, "a"), (2, "b")], [(5, "a"), (1, "b")], [(4, "a")]])

    def written(tree):
        found = next(samples)
        if found == [(4, "a")]:
            process.communicate(b"\n")
        return found

    files = iter([10, 20])
    monkeypatch.setattr(peak_memory, "written", written)
    monkeypatch.setattr(peak_memory, "mapped", lambda tree: next(files))
    assert peak_memory.watch(process, 0) == ([(5, "a"), (1, "b")], 20, 3)


def test_a_process_that_has_ended_takes_nothing():
    process = peak_memory.psutil.Popen([sys.executable, "-c", ""])
    process.wait()
    assert peak_memory.family(process) == [] and peak_memory.written([process]) == []
    assert peak_memory.mapped([process]) == 0


def test_the_command_ends_with_the_exit_code_of_the_measured_one():
    command = [sys.executable, "benchmarks/peak_memory.py", "--", sys.executable, "-c", "raise SystemExit(3)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3 and "peak " in done.stdout, done.stderr
