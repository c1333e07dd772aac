"""Defenses at equal loss of clean accuracy, and attacks at one setting of a defense."""

from __future__ import annotations

import pytest

from antidote.base.settings import read_mapping
from antidote.study.slices import summary_plan
from antidote.summary.claims import page
from antidote.summary.plan import SummarySettings
from antidote.summary.tables import summarise
from antidote.summary.verdicts import FAILS, HOLDS, UNDECIDED, UNMEASURED, UNTESTABLE
from tests.unit.summary.test_claims import LOWER, PAPERS, both, finished, judged


def swept(**rates):
    """A sweep of fine-tuning over three rates beside CleanCLIP; ASR@1 and CA@1 by setting, lists over seeds."""
    defenses = {
        "tuned": {"method": "finetune", "training": {"lr": [0.001, 0.002, 0.005]}},
        "cleanclip": {"method": "cleanclip"},
    }
    named = {f"tuned_lr0.{name[1:]}" if name[0] == "t" else name: values for name, values in rates.items()}
    seeds = range(len(rates["cleanclip"][0]))
    return finished(named, seeds=seeds, noise={"asr1": 1.0}, defenses=defenses, accuracy_budget=0.06)


@pytest.mark.parametrize(
    ("ca", "left"),
    [
        (0.94, 60.0),  # a loss of 1 point is that of the second setting
        (0.92, 40.0),  # of 3 points: half way to the third, which loses 5
        (0.90, 20.0),  # of 5
        (0.80, 20.0),  # of 15: the third is the strongest, and CleanCLIP loses more
        (0.951, 90.0),  # no setting loses as little: the weakest, which loses nothing
    ],
)
def test_a_sweep_is_compared_where_it_loses_as_much_as_the_other(ca, left):
    done = swept(t001=([0.9], [0.95]), t002=([0.6], [0.94]), t005=([0.2], [0.90]), cleanclip=([0.05], [ca]))
    found = judged(done)
    assert found.sides == ("asr1 5.0", f"asr1 {left}")
    assert found.word == (UNDECIDED if ca == 0.80 else HOLDS)
    assert ("loses more accuracy" in found.reason) == (ca == 0.80)


def test_two_sweeps_are_compared_over_the_losses_that_both_reach():
    """One falls from 60 to 40, the other from 50 to 10, both between losses of 1 and 5 points: means of 50 and 30."""
    defenses = {
        "tuned": {"method": "finetune", "training": {"lr": [0.001, 0.002]}},
        "cleanclip": {"method": "cleanclip", "training": {"lr": [0.001, 0.002]}},
    }
    rates = {
        "tuned_lr0.001": ([0.6], [0.94]), "tuned_lr0.002": ([0.4], [0.90]),
        "cleanclip_lr0.001": ([0.5], [0.94]), "cleanclip_lr0.002": ([0.1], [0.90]),
    }  # fmt: skip
    found = judged(finished(rates, noise={"asr1": 1.0}, defenses=defenses, accuracy_budget=0.06))
    assert found.sides == ("asr1 30.0", "asr1 50.0") and found.losses == pytest.approx((1.0, 5.0))
    narrow = judged(finished(rates, noise={"asr1": 1.0}, defenses=defenses, accuracy_budget=0.03))
    assert narrow.sides == ("asr1 40.0", "asr1 55.0") and narrow.losses == pytest.approx((1.0, 3.0))


def test_the_interval_at_equal_loss_contains_the_spread_of_the_accuracy():
    """The same ASR@1 on all seeds of each setting: only where the accuracy varies is there an interval."""
    steady = {"t001": ([0.9] * 3, [0.95] * 3), "t002": ([0.6] * 3, [0.94] * 3), "t005": ([0.2] * 3, [0.90] * 3)}
    assert judged(swept(**steady, cleanclip=([0.05] * 3, [0.92] * 3))).half == pytest.approx(0, abs=1e-6)
    # Without a seed, CleanCLIP loses 2.5, 3.0 or 3.5 points, where fine-tuning leaves 45, 40 or 35. Pseudo-values 30, 40,
    # 50; standard deviation 10, t(0.975, 2) = 4.303.
    found = judged(swept(**steady, cleanclip=([0.05] * 3, [0.91, 0.92, 0.93])))
    assert found.sides == ("asr1 5.0", "asr1 40.0") and found.half == pytest.approx(24.8, abs=0.1)
    varied = {**steady, "t002": ([0.6] * 3, [0.93, 0.94, 0.95])}
    # Without a seed, the second setting loses 0.5, 1.0 or 1.5 points, and leaves 60 - 40 * (3 - loss) / (5 - loss):
    # 37.78, 40, 42.86. Pseudo-values 44.44, 40, 34.29; standard deviation 5.09, t(0.975, 2) = 4.303.
    found = judged(swept(**varied, cleanclip=([0.05] * 3, [0.92] * 3)))
    assert found.sides == ("asr1 5.0", "asr1 40.0") and found.half == pytest.approx(12.6, abs=0.1)


def test_ranks_below_the_first_can_fall_below_chance():
    """Chance ranks a class of 24 among the first ten in 39 %; a defense can push the target below that, as UBT does."""
    done = finished(both([0.1], [0.2]), noise={"asr10": 1.0})
    done.cells["asr10"] = done.cells["defense"].map({"cleanclip": 0.6, "finetune": 0.9})
    lower = LOWER.replace("asr1", "asr10")
    assert judged(done, f"{lower} - 95").word == UNTESTABLE and judged(done, f"{lower} - 55").word == FAILS


def test_a_mean_over_losses_is_that_of_the_lines_between_the_settings():
    """Fine-tuning falls from 100 to 0 within 0.05 points and stays there: 100 * 0.05 / 2 over 5 points is 0.5."""
    defenses = {
        "tuned": {"method": "finetune", "training": {"lr": [0.001, 0.002, 0.004]}},
        "cleanclip": {"method": "cleanclip", "training": {"lr": [0.001, 0.002]}},
    }
    rates = {
        "tuned_lr0.001": ([1.0], [0.95]), "tuned_lr0.002": ([0.0], [0.9495]), "tuned_lr0.004": ([0.0], [0.90]),
        "cleanclip_lr0.001": ([0.0], [0.95]), "cleanclip_lr0.002": ([0.0], [0.90]),
    }  # fmt: skip
    found = judged(finished(rates, noise={"asr1": 1.0}, defenses=defenses, accuracy_budget=0.06))
    assert found.difference == pytest.approx(-0.5)


def test_the_accuracy_of_two_defenses_is_not_compared_if_one_was_swept():
    """A swept defense spends what its setting allows."""
    done = finished(both([0.9], [0.9], ca=0.5), noise={"asr1": 1.0, "ca1": 1.0})
    between = "ca1(attack=badnet, defense=finetune) > ca1(attack=badnet, defense=cleanclip)"
    assert judged(done, between).word == UNTESTABLE and judged(done, between, matched=False).word == HOLDS


@pytest.mark.parametrize(
    ("slow", "fast", "sides"),
    [
        (0.94, 0.93, (10.0, 20.0)),  # both settings are within the budget on both attacks
        (0.94, 0.5, (60.0, 70.0)),  # the faster is not, on Blended
        (0.6, 0.5, (60.0, 70.0)),  # none is: the one with more CA@1
    ],
)
def test_attacks_under_a_swept_defense_are_compared_at_one_setting(slow, fast, sides):
    defenses = {"finetune": {"method": "finetune", "training": {"epochs": 1, "lr": [0.001, 0.002]}}}
    done = finished({}, defenses=defenses)
    rates = {"lr0.001": (0.6, 0.7, slow), "lr0.002": (0.1, 0.2, fast)}
    for setting, (badnet, blended, ca1) in rates.items():
        for attack, asr1, ca in (("badnet", badnet, 0.94), ("blended", blended, ca1)):
            rows = (done.cells["attack"] == attack) & (done.cells["defense"] == f"finetune_{setting}")
            done.cells.loc[rows, ["asr1", "ca1"]] = [asr1, ca]
    none = (done.cells["defense"] == "none") & (done.cells["attack"] == "blended")
    done.cells.loc[none, ["asr1", "ca1"]] = [1.0, 0.95]
    plan = SummarySettings.read(read_mapping(summary_plan(done.study)), "plan")
    done.table = summarise(done.cells, plan)
    found = judged(done, "asr1(attack=badnet, defense=finetune) < asr1(attack=blended, defense=finetune)")
    left, right = (float(side.split()[-1]) for side in found.sides)
    assert (left, right) == sides
    mean = judged(done, "asr1(attack=*, defense=finetune) < 50")
    assert mean.sides == (f"asr1 {(left + right) / 2:.1f}",)
    text = page({}, PAPERS, [done])
    assert f"| {right:.1f} (blended) | {(left + right) / 2:.1f} |" in text


def test_a_sweep_that_was_not_run_is_not_measured():
    done = finished({}, defenses={"finetune": {"method": "finetune", "training": {"lr": [0.001, 0.002]}}})
    found = judged(done, "asr1(attack=badnet, defense=finetune) < asr1(attack=blended, defense=finetune)")
    assert found.word == UNMEASURED


def test_a_loss_of_accuracy_is_over_the_seeds_that_both_have():
    """On seed 0 the defense loses nothing; the mean of the undefended model over all seeds is higher."""
    rates = {"none": ([1.0] * 3, [0.80, 0.95, 0.96]), **both([0.1] * 3, [0.5] * 3)}
    rates["cleanclip"] = ([0.1, float("nan"), float("nan")], [0.80, float("nan"), float("nan")])
    done = finished(rates, (0, 1, 2))
    row = done.table[(done.table["attack"] == "badnet") & (done.table["defense"] == "cleanclip")].iloc[0]
    assert (row["within"], row["best"]) == ("yes", "yes")
    assert "| CleanCLIP | 10.0 (badnet) | 10.0 | 0.0 |" in page({}, PAPERS, [done])


def test_at_equal_loss_too_a_loss_is_over_the_seeds_that_both_have():
    """On seeds 0 and 1 CleanCLIP loses nothing; the undefended model of seed 2 has more accuracy than the others."""
    nan = float("nan")
    rates = {"none": ([1.0] * 3, [0.90, 0.90, 0.99]), "cleanclip": ([0.1, 0.1, nan], [0.90, 0.90, nan])}
    rates["finetune"] = ([0.5] * 3, [0.90, 0.90, 0.99])
    found = judged(finished(rates, (0, 1, 2), noise={"asr1": 1.0}))
    assert found.losses == pytest.approx((0, 0)) and found.seeds == 2 and not found.more
