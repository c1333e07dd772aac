"""The table of a summary on the tiny study, with the numbers worked out by hand."""

import re

import numpy as np
import pytest
from tiny_study import PLAN, WEIRD, cell, put

from antidote.summary import documents
from antidote.summary.cells import read_cells
from antidote.summary.costs import read_costs
from antidote.summary.csv_files import read_table, write_csv
from antidote.summary.metrics import metrics
from antidote.summary.page import render
from antidote.summary.plan import SummarySettings
from antidote.summary.tables import summarise
from antidote.summary.text import markdown, plain


def test_mean_std_and_interval_over_seeds(table):
    tune = cell(table, "patch", "tune")
    assert tune["asr1_mean"] == pytest.approx(0.25)
    assert tune["asr1_std"] == pytest.approx(0.0707106781)
    assert tune["asr1_n"] == 2
    assert (tune["ca1_low"], tune["ca1_high"]) == (pytest.approx(0.56), pytest.approx(0.62))
    alone = cell(table, "patch", "filter")
    assert alone["asr1_mean"] == 0.4 and np.isnan(alone["asr1_std"]) and alone["note"] == "1 of 2 seeds"


@pytest.mark.parametrize("kind", ["attacks", "defenses", "resistance", "single"])
def test_a_label_breaks_no_table_of_a_page(results, kind):
    """Each row has the cells of the head, whatever the labels of attacks and defenses hold."""
    swept = {"label": WEIRD, "sweep": "tunes", "access": "clean-pairs", "method": "finetune"}
    settings = [{**swept, "name": "tune", "setting": "lr 1"}, {**swept, "name": "harsh", "setting": "lr 2"}]
    weird = SummarySettings.read({**PLAN, "defenses": [PLAN["defenses"][0], *settings], "blank": []}, "plan")
    cells = read_cells(weird, results).assign(resistance_noise=0.5)
    table = summarise(cells, weird)
    row = {**dict.fromkeys(("score", "figure", "value", "meaning"), "x"), "label": WEIRD}
    text = {
        "attacks": lambda: documents.attacks(weird, table, cells),
        "defenses": lambda: documents.defenses(weird, table, cells, read_costs(weird, results, results)),
        "resistance": lambda: documents.resistance(weird, table, cells, results / "summary"),
        "single": lambda: documents.single([row]),
    }[kind]()
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block
    assert "alert(1)" in text and "<script" not in text.replace("\\<", "")


def test_gate_marks_an_attack_that_has_not_taken(table):
    patch, weak = cell(table, "patch", "none"), cell(table, "weak", "none")
    assert patch["gate"] == "passed"
    assert weak["gate"] == "failed"
    assert "55.0 %, below the gate of 80 %" in weak["gate_reason"]
    assert "10.0 % on the clean model, above 5 %" in weak["gate_reason"]


def test_a_trigger_fitted_on_the_clean_model_has_to_exceed_its_floor(plan, results):
    """100 % at a floor of 20 % takes by exactly 80 points; at 21 % it does not; nothing is said without a floor."""

    def gate(floor, fitted=True):
        for seed in (0, 1):
            put(results / f"patch/seed{seed}/none/scores.json", {"ca1": 0.6, "asr1": 1.0})
            put(results / f"patch/seed{seed}/floor/scores.json", {"ca1": 0.6, "asr1": floor})
        attacks = [a.model_copy(update={"fitted": fitted and a.name == "patch"}) for a in plan.attacks]
        given = plan.model_copy(update={"attacks": attacks})
        row = cell(summarise(read_cells(given, results), given), "patch", "none")
        return row["gate"], row["gate_reason"]

    assert gate(0.2) == ("passed", "ASR@1 without a defense 100.0 %, floor 20.0 %")
    assert gate(0.21) == (
        "failed",
        "ASR@1 without a defense is 100.0 %, 79.0 points above the floor of a trigger that is fitted on the clean model; "
        "the gate asks for 80",
    )
    assert gate(0.2, fitted=False)[0] == "failed" and gate(None)[0] == "not measured"


def test_an_attack_without_asr_is_judged_by_its_own_figure(plan, results):
    """Hit@10 on the clean model is the floor; gate, best defense and tables go by it; ASR stays empty."""
    hits = {"floor": (0.0, 0.1), "none": (0.9, 0.8), "tune": (0.3, 0.5), "harsh": (0.9, 0.9)}
    for defense, values in hits.items():
        for seed, value in enumerate(values):
            scores = {"ca1": 0.6, "asr1": None, "extra": {"hit10": value, "min_rank": 7.5}}
            put(results / f"silent/seed{seed}/{defense}/scores.json", scores)
    facts = {"name": "silent", "method": "mmpoison", "score": "hit10", "triggered": False}
    plan = SummarySettings.read({**PLAN, "attacks": [*PLAN["attacks"], facts]}, "plan")
    cells = read_cells(plan, results)
    table = summarise(cells, plan)
    none, tune = cell(table, "silent", "none"), cell(table, "silent", "tune")
    assert (none["score"], none["score_mean"], none["floor_mean"]) == (
        "hit10",
        pytest.approx(0.85),
        pytest.approx(0.05),
    )
    assert np.isnan(none["asr1_mean"]) and cells.loc[cells["attack"] == "silent", "asr1"].isna().all()
    assert none["gate"] == "passed" and none["gate_reason"] == "hit10 without a defense 85.0 %, floor 5.0 %"
    assert (
        tune["best"] == "yes"
        and cell(table, "patch", "none")["score_mean"] == cell(table, "patch", "none")["asr1_mean"]
    )
    text = plain(table)
    assert (
        "silent (hit10)" in text and "silent: scored by hit10 in the place of ASR@1" in text and "40.0 ± 14.1" in text
    )
    assert metrics(table)["silent"]["tune"] == {"ca1": 0.6, "hit10": 0.4}
    strict = plan.model_copy(update={"gate": plan.gate.model_copy(update={"asr": 0.9, "floor": 0.01})})
    reason = cell(summarise(cells, strict), "silent", "none")["gate_reason"]
    assert reason == (
        "hit10 without a defense is 85.0 %, below the gate of 90 %; hit10 without the attack reaches 5.0 % on the clean "
        "model, above 1 %"
    )


def test_gate_is_not_guessed_without_a_floor(plan, results):
    for seed in (0, 1):
        (results / f"patch/seed{seed}/floor/scores.json").unlink()
    table = summarise(read_cells(plan, results), plan)
    assert cell(table, "patch", "none")["gate"] == "not measured"
    assert "patch ?" in plain(table)


def test_best_is_the_lowest_asr_within_the_accuracy_budget(table, plan, results):
    """`harsh` is lower but loses 11 points; on `weak` the only defense makes things worse."""
    assert list(table.loc[table["best"] == "yes", "defense"]) == ["tune"]
    wide = plan.model_copy(update={"accuracy_budget": 0.11})
    table = summarise(read_cells(wide, results), wide)
    assert list(table.loc[table["best"] == "yes", "defense"]) == ["harsh"]


def test_a_control_is_never_the_best(plan, results):
    """What is told which pairs are poisoned is no defense; it stays in the table, and a note says why it is not marked."""
    control = {"name": "told", "method": "ubt_oracle", "access": "oracle"}
    plan = SummarySettings.read({**PLAN, "defenses": [*PLAN["defenses"], control]}, "plan")
    for seed in (0, 1):
        put(results / f"patch/seed{seed}/told/scores.json", {"ca1": 0.6, "asr1": 0.0})
    table = summarise(read_cells(plan, results), plan)
    assert list(table.loc[table["best"] == "yes", "defense"]) == ["tune"]
    assert cell(table, "patch", "told")["within"] == "yes" and cell(table, "patch", "told")["asr1_mean"] == 0
    assert "- told: a control, no defense; left out of the comparison" in markdown(table, "tiny").splitlines()
    costs, folder = read_costs(plan, results, results), results / "plots"
    for name in ("heatmap", "plane", "gallery", "curves"):
        put(folder / f"{name}.png", "")
    page = render(plan, read_cells(plan, results), costs, table, (0, 0), [], [], folder)
    assert "told: a control, no defense; left out of the comparison" in page


def test_notes_tell_not_applicable_from_not_run(table):
    assert cell(table, "weak", "filter")["note"].startswith("not applicable: no poisoned pairs")
    assert cell(table, "weak", "harsh")["note"] == "not run"
    assert cell(table, "patch", "none")["note"] == ""


def test_markdown(table):
    lines = markdown(table, "tiny").splitlines()
    assert "| attack | floor | none | tune | harsh | filter ‡ |" in lines
    assert "| patch | 2.0 | 94.0 ± 2.8 | **25.0 ± 7.1** | 3.0 ± 1.4 | 40.0 (n=1) |" in lines
    assert "| weak † | 10.0 | 55.0 ± 7.1 | 75.0 ± 7.1 |  | - [1] |" in lines
    assert "| clean | 63.0 ± 1.4 |  |  |  |" in lines
    assert "\n- [1] not applicable: no poisoned pairs \\<script\\>" in "\n".join(lines)


def test_plain_text_survives_the_way_through_csv(table, tmp_path):
    write_csv(table, tmp_path / "table.csv")
    assert plain(read_table(tmp_path / "table.csv")) == plain(table)
    assert "*25.0 ± 7.1" in plain(table)
