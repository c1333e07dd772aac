"""Each verdict on made-up cells."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import yaml

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study.slices import summary_plan
from antidote.study.study import Study
from antidote.study.tracks import Noise
from antidote.summary.cells import COLUMNS
from antidote.summary.claims import Claim, _figures, page, read_claims, verdict
from antidote.summary.finished import Finished
from antidote.summary.plan import SummarySettings
from antidote.summary.published import read_published
from antidote.summary.relations import parse
from antidote.summary.tables import summarise
from antidote.summary.verdicts import FAILS, HOLDS, UNDECIDED, UNMEASURED, UNTESTABLE, Verdict, judge

LOWER = "asr1(attack=badnet, defense=cleanclip) < asr1(attack=badnet, defense=finetune)"
PAPERS = {"cleanclip": "CleanCLIP (ICCV 2023)"}


def finished(rates, seeds=(0,), noise=None, tuned=True, **changes) -> Finished:
    """`rates`: ASR@1 and CA@1 of BadNet by defense, lists over seeds; `tuned`: each defense is a sweep of one setting."""
    values = {**read_mapping(str(ROOT / "config.yaml")), "seeds": list(seeds), "track": {"name": "tiny"}, **changes}
    study = Study(values, "study.yaml")
    plan = SummarySettings.read(read_mapping(summary_plan(study)), "plan")
    rates = {"none": ([1.0] * len(seeds), [0.95] * len(seeds)), **rates}
    rows = [{"attack": "clean", "defense": "none", "seed": seed, "ca1": 0.96} for seed in seeds]
    for attack in study.attacks:
        for defense in study.defenses:
            for i, seed in enumerate(seeds):
                row = {"attack": attack, "defense": defense, "seed": seed, "floor": 0.0}
                if attack == "badnet" and defense in rates:
                    row |= {"asr1": rates[defense][0][i], "ca1": rates[defense][1][i]}
                rows.append(row)
    cells = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(COLUMNS[3:], float))
    costs = [{"stage": "defend", "attack": "badnet", "defense": d, "seed": 0, "seconds": 12.0} for d in study.defenses]
    swept = {entry.name: entry.sweep or entry.name * tuned for entry in study.entries["defense"]}
    table = summarise(cells, plan)
    return Finished(
        study,
        cells,
        table,
        pd.DataFrame(costs),
        None,
        None,
        noise and Noise(cells=1, freedom=4, figures={"ca1": 0.0, **noise}),
        swept,
    )


def both(cleanclip, finetune, ca=0.94):
    return {"cleanclip": (cleanclip, [ca] * len(cleanclip)), "finetune": (finetune, [0.94] * len(finetune))}


def judged(done, text=LOWER, matched=True):
    return judge(parse(text, "claim"), done, matched)


def test_over_seeds_the_interval_of_the_paired_difference_decides():
    seeds = (0, 1, 2)
    assert judged(finished(both([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]), seeds)).word == HOLDS
    assert judged(finished(both([0.5, 0.6, 0.7], [0.1, 0.21, 0.3]), seeds)).word == FAILS
    found = judged(finished(both([0.1, 0.6, 0.3], [0.5, 0.3, 0.7]), seeds))
    assert found.word == UNDECIDED and "within the spread" in found.reason
    # differences -40, +30, -40: mean -16.67, sample deviation 40.41, t(0.975, 2) = 4.303
    assert found.difference == pytest.approx(-16.67, abs=0.01) and found.half == pytest.approx(100.4, abs=0.1)


def test_a_setting_of_a_detector_names_one_of_its_entries():
    entries = {"few": {"method": "dao", "neighbours": "released"}, "many": {"method": "dao"}}
    done = finished({}, detectors=entries)
    rows = [("badnet", "none", "0", "few", 0.4), ("badnet", "none", "0", "many", 0.99)]
    detections = pd.DataFrame(rows, columns=["attack", "defense", "seed", "detector", "auroc"])
    done = dataclasses.replace(done, detections=detections, noise=Noise(cells=1, freedom=4, figures={"auroc": 1.0}))
    for neighbours, word in (("released", FAILS), ("corrected", HOLDS)):
        text = f"auroc(attack=badnet, detector=dao, detector.neighbours={neighbours}) > 90"
        assert judged(done, text, matched=False).word == word
    text = "auroc(attack=badnet, detector=dao, detector.k=8) > 90"
    assert judged(done, text, matched=False).reason == "no entry of the detector dao"


def test_one_seed_needs_the_noise_floor_of_the_track():
    rates = both([0.1], [0.2])
    found = judged(finished(rates))
    assert found.word == UNDECIDED and "no noise floor" in found.reason
    assert judged(finished(rates, noise={"asr1": 2.0})).word == HOLDS  # 2.776 x 2 x sqrt 2 = 7.9 points
    assert judged(finished(rates, noise={"asr1": 5.0})).word == UNDECIDED  # 19.6 points
    assert judged(finished(rates, noise={"ca1": 2.0})).word == UNDECIDED
    assert judged(finished(both([0.3], [0.2]), noise={"asr1": 2.0})).word == FAILS


def test_two_seeds_that_agree_by_chance_do_not_decide_alone():
    rates, seeds = both([0.1, 0.1], [0.2, 0.2]), (0, 1)
    assert judged(finished(rates, seeds)).word == UNDECIDED
    found = judged(finished(rates, seeds, noise={"asr1": 3.0}))
    assert found.half == pytest.approx(8.33, abs=0.01) and found.word == HOLDS  # t(0.975, 4) = 2.776, x 3 x sqrt(2 / 2)
    assert judged(finished(rates, seeds, noise={"asr1": 4.0})).word == UNDECIDED


def test_a_summary_of_other_seeds_or_entries_is_refused(tmp_path):
    values = read_mapping(str(ROOT / "config.yaml"))
    file, summary = tmp_path / "study.yaml", tmp_path / values["study"] / "summary"
    summary.mkdir(parents=True)
    done = finished(both([0.1], [0.2]))
    done.cells.to_csv(summary / "cells.csv", index=False)
    done.table.to_csv(summary / "table.csv", index=False)
    done.costs.to_csv(summary / "costs.csv", index=False)
    file.write_text(yaml.safe_dump(values))
    assert len(Finished.read(file, tmp_path).cells) == len(done.cells)
    file.write_text(yaml.safe_dump({**values, "seeds": [0, 1]}))
    with pytest.raises(
        UserError, match=r"another state of .*: badnet, cleanclip, seed 1 is only in .*study\.yaml, not in"
    ):
        Finished.read(file, tmp_path)
    values["defenses"].pop("ta_cleaner")
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"badnet, ta_cleaner, seed 0 is only in .*cells\.csv"):
        Finished.read(file, tmp_path)


def test_a_margin_counts():
    done = finished(both([0.1], [0.2]), noise={"asr1": 1.0})
    assert judged(done, LOWER + " - 15").word == FAILS and judged(done, LOWER + " - 5").word == HOLDS


@pytest.mark.parametrize(
    "cleanclip,finetune,outside,word",
    [
        (0.1, 0.9, "cleanclip", UNDECIDED),  # a weaker CleanCLIP would leave more
        (0.9, 0.1, "cleanclip", FAILS),  # a weaker CleanCLIP would leave still more
        (0.1, 0.9, "finetune", HOLDS),
        (0.9, 0.1, "finetune", UNDECIDED),
    ],
)
def test_a_defense_beyond_the_budget_decides_only_against_itself(cleanclip, finetune, outside, word):
    rates = both([cleanclip], [finetune])
    rates[outside] = (rates[outside][0], [0.5])
    found = judged(finished(rates, noise={"asr1": 1.0}))
    assert found.word == word
    assert found.reason == (f"loses more accuracy than the other: {outside}" if word == UNDECIDED else "")
    assert judged(finished(rates, noise={"asr1": 1.0}), matched=False).word in (HOLDS, FAILS)


def test_the_cost_of_a_defense_is_decided_beyond_the_budget_too():
    done = finished(both([0.9], [0.9], ca=0.5), noise={"asr1": 1.0, "ca1": 1.0})
    assert judged(done, "ca1(attack=badnet, defense=cleanclip) >= ca1(attack=badnet) - 5").word == FAILS
    assert judged(done, "asr1(attack=badnet, defense=cleanclip) <= 10").word == FAILS


def test_the_success_that_is_left_elsewhere_is_judged():
    """ASR-G is a rate like the others. A defense beyond the budget decides nothing: a weaker one may keep any share."""
    seeds = (0, 1, 2)
    done = finished(both([0.1] * 3, [0.2] * 3, ca=0.5), seeds)
    for defense, shares in {"none": [0.8, 0.9, 0.85], "cleanclip": [0.6, 0.5, 0.55]}.items():
        rows = (done.cells["attack"] == "badnet") & (done.cells["defense"] == defense)
        done.cells.loc[rows, "asr_g_sketch"] = shares
    found = judged(done, "asr_g_sketch(attack=badnet) > 70")
    assert found.word == HOLDS and found.difference == pytest.approx(15) and found.sides == ("asr_g_sketch 85.0",)
    for relation in ("asr_g_sketch(attack=badnet, defense=cleanclip) " + end for end in ("< 75", "> 25")):
        found = judged(done, relation)
        assert found.word == UNDECIDED and "outside the accuracy budget" in found.reason


def test_defenses_of_which_none_was_swept_are_not_at_matched_accuracy():
    done = finished(both([0.1], [0.9]), noise={"asr1": 1.0}, tuned=False)
    found = judged(done)
    assert found.word == UNDECIDED and found.reason.startswith("no setting was swept") and found.difference < 0
    assert judged(done, matched=False).word == HOLDS
    assert judged(done, "asr1(attack=badnet, defense=cleanclip) <= 50").word == HOLDS


def test_a_margin_that_nothing_could_meet_is_no_verdict_on_the_method():
    """CleanCLIP can be at most 20 points below a rate of 20."""
    done = finished(both([0.0], [0.2]), noise={"asr1": 1.0})
    assert judged(done, f"{LOWER} - 30").word == UNTESTABLE
    assert judged(done, f"{LOWER} - 19").word == UNDECIDED  # 1 point, within the noise floor
    done = finished(both([0.0], [0.2]), noise={"asr1": 1.0, "ca1": 0.1})
    higher = "ca1(attack=badnet, defense=cleanclip) > ca1(attack=badnet)"
    assert judged(done, f"{higher} + 6").word == UNTESTABLE and judged(done, f"{higher} + 4").word == FAILS


def test_a_margin_that_the_spread_leaves_open_is_no_fault_of_the_method():
    """15 points below fine-tuning, which leaves 20, or between 12 and 28; CleanCLIP leaves 50."""
    for spread, word in ((0.0, FAILS), (0.03, UNDECIDED)):
        rates = both([0.5, 0.5, 0.5], [0.2 - spread, 0.2, 0.2 + spread])
        found = judged(finished(rates, (0, 1, 2)), f"{LOWER} - 15")
        assert found.word == word
    assert found.reason == "what it is compared with may leave less than the margin" and found.difference > found.half
    assert judged(finished(rates, (0, 1, 2)), f"{LOWER} - 40").word == UNTESTABLE
    assert judged(finished(both([0.5] * 3, [0.0, 0.01, 0.02]), (0, 1, 2))).word == FAILS  # no margin: 0 is never far


def test_for_few_seeds_only_the_other_side_has_a_noise_floor():
    done = finished({**both([0.5], [0.2]), "none": ([1.0], [0.95])}, noise={"asr1": 1.0, "asr5": 9.0})
    done.cells["asr5"] = done.cells["asr1"]
    mixed = "asr5(attack=badnet, defense=cleanclip) < asr1(attack=badnet, defense=finetune) - 24"
    assert judged(done, mixed).word == UNTESTABLE  # 17.4 at least, -4 is asked for; asr1 ± 2.8, asr5 ± 25


def test_what_holds_can_be_tested():
    """Ranked at random, a class is among the first ten of 24 in 39 %; a defense can push the target below that."""
    done = finished(both([0.0], [0.0]), noise={"asr10": 1.0})
    done.cells["asr10"] = done.cells["defense"].map({"cleanclip": 0.1, "finetune": 0.7})
    text = "asr10(attack=badnet, defense=cleanclip) < asr10(attack=badnet, defense=finetune)"
    assert judged(done, f"{text} - 40").word == HOLDS and judged(done, f"{text} - 67").word == FAILS
    assert judged(done, f"{text} - 75").word == UNTESTABLE


def test_of_a_sum_every_figure_is_taken_at_its_best():
    """Two rates of at most 100 can exceed 95 + 99, the first alone could not."""
    done = finished(both([0.6], [0.95]), noise={"asr1": 1.0, "asr5": 1.0})
    done.cells["asr5"] = done.cells["defense"].map({"cleanclip": 0.7, "finetune": 0.99})
    sums = [f"asr1(attack=badnet, defense={d}) + asr5(attack=badnet, defense={d})" for d in ("cleanclip", "finetune")]
    assert judged(done, " > ".join(sums)).word == FAILS
    assert judged(done, f"{' > '.join(sums)} + 20").word == UNTESTABLE


def test_a_seed_without_a_figure_does_not_count():
    done = finished(both([0.1, 0.2, 0.9], [0.5, 0.6, 0.7]), (0, 1, 2), noise={"asr1": 1.0})
    gone = (done.cells["defense"] == "cleanclip") & (done.cells["seed"] == 2)
    done.cells.loc[gone, "asr1"] = float("nan")
    found = judged(done)
    assert found.seeds == 2 and found.sides == ("asr1 15.0", "asr1 55.0") and found.difference == pytest.approx(-40)
    text = page({"one": Claim(paper="cleanclip", sentence="s", value="v", relations=[LOWER])}, PAPERS, [done])
    assert "| tiny 1, default, 2 of 3 seeds | asr1 15.0, asr1 55.0: -40.0" in text


def test_an_entry_that_passes_the_gate_stands_for_its_method_and_is_named():
    attacks = {
        "badnet": {"method": "badnet", "preset": "checkered", "patch_size": 6, "poisons": 300},
        "striped": {"method": "badnet", "pattern": "stripes", "patch_size": 6, "poisons": 300},
    }
    done = finished({"none": ([0.4], [0.9])}, attacks=attacks)
    done.cells.loc[done.cells["attack"] == "striped", ["asr1", "psnr", "asr1_night"]] = [1.0, 21.25, 0.75]
    done.table.loc[done.table["attack"] == "striped", "gate"] = "passed"
    found = judge(parse("asr1(attack=badnet) > 50", "claim"), done, True, gated=False)
    assert found.sides == ("asr1 of striped 100.0",)
    assert judged(done, "psnr(attack=badnet) > 20").sides == ("psnr of striped 21.2",)
    assert judged(done, "asr1_night(attack=badnet) > 20").sides == ("asr1_night of striped 75.0",)
    assert judged(done, "asr1_day(attack=badnet) > 20").reason == "asr1_day of none on striped was not run"


def test_a_rise_is_compared_with_that_of_the_control():
    done = finished(both([0.1], [0.2]))
    rows = [
        {"attack": "badnet", "defense": "cleanclip", "seed": 0, "adaptation": adaptation, "model": model, "delta": delta,
         "delivered": 0.1}
        for adaptation, model, delta in [
            ("full", "backdoored", 0.3), ("full", "clean", 0.1), ("lora", "backdoored", 0.5), ("lora", "clean", 0.0),
        ]
    ]  # fmt: skip
    done.persistence = pd.DataFrame(rows)
    term = "(attack=badnet, defense=cleanclip, adaptation=full)"
    found = judged(done, f"delta{term} - delta_control{term} >= 10")
    assert found.sides == ("delta 30.0", "delta_control 10.0") and found.difference == pytest.approx(10)
    assert judged(done, "delta(attack=badnet, defense=cleanclip) > 10").sides == ("delta 50.0",)


def test_the_time_is_that_of_the_settings_shown():
    """A setting that another attack shows does not count."""
    defenses = {"tuned": {"method": "finetune", "training": {"lr": [0.001, 0.002]}}}
    rates = {"tuned_lr0.001": ([0.9], [0.95]), "tuned_lr0.002": ([0.6], [0.94])}
    done = finished(rates, defenses=defenses)
    done.costs["seconds"] = [1000.0 if name == "tuned_lr0.001" else 12.0 for name in done.costs["defense"]]
    blended = done.costs.assign(attack="blended", seconds=2000.0)
    done.costs = pd.concat([done.costs, blended])
    assert "| 12.0 s |" in page({}, PAPERS, [done])


def test_what_was_not_run_is_not_measured():
    done = finished({"cleanclip": ([0.1], [0.9])})
    for text, reason in [
        (LOWER, "asr1 of finetune on badnet was not run"),
        ("asr1(attack=siba) > 50", "no entry of the attack siba"),
        ("asr1(attack=badnet, defense=rvpt) < 5", "no entry of the defense rvpt"),
        ("auroc(attack=badnet, detector=dao) > 90", "the study measures no detections"),
        ("delta(attack=badnet) > 10", "the study measures no persistence"),
        ("asr1(attack=blended) > 50", "the attack blended was not run"),
        ("asr1(attack=badnet, attack.pattern=stripes) > 50", "no entry of the attack badnet"),
    ]:
        found = judged(done, text)
        assert (found.word, found.reason) == (UNMEASURED, reason)
    weak = judged(finished({"none": ([0.5], [0.9])}), "asr1(attack=badnet) > 20")
    assert (weak.word, weak.reason) == (UNMEASURED, "the attack badnet does not pass the gate")


def test_the_worst_of_several_relations_is_the_verdict():
    done = finished(both([0.1], [0.2]), noise={"asr1": 1.0, "ca1": 1.0})
    for second, word in [
        ("ca1(attack=badnet, defense=cleanclip) > 50", HOLDS),
        ("ca1(attack=badnet, defense=cleanclip) > 99", FAILS),
        ("ca1(attack=badnet, defense=cleanclip) > 94.5", UNDECIDED),
        ("ca1(attack=siba) > 50", UNMEASURED),
    ]:
        claim = Claim(paper="cleanclip", sentence="s", value="v", relations=[LOWER, second])
        assert verdict(claim, done)[0] == word


def test_the_page_says_which_defense_to_use_and_what_holds():
    claims = {"one": Claim(paper="cleanclip", sentence="Lower.", value="14.0", relations=[LOWER])}
    text = page(claims, PAPERS, [finished(both([0.1], [0.2]), noise={"asr1": 1.0})])
    row = "| tiny 1, default | clean-pairs | CleanCLIP | 10.0 (badnet) | 10.0 | 1.0 | 12.0 s | 1 attack, 1 seed, "
    assert f"{row}noise floor of ASR@1 1.0 |" in text
    assert f"{row}spread unknown |" in page(claims, PAPERS, [finished(both([0.1], [0.2]))])
    assert text.index("| CleanCLIP |") < text.index("| Fine-tuning |")
    assert "### CleanCLIP (ICCV 2023)" in text
    assert (
        "| Lower. | 14.0 | tiny 1, default, 1 seed | asr1 10.0, asr1 20.0: -10.0 ± 3.9, losing 1.0 | **holds** |"
        in text
    )
    assert "| Lower. | 14.0 |  |  | not measured |" in page(claims, PAPERS, [])


@pytest.mark.parametrize(
    ("difference", "half", "text"),
    [
        (-3.037, 3.012, "-3.04 ± 3.01"),
        (3.0371, 3.0369, "+3.0371 ± 3.0369"),
        (-3.04, 3.56, "-3.0 ± 3.6"),
        (2.0, 2.0, "+2.0 ± 2.0"),
        (2.0, None, "+2.0"),
    ],
)
def test_a_difference_is_told_from_half_of_its_interval(difference, half, text):
    """-3.0 ± 3.0 does not show why the claim holds."""
    assert _figures(Verdict(HOLDS, difference=difference, half=half, sides=("asr1 5.0",))) == f"asr1 5.0: {text}"


def test_a_label_breaks_no_table():
    values = read_mapping(str(ROOT / "config.yaml"))["defenses"]
    values["finetune"]["label"] = "a | `b` <i>"
    text = page({}, {}, [finished(both([0.1], [0.2]), defenses=values)])
    assert "| a \\| \\`b\\` \\<i\\>" in text


def test_verdicts_are_counted_once_per_study_that_measured_the_claim():
    lower = {"paper": "cleanclip", "sentence": "s", "value": "v"}
    claims = {
        "one": Claim(**lower, relations=[LOWER]),
        "two": Claim(**lower, relations=["asr1(attack=badnet, defense=par) < 5"]),
    }
    noise, rates = {"asr1": 1.0}, both([0.1], [0.2])
    text = page(
        claims, PAPERS, [finished(rates, noise=noise), finished(both([0.2], [0.1]), noise=noise), finished(rates)]
    )
    assert "| work | holds | undecided | cannot be tested | not measured | does not hold |" in text
    assert "| CleanCLIP (ICCV 2023) | 1 | 1 |  | 1 | 1 |" in text


def test_a_track_on_which_no_study_measured_a_claim_is_named():
    one = Claim(paper="cleanclip", sentence="s", value="v", relations=[LOWER])
    measured, empty = finished(both([0.1], [0.2]), noise={"asr1": 1.0}), finished({})
    recipe = {"start": "clean", "epochs": 4, "batch_size": 128, "lr": 0.001}
    other = finished({}, track={"name": "tiny-start"}, poisoning=recipe)
    text = page({"one": one}, PAPERS, [measured, empty, other])
    assert "|  |  | tiny-start 1 |  | not measured |" in text
    assert "| CleanCLIP (ICCV 2023) | 1 |  |  | 1 |  |" in text, "on tiny another study measured it"
    assert "| s | v | tiny-start 1 |  | not measured (default: " in page({"one": one}, PAPERS, [other])


def test_the_projects_claims_are_valid_and_cover_the_list():
    papers = read_published().papers
    found = read_claims({key: paper.citation for key, paper in papers.items()})
    works = (
        "ta_cleaner ubt ubt_token cbpt rvpt cleanclip par badclip siba attention flba maba transferability imbert beear"
    )
    assert {*works.split()} <= {claim.paper for claim in found.values()}


def test_studies_with_the_same_figures_share_a_row_and_count_once():
    """They have the same models from a shared cache; a third has others."""
    rates, seeds = both([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]), (0, 1, 2)
    same = [finished(rates, seeds, study=name) for name in ("one", "two")]
    other = finished(both([0.1, 0.2, 0.3], [0.6, 0.6, 0.7]), seeds, study="three")
    near = finished(both([0.1, 0.2, 0.3], [0.5, 0.6, 0.7], ca=0.9401), seeds, study="near")
    claims = {"one": Claim(paper="cleanclip", sentence="s", value="v", relations=[LOWER])}
    text = page(claims, PAPERS, [same[0], other, same[1], near])
    assert "| s | v | tiny 1, one and two, 3 seeds |" in text and "|  |  | tiny 1, three, 3 seeds |" in text
    assert "| CleanCLIP (ICCV 2023) | 3 |  |  |  |  |" in text
    assert "|  |  | tiny 1, near, 3 seeds |" in text, "the same figures by rounding alone"
    assert "| tiny 1, one, two and near | clean-pairs | Fine-tuning | 60.0 (badnet) |" in text
    assert "| tiny 1, three | clean-pairs | Fine-tuning | 63.3 (badnet) |" in text
    assert "| tiny 1, one, three and two | clean-pairs | CleanCLIP | 20.0 (badnet) |" in text
    assert "| tiny 1, near | clean-pairs | CleanCLIP | 20.0 (badnet) |" in text
