"""The measurement of a GPU: its table, what it does about a part that fails, and the whole of it on a CPU, smaller."""

import inspect
import json
import subprocess
import sys
import warnings
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from antidote.base.fingerprint import ROOT
from antidote.training.inversion import alike
from antidote.training.session import LOG_EVERY

sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_check
import measured
import streaming
import training as trainers
import waits


def run(tmp_path, *arguments):
    command = [sys.executable, "benchmarks/gpu_check.py", "--small", "--output", tmp_path, *arguments]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    return done, json.loads((tmp_path / "gpu-check.json").read_text(encoding="utf-8"))


def test_the_table():
    found = {
        "machine": {"device": "H", "gpu": True, "processor": "P", "cores": 16, "python": "3.12", "torch": "2",
                    "torchvision": "1", "open_clip": "3"},
        "settings": {"batch": 8, "defense_batch": 4, "precision": "bf16"},
        "seconds": 3.4,
        "parts": {
            "bare": {"rows": [gpu_check.row("m", 10.0, "pairs/s", 1.5, 5.0), gpu_check.row("n", 1234.0, "s")]},
            "study": {"error": "a\nno | memory"},
            "waiting": {"rows": [gpu_check.row("o", None, "per step")]},
        },
    }  # fmt: skip
    lines = gpu_check.table(found).splitlines()
    assert lines[0] == "H, P, 16 cores; Python 3.12, torch 2, torchvision 1, open_clip 3"
    assert lines[6:] == [
        "| m | 10 | pairs/s | 5 | 2.00 | 1.50 |", "| n | 1,234 | s |  |  |  |", "| study | failed | no / memory | | | |",
        "| o |  | per step |  |  |  |",
    ]  # fmt: skip


def test_a_part_that_takes_too_long_is_ended(tmp_path):
    found = gpu_check.one("study", Namespace(small=True), tmp_path, 0.5)
    assert found["error"] == "not done in its 0 s" and found["seconds"] < 30
    assert gpu_check.one("study", Namespace(small=True), tmp_path, 0)["error"] == "no time is left"


def test_a_trainer_has_a_row_beside_the_bare_pass_of_its_model():
    training = [gpu_check.row(f"{name}: training", 3.0, "pairs/s", beside=2.0) for name in ("a", "b")]
    parts = {"bare": {"rows": [gpu_check.row(f"a: {gpu_check.BARE}", 4.0, "pairs/s")]}, "training": {"rows": training}}
    gpu_check.beside_bare(parts)
    assert [(row["what"], row["value"], row["beside"]) for row in parts["training"]["rows"]] == [
        ("a: training", 3.0, 2.0), ("b: training", 3.0, 2.0), ("a: training, beside the bare pass", 3.0, 4.0),
    ], "nothing beside a pass that was not measured"  # fmt: skip
    failed = {"bare": {"error": "x"}, "training": {"error": "y"}}
    gpu_check.beside_bare(failed)
    assert failed == {"bare": {"error": "x"}, "training": {"error": "y"}}


def bursts(steps, workers, ahead=0, round_seconds=1.0, step_seconds=0.02):
    """Return the times at which steps end that wait for loaders, each of which reads a batch in a round.

    `ahead` batches were ready at the start, as after a slow first step.
    """
    ends, end = [], 0.0
    for batch in range(steps):
        end = max(end, round_seconds * max(0, (batch - ahead) // workers + 1)) + step_seconds
        ends.append(end)
    return ends


@pytest.mark.parametrize("ahead", [0, 8, 16])
def test_the_steady_rate_of_a_trainer_that_waits_for_its_loaders(ahead):
    """Bursts of a batch of each loader count as a whole: half of one is a quarter of the rate, over few steps."""
    full = gpu_check.FULL
    steps, workers, batch = full["pictures"] // full["batch"] * full["epochs"], full["workers"], full["batch"]
    ends = bursts(steps, workers, ahead)
    logged = [step for step in range(1, steps + 1) if step % LOG_EVERY == 0 or step == steps]
    lines = [{"step": step, "pairs_per_second": round(step * batch / ends[step - 1], 1)} for step in logged]
    assert trainers.steady(lines, workers) == pytest.approx(workers * batch / 1.0, rel=0.05)


def test_a_log_of_one_line_has_no_steady_rate():
    with pytest.raises(SystemExit, match="a log of 1 lines, of steps 6 to 6, has no steady part; give more --epochs"):
        trainers.steady([{"step": 6, "pairs_per_second": 3.0}], 1)


@pytest.mark.parametrize("ahead", [0, 8])
def test_the_steady_rate_of_open_clips_trainer_is_that_of_its_whole_log(ahead):
    """Its own rates are those of single steps, of which most in a burst do not wait."""
    full = gpu_check.FULL
    per_epoch, workers, batch = full["pictures"] // full["batch"], full["workers"], full["batch"]
    ends = bursts(per_epoch * full["epochs"], workers, ahead)
    lines = [
        f"{1e9 + ends[epoch * per_epoch + step - 1]} | INFO | Train Epoch: {epoch} [{step * batch:>5}/{full['pictures']}"
        f" (1%)] Data (t): 0.1 Batch (t): 0.2, 99999.0/s, 99999.0/s/gpu LR: 0.002"
        for epoch in range(full["epochs"])
        for step in range(1, per_epoch + 1)
        if step % 5 == 1 or step == per_epoch
    ]
    assert trainers.logged("\n".join(lines), batch, workers) == pytest.approx(workers * batch / 1.0, rel=0.05)


def test_the_rate_of_the_loaders_alone(monkeypatch):
    full = gpu_check.FULL
    now = iter(bursts(full["read"], full["workers"], step_seconds=0.0))
    monkeypatch.setattr(streaming.time, "perf_counter", lambda: next(now))
    found = streaming.timed(lambda: range(full["read"]), full["read"], full["workers"])
    assert found["rate"] == pytest.approx(full["workers"] * streaming.BATCH / 1.0, rel=0.05)


@pytest.mark.parametrize(
    ("steps", "workers", "expected"),
    [([10, 20, 30, 32], 0, (10, 32)), ([10, 20, 30, 32], 8, (10, 32)), ([1], 4, (1, 1)), (range(1, 25), 8, (6, 22))],
)
def test_rounds_of_all_loaders_after_a_quarter(steps, workers, expected):
    assert measured.whole_rounds(steps, workers) == expected


class Waiting:
    """Stands for features on a GPU: torch warns where their sum is asked for."""

    def __len__(self):
        return 2

    def sum(self, dim=None):
        warnings.warn("called a synchronizing CUDA operation (Triggered internally at x)", stacklevel=1)
        return torch.zeros(3)

    def square(self):
        warnings.warn("another warning", stacklevel=1)
        return torch.zeros(2, 3)


def test_a_wait_is_counted_at_its_line_of_the_project():
    lines, first = inspect.getsourcelines(alike)
    line = first + next(number for number, text in enumerate(lines) if "features.sum(" in text)
    assert waits.waits(lambda: [alike(Waiting()) for _ in range(3)]) == {f"training/inversion.py:{line}": 3}
    assert waits.waits(Waiting().sum) == {waits.OUTSIDE: 1}


@pytest.mark.filterwarnings("ignore:called a sync")
def test_waits_of_the_first_steps_alone_are_no_waits_of_a_step(monkeypatch):
    """A run of three steps waits once at its start and twice in each step."""

    def run(steps):
        for _ in range(1 + 2 * steps):
            Waiting().sum()

    monkeypatch.setattr(waits, "_run", lambda *given: run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    assert dict(waits.of_steps("m", 2, "fp32"))["training"] == {waits.OUTSIDE: 2.0}
    assert modes == ["warn", "default"] * 2 * 3


def test_some_parts_on_a_cpu(tmp_path):
    done, found = run(tmp_path, "--parts", "bare", "evaluation")
    assert done.returncode == 0, done.stderr + done.stdout
    rows = {row["what"]: row for part in found["parts"].values() for row in part["rows"]}
    assert set(rows) == {f"{model}: {what}" for model in ("tiny-rn", "tiny-vit")
                         for what in ("bare forward and backward pass", "evaluation")}  # fmt: skip
    assert all(row["value"] > 0 for row in rows.values()) and rows["tiny-rn: evaluation"]["beside"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_tests_of_a_gpu_are_skipped_on_a_cpu_and_the_part_says_so(tmp_path):
    done, found = run(tmp_path, "--parts", "tests")
    assert done.returncode == 0, done.stderr + done.stdout
    rows = {row["what"]: row["value"] for row in found["parts"]["tests"]["rows"]}
    assert rows["test_a_training: skipped, needs a GPU"] == 2 and not any("passed" in what for what in rows)


@pytest.mark.parametrize(("code", "error"), [(0, None), (1, "1 failed")])
def test_a_test_that_fails_fails_the_part(monkeypatch, code, error):
    def run(command, **more):
        Path(command[command.index("--junitxml") + 1]).write_text(
            '<testsuites><testsuite><testcase name="test_x[a]"/><testcase name="test_x[b]"/></testsuite></testsuites>',
            encoding="utf-8",
        )
        return subprocess.CompletedProcess(command, code, "E wrong\n1 failed")

    monkeypatch.setattr(gpu_check.subprocess, "run", run)
    if error:
        with pytest.raises(SystemExit, match=error):
            list(gpu_check.tests(Namespace()))
    else:
        assert list(gpu_check.tests(Namespace())) == [gpu_check.row("test_x: passed", 2, "tests")]


def test_without_a_gpu_a_run_is_made_and_nothing_is_measured(monkeypatch):
    steps = []
    monkeypatch.setattr(waits, "_run", lambda *given: steps.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = list(gpu_check.waiting(Namespace(models=["m"], defense_batch=2, precision="fp32")))
    assert rows[0] == gpu_check.row("m: waits of training, not measured: needs a GPU", None, "per step")
    assert len(rows) == 3 and steps == [waits.STEPS] * 3


@pytest.mark.slow
def test_all_parts_on_a_cpu(tmp_path):
    done, found = run(tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert set(found["parts"]) == set(gpu_check.PARTS) and all(part["rows"] for part in found["parts"].values())
