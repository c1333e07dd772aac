"""The measurement of a GPU: its table, what it does about a part that fails, and the whole of it on a CPU, smaller."""

import json
import subprocess
import sys
from argparse import Namespace

import pytest

from antidote.base.fingerprint import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_check


def run(tmp_path, *arguments):
    command = [sys.executable, "benchmarks/gpu_check.py", "--small", "--output", tmp_path, *arguments]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    return done, json.loads((tmp_path / "gpu-check.json").read_text(encoding="utf-8"))


def test_the_table():
    found = {
        "machine": {"device": "H", "cores": 16, "python": "3.12", "torch": "2", "open_clip": "3"},
        "settings": {"batch": 8, "defense_batch": 4, "precision": "bf16"},
        "seconds": 3.4,
        "parts": {
            "bare": {"rows": [gpu_check.row("m", 10.0, "pairs/s", 1.5, 5.0), gpu_check.row("n", 1234.0, "s")]},
            "study": {"error": "a\nno | memory"},
        },
    }
    assert gpu_check.table(found).splitlines()[4:] == [
        "| m | 10 | pairs/s | 5 | 2.00 | 1.50 |", "| n | 1,234 | s |  |  |  |", "| study | failed | no / memory | | | |",
    ]  # fmt: skip


def test_a_part_that_takes_too_long_is_ended(tmp_path):
    found = gpu_check.one("study", Namespace(small=True), tmp_path, 0.5)
    assert found["error"] == "not done in its 0 s" and found["seconds"] < 30
    assert gpu_check.one("study", Namespace(small=True), tmp_path, 0)["error"] == "no time is left"


def test_some_parts_on_a_cpu(tmp_path):
    done, found = run(tmp_path, "--parts", "bare", "evaluation")
    assert done.returncode == 0, done.stderr + done.stdout
    rows = {row["what"]: row for part in found["parts"].values() for row in part["rows"]}
    assert set(rows) == {f"{model}: {what}" for model in ("tiny-rn", "tiny-vit")
                         for what in ("bare forward and backward pass", "evaluation")}  # fmt: skip
    assert all(row["value"] > 0 for row in rows.values()) and rows["tiny-rn: evaluation"]["beside"] > 0


@pytest.mark.slow
def test_all_parts_on_a_cpu(tmp_path):
    done, found = run(tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert set(found["parts"]) == set(gpu_check.PARTS) and all(part["rows"] for part in found["parts"].values())
