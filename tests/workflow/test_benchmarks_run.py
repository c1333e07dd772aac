"""Every benchmark runs, at its smallest: they drive scripts and Snakemake, whose command lines change.

The first line names the machine and the versions: figures without them cannot be compared.
"""

import re
import subprocess
import sys

import pytest

from antidote.base.fingerprint import ROOT

SMALL = {
    "dry_run": ["--attacks", "1", "--defenses", "1", "--seeds", "1", "--repeats", "1"],
    "peak_memory": ["--", sys.executable, "-c", "pass"],
    "poisoning": ["--pairs", "500", "--poisons", "20"],
    "reuse": ["--jobs", "2", "--gb", "0.01"],
    "scale": ["--pairs", "20000"],
    "submissions": ["--attacks", "1", "--defenses", "1", "--seeds", "1"],
}
SLOW = {
    "attacks": ["--pictures", "4", "--size", "32", "--seconds", "0.01", "--rounds", "1", "--attacks", "badnet"],
    "decoding": ["--pictures", "4", "--rounds", "1"],
    "drawn": ["--size", "32", "--pictures", "16", "--attacks", "badnet"],
    "evaluation": ["--pictures", "16"],
    "intervals": ["--study", "configs/open-seeds.yaml", "--draws", "2"],
    "scan": ["--pairs", "3000"],
    "scenes": ["--pairs", "16", "--sizes", "32"],
    "screening": ["--models", "tiny-rn", "--classes", "3", "--steps", "2", "--rounds", "1"],
    "starts": ["--rounds", "1"],
    "streaming": ["--pairs", "600", "--steps", "2", "--shards", "2", "--rounds", "1"],
    "sweep": ["--study", "tests/studies/tiny.yaml"],
    "training": ["--pairs", "48", "--batch-size", "8", "--rounds", "1", "--workers", "1", "--threads", "1"],
    "waits": ["--models", "tiny-vit", "--batch-size", "4"],
}
HELPERS = {"gather_wheels", "measured", "waves"}
ELSEWHERE = {"defense_costs", "gpu_check"}  # have tests of their own
SAID = {
    "attacks": "decoding a JPEG",
    "dry_run": "large study, 2 cells: ",
    "peak_memory": "peak ",
    "poisoning": "index of 500 pairs: ",
    "reuse": "from dvc pull to nothing to be done: ",
    "submissions": "each job by itself: 17 (",
    "decoding": "torchvision's decoder",
    "drawn": "badnet",
    "evaluation": "bare forward pass",
    "intervals": "| open-seeds | 3 | `asr1(",
    "scale": "| drawing the pool `poison` | ",
    "scan": '"pairs": 3000',
    "scenes": "32 px: ",
    "screening": "| tiny-rn | bf16 | 32 | ",
    "starts": "a fork: ",
    "streaming": "| webdataset | 2.0 | 1.7 |",
    "sweep": "times, the same weights",
    "training": "antidote over open_clip",
    "waits": "tiny-vit, cbpt: ",
}
MACHINE = re.compile(r".+, \d+ cores?; Python 3\.[\w.]+(, \w[\w-]* \d[\w.+]*)+")


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_benchmark_runs(name, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, f"benchmarks/{name}.py", *{**SMALL, **SLOW}[name]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert SAID[name] in done.stdout + done.stderr  # those that log say it on stderr
    assert MACHINE.fullmatch(done.stdout.splitlines()[0])


def test_no_benchmark_is_without_a_test():
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert files - HELPERS - ELSEWHERE == {*SMALL, *SLOW}
