"""Verdicts at the edges: equal rates, rounding, sweeps that turn back, few seeds, figures that are missing."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from antidote.base.errors import UserError
from antidote.study.tracks import Noise
from antidote.summary.accuracy import one_setting
from antidote.summary.claims import Claim, page, read_claims, verdict
from antidote.summary.published import read_published
from antidote.summary.relations import is_rate, parse
from antidote.summary.verdicts import FAILS, HOLDS, UNDECIDED, UNMEASURED, UNTESTABLE, judge
from tests.unit.summary.test_accuracy import swept
from tests.unit.summary.test_claims import LOWER, PAPERS, both, finished, judged

SEEDS = (0, 1, 2)
TUNED = {"method": "finetune", "training": {"lr": [0.001, 0.002]}}


@pytest.mark.parametrize(("rate", "word"), [(0.0, UNTESTABLE), (0.5, UNDECIDED), (1.0, UNDECIDED)])
def test_equal_rates_on_all_seeds_decide_nothing(rate, word):
    found = judged(finished(both([rate] * 3, [rate] * 3), SEEDS))
    assert (found.word, found.difference, found.half) == (word, 0, 0)


def test_rounding_decides_nothing():
    """0.62 - 0.57 is more than 0.05 by 7e-17, 0.57 - 0.52 less."""
    for before, after in ((0.62, 0.57), (0.57, 0.52)):
        rates = {"none": ([1.0] * 3, [before] * 3), "cleanclip": ([0.0] * 3, [after] * 3)}
        kept = "ca1(attack=badnet, defense=cleanclip) >= ca1(attack=badnet) - 5"
        assert judged(finished(rates, SEEDS), kept).word == HOLDS
    varied = {"t001": ([1.0] * 3, [0.931, 0.942, 0.944]), "t002": ([1.0] * 3, [0.927, 0.923, 0.931]),
              "t005": ([1.0] * 3, [0.9, 0.913, 0.905])}  # fmt: skip
    assert judged(swept(**varied, cleanclip=([1.0] * 3, [0.924, 0.921, 0.93]))).word == UNDECIDED


@pytest.mark.parametrize("ca", [0.9302, 0.9298])
def test_a_setting_counts_only_if_every_stronger_one_loses_more(ca):
    """Losses of 1, 4 and 2 points leave 90, 50 and 10 %: the curve goes from the first to the third, without a jump."""
    turned = {"t001": ([0.9] * 3, [0.94] * 3), "t002": ([0.5] * 3, [0.91] * 3), "t005": ([0.1] * 3, [0.93] * 3)}
    found = judged(swept(**turned, cleanclip=([0.4] * 3, [ca] * 3)))
    assert found.word == FAILS and float(found.sides[1].split()[1]) == pytest.approx(10.8, abs=0.9)


def test_with_few_seeds_the_noise_floor_of_the_accuracy_counts_at_equal_loss():
    """The curve falls by 40 points of ASR@1 per point of CA@1: noise of half a point is 20 points."""
    steep = {"t001": ([0.9], [0.945]), "t002": ([0.3], [0.93]), "t005": ([0.2], [0.90])}
    done = swept(**steep, cleanclip=([0.4], [0.9375]))
    for ca1, half in ((0.0, 3.9), (0.5, 79)):  # t(0.975, 4) = 2.776, x sqrt(1 + 1 + 20^2 + 20^2)
        done.noise = Noise(cells=1, freedom=4, figures={"asr1": 1.0, "ca1": ca1})
        found = judged(done)
        assert found.difference == pytest.approx(-20) and found.half == pytest.approx(half, rel=0.02)
        assert found.word == (HOLDS if ca1 == 0 else UNDECIDED)
    done.noise = Noise(cells=1, freedom=4, figures={"asr1": 1.0})
    assert judged(done).reason == "fewer than 3 seeds, and the track states no noise floor of these figures"


def test_a_rise_has_the_room_above_what_was_delivered():
    """From 97 % a model cannot rise by 10 points, from 80 it could."""
    done = finished({"cleanclip": ([0.95] * 3, [0.94] * 3)}, SEEDS)
    term = "(attack=badnet, defense=cleanclip, adaptation=full)"
    for delivered, word in ((0.97, UNTESTABLE), (0.8, FAILS)):
        rises = (("backdoored", 0.02, delivered), ("clean", 0.0, 0.01))
        done.persistence = pd.DataFrame(
            {"attack": "badnet", "defense": "cleanclip", "seed": seed, "adaptation": "full", "model": model,
             "delta": delta, "delivered": left} for seed in SEEDS for model, delta, left in rises
        )  # fmt: skip
        assert judged(done, f"delta{term} - delta_control{term} >= 10").word == word


@pytest.mark.parametrize(("least", "word"), [(0.948, UNTESTABLE), (0.93, FAILS)])
def test_a_swept_defense_costs_too_much_only_if_its_cheapest_setting_does(least, word):
    """Undefended 95 %; the strongest setting within the budget of 6 points costs 4 points, the weakest 0.2 or 2."""
    done = swept(t001=([0.9] * 3, [least] * 3), t002=([0.5] * 3, [0.91] * 3), cleanclip=([0.4] * 3, [0.94] * 3))
    kept = "ca1(attack=badnet, defense=finetune) >= ca1(attack=badnet) - 1"
    assert judged(done, kept).word == word


def test_what_is_judged_does_not_depend_on_the_order_of_the_figures():
    done = finished({"cleanclip": ([0.95] * 3, [0.94] * 3)}, SEEDS)
    one = "asr1(attack=badnet, defense=cleanclip) <= asr1(attack=badnet) - 50"
    other = "asr1(attack=badnet) >= asr1(attack=badnet, defense=cleanclip) + 50"
    assert judged(done, one).word == judged(done, other).word == FAILS


@pytest.mark.parametrize("text", ["asr1(attack=badnet) - floor(attack=badnet) >= 80",
                                  "asr1(attack=badnet) >= floor(attack=badnet) + 80"])  # fmt: skip
def test_an_attack_answers_for_its_own_floor(text):
    done = finished({"none": ([0.95] * 3, [0.95] * 3)}, SEEDS)
    done.cells.loc[done.cells["attack"] == "badnet", "floor"] = 0.3
    assert judge(parse(text, "claim"), done, True, gated=False).word == FAILS


def test_a_claim_that_fails_by_one_relation_is_shown_where_another_was_not_measured():
    one = Claim(paper="cleanclip", sentence="s", value="v",
                relations=["asr1(attack=badnet, defense=cleanclip) <= 5", LOWER])  # fmt: skip
    done = finished({"cleanclip": ([0.9] * 3, [0.94] * 3)}, SEEDS)
    assert verdict(one, done)[0] == FAILS
    text = page({"one": one}, PAPERS, [done])
    assert "3 seeds | asr1 90.0: +85.0 ± 0.0; asr1 of finetune on badnet was not run | **does not hold** |" in text


def test_a_figure_that_one_seed_less_would_need_leaves_the_spread_unknown():
    """With all seeds the first setting alone counts; without seed 0 the second one does, which was not adapted."""
    rates = {"cleanclip": ([0.1] * 3, [0.92, 0.91, 0.90]), "finetune_lr0.001": ([0.5] * 3, [0.90, 0.91, 0.92]),
             "finetune_lr0.002": ([0.3] * 3, [0.87] * 3)}  # fmt: skip
    done = finished(rates, SEEDS, defenses={"finetune": TUNED, "cleanclip": {"method": "cleanclip"}})
    done.persistence = pd.DataFrame(
        {"attack": "badnet", "defense": name, "seed": seed, "adaptation": "full", "model": "backdoored", "worst": 0.5}
        for name in ("cleanclip", "finetune_lr0.001") for seed in SEEDS
    )  # fmt: skip
    found = judged(done, "worst(attack=badnet, defense=cleanclip) < worst(attack=badnet, defense=finetune)")
    assert found.word == UNDECIDED
    assert found.reason == "the spread over seeds is not known: worst of finetune_lr0.002 on badnet was not run"


def test_two_entries_of_one_method_are_two_defenses():
    defenses = {
        "first": {"method": "par", "noise": 0.2, "training": {"lr": [0.001, 0.002]}},
        "second": {"method": "par", "noise": 0, "training": {"lr": 0.003}},
    }
    rates = {"first_lr0.001": ([0.5] * 3, [0.94] * 3), "first_lr0.002": ([0.1] * 3, [0.90] * 3),
             "second": ([0.4] * 3, [0.94] * 3)}  # fmt: skip
    done = finished(rates, SEEDS, defenses=defenses, accuracy_budget=0.06)
    found = judged(done, "{0}!=0) < {0}=0.0)".format("asr1(attack=badnet, defense=par, defense.noise"))
    assert found.sides == ("asr1 50.0", "asr1 40.0") and found.losses == pytest.approx((1, 1)), "numbers as numbers"
    assert judged(done, "{0}!=0) < {0}=0)".format("ca1(attack=badnet, defense=par, defense.noise")).word == UNTESTABLE


def test_a_setting_that_was_run_on_all_attacks_goes_before_one_that_was_not():
    done = finished({}, defenses={"finetune": TUNED})
    done.table = pd.DataFrame(
        [("badnet", "weak", 0.94, "no"), ("blended", "weak", 0.94, "no"), ("badnet", "strong", 0.95, "yes")],
        columns=["attack", "defense", "ca1_mean", "within"],
    )
    assert one_setting(done, ["weak", "strong"], ["badnet", "blended"]) == "weak"


def test_figures_that_are_no_rates_and_detections_without_a_detector():
    assert is_rate("floor_sketch") and not is_rate("floor_resistance")
    with pytest.raises(UserError, match="auroc needs detector= in its brackets"):
        parse("auroc(attack=badnet) > 90", "claim")


@pytest.mark.parametrize(
    ("unscored", "told"),
    [
        (0, "was not run"),
        (1, "has no value: 1 of 6 models has no score"),
        (2, "has no value: 2 of 6 models have no score"),
    ],
)
def test_a_detector_without_a_score_on_some_models_was_run(unscored, told):
    """A model without a score has no place in a ranking: the cell has no AUROC, as one that was not run."""
    rows = [(0, None, None, None), (None, None, 6, unscored)] if unscored else []
    frame = pd.DataFrame(rows, columns=["seed", "auroc", "items", "unscored"])
    frame = frame.assign(attack="badnet", defense="none", detector="decree")
    done = finished({}, detectors={"decree": {"method": "decree"}})
    found = judged(dataclasses.replace(done, detections=frame), "auroc(attack=badnet, detector=decree) > 90")
    assert (found.word, found.reason) == (UNMEASURED, f"auroc of none on badnet {told}")


@pytest.mark.parametrize(("gate", "word"), [("passed", HOLDS), ("failed", UNMEASURED)])
def test_a_share_of_an_attack_that_never_took_is_no_success(gate, word):
    """Generalised ASR is a share of the ASR@1 at home: of 1 % at home, all may be left elsewhere."""
    attacks = {name: {"method": name, "poisons": 300} for name in ("badnet", "blended")}
    done = finished({}, SEEDS, attacks={"badnet": attacks["badnet"], "maba": attacks["blended"]})
    done.study.attacks["maba"] = done.study.attacks["maba"].model_copy(update={"method": "maba"})
    for attack, share in (("badnet", 0.3), ("maba", 1.0)):
        for style in ("sketch", "negative", "painted", "night"):
            done.cells.loc[done.cells["attack"] == attack, f"asr_g_{style}"] = share
    done.table.loc[done.table["attack"] == "maba", "gate"] = gate
    claim = read_claims({key: paper.citation for key, paper in read_published().papers.items()})["maba_beats_patch"]
    judgement, found = verdict(claim, done)
    assert judgement == word
    assert gate == "passed" or found[0].reason == "the attack maba does not pass the gate"
