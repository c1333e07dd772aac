"""Benchmarks: the line that names machine and versions, and steps of defenses as a real run has them."""

import os
import re
import subprocess
import sys

import pytest

from antidote.base.fingerprint import ROOT
from antidote.defenses.cbpt import CBPTSettings
from antidote.defenses.ta_cleaner import TACleanerSettings

sys.path.insert(0, str(ROOT / "benchmarks"))

import attacks
import defense_costs
import measured
import scale


def test_machine_and_versions_in_one_line(monkeypatch):
    monkeypatch.setattr(measured.devices, "devices", list)
    found = measured.machine("torch", "open_clip")
    assert not found["gpu"] and found["open_clip"]
    found |= {"processor": "P", "cores": 2, "python": "3", "torch": "4", "open_clip": "5"}
    assert measured.heading(found, "torch", "open_clip") == "P, 2 cores; Python 3, torch 4, open_clip 5"
    found |= {"gpu": True, "device": "H", "cores": 1}
    assert measured.heading(found, "torch") == "H, P, 1 core; Python 3, torch 4"


def test_the_gpu_is_asked_in_another_process(monkeypatch):
    """The process of a benchmark forks others that use the GPU."""
    monkeypatch.setattr(measured.devices, "devices", lambda: ["0"])
    monkeypatch.setattr(measured, "ASK", "import os; print('warning'); print('H200', os.getppid())")
    assert measured.machine()["device"] == f"H200 {os.getpid()}"
    monkeypatch.setattr(measured, "ASK", "print('')")
    assert measured.machine()["device"] == "CPU"


def test_the_cost_of_a_process():
    found = measured.run([sys.executable, "-c", "print(len(b'x' * 10**9))"])
    assert found.output == "1000000000\n" and 10**9 < found.memory * 2**20 < 10**10 and found.cpu > 0
    with pytest.raises(SystemExit, match="no such thing"):
        measured.run([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_the_pools_of_the_paper_study_are_smaller_like_the_table():
    pools = scale.drawn(scale.ROWS // 10)
    assert pools["training"]["pairs"] == 48_999 and pools["poison"]["target_pairs"] == {"banana": 79, "canoe": 3}
    assert "target_pairs" not in scale.drawn(scale.ROWS // 1000)["inversion"] and "shots" not in pools


def test_memory_grows_by_so_many_bytes_with_each_pair():
    small, large = measured.Cost(1, 2.0, 100, ""), measured.Cost(1, 6.0, 150, "")
    line = scale.table(2**20, {"s": small}, {"s": large})[-1]
    assert line == "| s | 2.0 | 6.0 | 3.0 | 100 | 150 | 1.5 | 56 |"


def test_the_made_captions_name_the_words_of_the_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scale.write_table(scale.ROWS // 500)
    rows = [line.split("\t") for line in (tmp_path / "table.tsv").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len({url for _, url in rows}) == scale.ROWS // 500
    assert sum("banana" in caption.split() for caption, _ in rows) == 3
    words = [word for caption, _ in rows for word in caption.split()]
    assert max(words.count(word) for word in set(words[:20])) > len(words) / 100, "some words are frequent"


def test_a_step_of_cbpt_encodes_as_many_classes_as_by_default():
    assert len(set(defense_costs.CLASSES)) >= CBPTSettings().classes_per_step


def test_steps_of_two_kinds_have_a_row_each():
    found = {"step": 4.0, "kinds": {"with": 4.0, "without": 2.0}, "beside": 1.0, "memory": 2e9}
    assert defense_costs.rows("m", "d", found, 2.0) == [
        "| m | d, with | 4 | 2.00 | 1.0 | 2.00 |", "| m | d, without | 2 | 1.00 | 1.0 | 2.00 |",
    ]  # fmt: skip
    assert defense_costs.rows("m", "d", {"step": None, "beside": 1.0, "memory": 2e9}, 2.0) == [
        "| m | d | trains nothing |  | 1.0 | 2.00 |"
    ]
    assert defense_costs.rows("m", "d", {"unfit": "needs more"}, 2.0) == ["| m | d | needs more | | | |"]


def test_the_first_preset_that_fits_the_pictures_is_drawn():
    """BadEncoder's first preset has a patch of 50 pixels."""
    pairs = defense_costs.random_pairs(8, 32)
    assert attacks.first_fitting("badencoder", pairs, 32).settings.patch_size < 32
    with pytest.raises(ValueError, match=r"do not fit the picture \(2 pixels\)"):
        attacks.first_fitting("badencoder", pairs, 2)


@pytest.mark.slow
def test_a_run_tells_the_kinds_apart():
    """TA-Cleaner's mean weighs its two kinds of step as an epoch of 100K pairs has them."""
    command = [
        "benchmarks/defense_costs.py",
        "--models",
        "tiny-rn",
        "--methods",
        "cbpt",
        "ta_cleaner",
        "--batch-size",
        "4",
    ]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r", \d+ cores?; Python .*, torch .*, open_clip ", done.stdout.splitlines()[0])
    rows = dict(re.findall(r"^\| tiny-rn \| ([^|]+) \| ([0-9.e-]+) \|", done.stdout, re.MULTILINE))
    mean = "ta_cleaner, mean, 6.4 % with"
    assert set(rows) == {
        "finetune", "cbpt, prompts", "cbpt, inversion", "ta_cleaner, with sub-captions", "ta_cleaner, without", mean,
    }  # fmt: skip
    share = TACleanerSettings().samples_per_epoch / 100_000
    kinds = float(rows["ta_cleaner, with sub-captions"]), float(rows["ta_cleaner, without"])
    assert abs(float(rows[mean]) - share * kinds[0] - (1 - share) * kinds[1]) < 0.01 * max(kinds)
