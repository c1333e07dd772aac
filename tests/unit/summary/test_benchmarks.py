"""The measurement of what defenses cost times the steps that a real run has."""

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
    rows = dict(re.findall(r"^\| tiny-rn \| ([^|]+) \| ([0-9.e-]+) \|", done.stdout, re.MULTILINE))
    mean = "ta_cleaner, mean, 6.4 % with"
    assert set(rows) == {
        "finetune", "cbpt, prompts", "cbpt, inversion", "ta_cleaner, with sub-captions", "ta_cleaner, without", mean,
    }  # fmt: skip
    share = TACleanerSettings().samples_per_epoch / 100_000
    kinds = float(rows["ta_cleaner, with sub-captions"]), float(rows["ta_cleaner, without"])
    assert abs(float(rows[mean]) - share * kinds[0] - (1 - share) * kinds[1]) < 0.01 * max(kinds)
