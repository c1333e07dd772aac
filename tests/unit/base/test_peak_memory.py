"""The peak memory of a process tree: what processes share counts once, what each has itself counts each time."""

import subprocess
import sys

import pytest

from antidote.base.fingerprint import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import peak_memory

MIB = peak_memory.MIB
# Two children of a process with 200 MiB read all of it; each child holds 50 MiB of its own until all have been sampled.
TREE = f"""
import os, sys
shared = b"1" * (200 * {MIB})
for _ in range(2):
    if os.fork() == 0:
        own = b"2" * (50 * {MIB})
        shared.count(b"1")
        sys.stdout.write("x")
        sys.stdout.flush()
        sys.stdin.buffer.read()
        os._exit(0)
sys.stdin.close()
for _ in range(2):
    os.wait()
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PSS is Linux's")


def test_shared_memory_counts_once():
    process = peak_memory.psutil.Popen([sys.executable, "-c", TREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.read(2) == b"xx"
    found = peak_memory.sample(process)
    process.stdin.close()
    assert process.wait() == 0
    assert len(found.sizes) == len(found.names) == 3
    assert 300 <= found.total / MIB <= 400


def test_the_largest_sample_is_the_peak(monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    sizes = iter([[1, 2], [5, 1], [4]])

    def sample(process):
        found = peak_memory.Sample(next(sizes), ["a", "b"])
        if found.sizes == [4]:
            process.communicate(b"\n")
        return found

    monkeypatch.setattr(peak_memory, "sample", sample)
    peak, samples = peak_memory.watch(process, 0)
    assert (peak.sizes, peak.total, samples) == ([5, 1], 6, 3)


def test_a_process_that_has_ended_takes_nothing():
    process = peak_memory.psutil.Popen([sys.executable, "-c", ""])
    process.wait()
    assert peak_memory.sample(process) == peak_memory.Sample([], [])


def test_the_command_ends_with_the_exit_code_of_the_measured_one():
    command = [sys.executable, "benchmarks/peak_memory.py", "--", sys.executable, "-c", "raise SystemExit(3)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3 and "peak " in done.stdout, done.stderr
