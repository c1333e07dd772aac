"""The summary stage on a tiny made-up study, with the numbers worked out by hand."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from antidote.base.errors import UserError
from antidote.summary.cells import read_cells
from antidote.summary.costs import read_costs
from antidote.summary.csv_files import read_table, text, write_csv
from antidote.summary.curves import read_log
from antidote.summary.gallery import difference, read_sheet
from antidote.summary.metrics import metrics
from antidote.summary.page import duration, render, size
from antidote.summary.plan import SummarySettings
from antidote.summary.tables import summarise
from antidote.summary.text import markdown, plain

ROOT = Path(__file__).parents[3]
WEIRD = "<script>alert(1)</script> & $x^2$ | `y`"

PLAN = {
    "study": "tiny",
    "target": "banana",
    "model": "RN50",
    "seeds": [0, 1],
    "attacks": [
        {"name": "patch", "method": "badnet", "label": WEIRD, "threat_model": "data-poisoning", "poisons": 30},
        {"name": "weak", "method": "blended", "threat_model": "data-poisoning", "poisons": None},
    ],
    "defenses": [
        {"name": "none", "method": "none", "label": "no defense"},
        {"name": "tune", "method": "finetune", "label": "Fine-tuning", "access": "clean-pairs"},
        {"name": "harsh", "method": "finetune", "access": "clean-pairs"},
        {"name": "filter", "method": "filter", "access": "poisoned-training-set", "reconstruction": True},
    ],
    "blank": [{"attack": "weak", "defense": "filter", "reason": f"no poisoned pairs {WEIRD}"}],
    "datasets": [["scenes", "train"]],
}

# CA@1 and ASR@1 by attack, defense and seed. `harsh` has the lowest ASR but loses 11 points; `filter` of seed 1 and
# `harsh` on `weak` were never run.
SCORES = {
    ("clean", "none"): [(0.62, None), (0.64, None)],
    ("patch", "floor"): [(0.62, 0.01), (0.64, 0.03)],
    ("patch", "none"): [(0.60, 0.96), (0.62, 0.92)],
    ("patch", "tune"): [(0.57, 0.20), (0.59, 0.30)],
    ("patch", "harsh"): [(0.50, 0.02), (0.50, 0.04)],
    ("patch", "filter"): [(0.60, 0.40), None],
    ("weak", "floor"): [(0.62, 0.10), (0.64, 0.10)],
    ("weak", "none"): [(0.60, 0.50), (0.60, 0.60)],
    ("weak", "tune"): [(0.60, 0.70), (0.60, 0.80)],
}


def put(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def make_study(root: Path) -> Path:
    results = root / "results" / "tiny"
    for (attack, defense), seeds in SCORES.items():
        for seed, rates in enumerate(seeds):
            if rates is None:
                continue
            ca1, asr1 = rates
            scores = {"ca1": ca1, "ca5": 0.9, "asr1": asr1, "intervals": {"ca1": [ca1 - 0.02, ca1 + 0.04]}}
            scores |= {"attack": attack, "defense": defense, "seed": seed, "pictures": 1000, "pictures_asr": 900}
            if defense == "tune":
                scores["extra"] = {"recall": 0.5}
            put(results / attack / f"seed{seed}" / defense / "scores.json", scores)
    for seed in (0, 1):
        cost = {"seconds": 100.5, "peak_memory_bytes": 3 * 2**30, "threads": 2, "device": "a CPU"}
        put(results / f"clean/seed{seed}/model/cost.json", cost)
        cost = {"seconds": 10, "trained_parameters": 38316897, "pairs": 50, "shared": True}
        put(results / f"patch/seed{seed}/tune/model/cost.json", cost)
        log = results / f"clean/seed{seed}/model/train.jsonl"
        log.write_text("".join(json.dumps({"step": i, "loss": 3 - i / 10}) + "\n" for i in range(10)))
    put(root / "data/scenes/train/cost.json", {"seconds": 5})
    pictures = np.random.default_rng(0).integers(0, 200, (2, 8, 8, 8, 3), dtype=np.uint8)
    pictures[1] = pictures[0] + 12
    sheet = pictures.swapaxes(1, 2).reshape(16, 64, 3)
    Image.fromarray(sheet).save(results / "patch/seed0/floor/examples.png")
    return results


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return make_study(tmp_path)


@pytest.fixture
def plan() -> SummarySettings:
    return SummarySettings.read(PLAN, "plan")


@pytest.fixture
def table(plan: SummarySettings, results: Path) -> pd.DataFrame:
    return summarise(read_cells(plan, results), plan)


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The summary folder, made by the script itself; fails where that imports torch."""
    root = tmp_path_factory.mktemp("study")
    make_study(root)
    put(root / "plan.json", PLAN)
    run_script(root)
    return root / "results/tiny/summary"


def run_script(root: Path, output: str = "summary") -> None:
    code = (
        "import runpy, sys; runpy.run_path('scripts/summarise.py', run_name='__main__'); "
        "assert 'torch' not in sys.modules"
    )
    results = root / "results/tiny"
    where = ["--settings", root / "plan.json", "--results", results, "--data", root / "data"]
    what = ["--output", results / output, "--cost", root / "cost.json"]
    done = subprocess.run([sys.executable, "-c", code, *where, *what], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def cell(table: pd.DataFrame, attack: str, defense: str) -> pd.Series:
    return table[(table["attack"] == attack) & (table["defense"] == defense)].iloc[0]


# cells


def test_cells_follow_the_plan_and_leave_blank_what_was_not_run(plan, results):
    cells = read_cells(plan, results)
    names = ["attack", "defense", "seed", "ca1", "ca5", "asr1", "asr3", "asr5", "asr10"]
    names += ["asr1_all", "asr3_all", "asr5_all", "asr10_all", "pa", "pa_all", "floor"]
    assert list(cells.columns) == [*names, "target_ca1", "ca1_low", "ca1_high", "asr1_low", "asr1_high", "recall"]
    assert len(cells) == 2 + 2 * 4 * 2
    assert list(zip(cells["attack"], cells["defense"], cells["seed"], strict=True))[:5] == [
        *(("clean", "none", 0), ("clean", "none", 1)),
        *(("patch", "none", 0), ("patch", "none", 1), ("patch", "tune", 0)),
    ]
    filtered = cells[(cells["attack"] == "patch") & (cells["defense"] == "filter")]
    assert list(filtered["ca1"].isna()) == [False, True]
    assert list(filtered["floor"]) == [0.01, 0.03]
    assert cells.loc[cells["attack"] == "clean", ["asr1", "floor"]].isna().all(axis=None)
    assert list(cells["recall"].notna()) == list(cells["defense"] == "tune")


def test_csv_is_fixed_text(plan, results, tmp_path):
    write_csv(read_cells(plan, results), tmp_path / "cells.csv")
    data = (tmp_path / "cells.csv").read_bytes()
    assert b"\r" not in data
    lines = data.decode().splitlines()
    assert lines[1] == "clean,none,0,0.62,0.9,,,,,,,,,,,,,0.6,0.66,,,"
    assert lines[5] == "patch,tune,0,0.57,0.9,0.2,,,,,,,,,,0.01,,0.55,0.61,,,0.5"
    assert lines[-1] == "weak,filter,1,,,,,,,,,,,,,0.1,,,,,,"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, "1"), (0.0, "0"), (1 / 3, "0.333333333"), (float("nan"), ""), (12345678901, "12345678901"), (None, "")],
)
def test_numbers_in_csv(value, expected):
    assert text(value) == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "should hold keys and values"),
        ('{"ca1": 61.5, "asr1": null}', "ca1: "),
        ('{"ca1": 0.5}', "asr1: is missing"),
        ('{"ca1": 0.5, "asr1": NaN}', "asr1: "),
        ('{"ca1": 0.5, "asr1": 0.5, "extra": {"pa": 1}}', "extra.pa: "),
    ],
)
def test_a_corrupt_score_is_one_line_that_names_the_file(plan, results, content, says):
    path = results / "patch/seed1/tune/scores.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_cells(plan, results)
    assert str(path) in str(error.value) and says in str(error.value) and "\n" not in str(error.value)


def test_a_blank_cell_of_the_plan_is_not_read(plan, results):
    put(results / "weak/seed0/filter/scores.json", {"ca1": 0.5, "asr1": 0.5})
    cells = read_cells(plan, results)
    assert cells[(cells["attack"] == "weak") & (cells["defense"] == "filter")]["asr1"].isna().all()


# tables


def test_mean_std_and_interval_over_seeds(table):
    tune = cell(table, "patch", "tune")
    assert tune["asr1_mean"] == pytest.approx(0.25)
    assert tune["asr1_std"] == pytest.approx(0.0707106781)
    assert tune["asr1_n"] == 2
    assert (tune["ca1_low"], tune["ca1_high"]) == (pytest.approx(0.56), pytest.approx(0.62))
    alone = cell(table, "patch", "filter")
    assert alone["asr1_mean"] == 0.4 and np.isnan(alone["asr1_std"]) and alone["note"] == "1 of 2 seeds"


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


def test_none_is_always_in_the_matrix():
    plan = SummarySettings.read({"study": "s", "defenses": [{"name": "tune"}]}, "plan")
    assert [d.name for d in plan.defenses] == ["none", "tune"]
    assert [d.name for d in SummarySettings.read({"study": "s"}, "plan").defenses] == ["none"]


def test_an_unknown_key_of_the_plan_is_one_line():
    with pytest.raises(UserError, match="acuracy_budget: unknown key; did you mean 'accuracy_budget'"):
        SummarySettings.read({"study": "s", "acuracy_budget": 1}, "plan")


# costs, logs, pictures


def test_costs_hold_what_was_run(plan, results, tmp_path):
    costs = read_costs(plan, results, tmp_path / "data")
    assert list(costs["stage"]) == ["dataset", "pretrain", "pretrain", "defend", "defend"]
    write_csv(costs, tmp_path / "costs.csv")
    with (tmp_path / "costs.csv").open() as file:
        rows = list(csv.reader(file))
    names = ["seconds", "peak_memory_bytes", "peak_gpu_memory_bytes", "trained_parameters", "pairs", "steps", "threads"]
    assert rows[0] == ["stage", "attack", "defense", "seed", *names, "device", "shared", "dataset"]
    assert rows[1] == ["dataset", "", "", "", "5", "", "", "", "", "", "", "", "", "scenes/train"]
    assert rows[2] == ["pretrain", "clean", "", "0", "100.5", "3221225472", "", "", "", "", "2", "a CPU", "", ""]
    assert rows[4] == ["defend", "patch", "tune", "0", "10", "", "", "38316897", "50", "", "", "", "1", ""]


def test_a_corrupt_cost_is_one_line_that_names_the_file(plan, results, tmp_path):
    path = results / "patch/seed0/model/cost.json"
    put(path, {"seconds": "long"})
    with pytest.raises(UserError, match=re.escape(f"{path}: seconds: ")):
        read_costs(plan, results, tmp_path / "data")


def test_a_long_log_is_drawn_as_means(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"step": i, "loss": float(i % 2)}) + "\n" for i in range(1000)))
    log = read_log(path)
    assert len(log) == 200 and log["step"].iloc[0] == 2 and set(log["loss"]) <= {0.4, 0.6}
    path.write_text('{"step": 1, "loss": 2}\n{"step": 2}\n')
    with pytest.raises(UserError, match=re.escape(f"{path}: line 2")):
        read_log(path)


def test_sheet_and_amplified_difference(results, tmp_path):
    pictures = read_sheet(results / "patch/seed0/floor/examples.png")
    assert pictures.shape == (2, 8, 8, 8, 3)
    shown, factor, largest = difference(pictures[0], pictures[1])
    assert (factor, largest) == (20, 12) and set(np.unique(shown)) == {240}
    Image.new("RGB", (64, 20)).save(tmp_path / "odd.png")
    (tmp_path / "no.png").write_bytes(b"no picture")
    for name in ("odd.png", "no.png"):
        with pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
            read_sheet(tmp_path / name)


def test_words_for_durations_and_sizes():
    assert [duration(s) for s in (4.21, 200, 7500)] == ["4.2 s", "3 min 20 s", "2 h 05 min"]
    assert [size(b) for b in (3 * 2**20, 3 * 2**30)] == ["3 MiB", "3.0 GiB"]


# the scripts


def test_outputs(summary):
    names = {path.name for path in summary.iterdir()}
    assert names == {
        *("cells.csv", "costs.csv", "table.csv", "metrics.json", "table.md", "report.html"),
        *("heatmap.png", "plane.png", "gallery.png", "curves.png"),
    }
    for path in summary.glob("*.png"):
        with Image.open(path) as image:
            assert "Software" not in image.info and image.size[0] > 500
    assert json.loads((summary.parents[2] / "cost.json").read_text())["seconds"] > 0


def test_metrics_are_the_means_of_the_table(summary):
    metrics = json.loads((summary / "metrics.json").read_text())
    assert metrics["clean"] == {"none": {"ca1": 0.63}}
    assert metrics["patch"]["tune"] == {"ca1": 0.58, "asr1": 0.25}
    assert set(metrics["weak"]) == {"none", "tune"}  # what was not run, and what does not apply, is left out


def test_a_second_run_gives_the_same_bytes(summary):
    run_script(summary.parents[2], "again")
    again = summary.parent / "again"
    assert {path.name for path in summary.iterdir() if path.read_bytes() != (again / path.name).read_bytes()} == set()
    shutil.rmtree(again)


def test_the_page_is_self_contained_and_escaped(summary):
    page = (summary / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"url\(|@import|<script [^>]*|<link|<iframe|fetch\(|XMLHttp", page)
    assert page.count("<script>") == page.count("</script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $x^2$ | `y`" in page
    for words in ("banana", "has not taken", "25.0 ± 7.1", "not applicable: no poisoned pairs", "3.0 GiB", "recall"):
        assert words in page


def test_weird_names_can_be_drawn(tmp_path):
    """An entry may be called anything: a dollar sign is not mathematics, a tag is not markup."""
    from antidote.summary.curves import curves
    from antidote.summary.gallery import gallery
    from antidote.summary.heatmap import heatmap
    from antidote.summary.persistence import plot
    from antidote.summary.plane import plane

    plan = SummarySettings.read(
        {"study": WEIRD, "attacks": [{"name": "a$_{"}], "defenses": [{"name": "<b>$\\x"}], "model": WEIRD}, "plan"
    )
    for defense, asr in (("none", 0.9), ("<b>$\\x", 0.1), ("floor", 0.01)):
        put(tmp_path / "a$_{" / "seed0" / defense / "scores.json", {"ca1": 0.5, "asr1": asr})
    cells = read_cells(plan, tmp_path)
    table, costs = summarise(cells, plan), read_costs(plan, tmp_path, tmp_path)
    heatmap(table, tmp_path / "heatmap.png")
    plane(table, plan, tmp_path / "plane.png")
    gallery(plan, tmp_path, table, tmp_path / "gallery.png")
    plot(plan, tmp_path, table, tmp_path / "persistence.png")
    curves(plan, tmp_path, tmp_path / "curves.png")
    page = render(plan, cells, costs, table, (0, 0), [], [], tmp_path)
    assert page.count("<script") == 1 and "<b>" not in page and "&lt;b&gt;$\\x" in page


def test_a_model_without_accuracy_does_not_press_the_others_together(table, plan):
    from antidote.summary.plane import LOSS, _limits

    cells = table[table["attack"] == "patch"].assign(x=lambda cells: 100 * cells["ca1_mean"])
    none = cells.loc[cells["defense"] == "none", "x"].iloc[0]
    assert _limits(cells, plan)[0] == pytest.approx(min(cells["x"].min(), none - 100 * plan.accuracy_budget))
    cells.loc[cells["defense"] == "harsh", "x"] = none - LOSS - 20
    assert _limits(cells, plan) == pytest.approx((none - LOSS, cells["x"].max()))


def test_a_strip_shows_a_clean_picture_above_the_triggered_one(tmp_path):
    from antidote.summary.strip import GAP, HEAD, MARGIN, SIDE, strip

    sheet = np.zeros((2, 8, 4, 4, 3), np.uint8)
    sheet[0, :, ..., 0], sheet[1, :, ..., 2] = 200, np.arange(8)[:, None, None] * 10
    names = ["one", "two"]
    for name in names:
        put(tmp_path / name / "seed1" / "floor" / "scores.json", {})
        flat = sheet.swapaxes(1, 2).reshape(8, 32, 3)
        Image.fromarray(flat).save(tmp_path / name / "seed1" / "floor" / "examples.png")
    plan = SummarySettings.read({"study": "x", "seeds": [0, 1], "attacks": [{"name": n} for n in names]}, "plan")
    strip(plan, tmp_path, ["two", "one"], tmp_path / "strip.png")
    pixels = np.asarray(Image.open(tmp_path / "strip.png").convert("RGB"))
    x, y, tile = MARGIN + SIDE + 5, MARGIN + HEAD + 5, 128 + GAP
    assert pixels[y, x].tolist() == [200, 0, 0] and pixels[y + tile, x].tolist() == [0, 0, 0]
    assert pixels[y, x + tile].tolist() == [200, 0, 0] and pixels[y + tile, x + tile].tolist() == [0, 0, 10]
    with pytest.raises(UserError, match="three: no attack of the study; its attacks are one, two"):
        strip(plan, tmp_path, ["three"], tmp_path / "strip.png")


def test_triggers_that_a_defense_found_are_shown(tmp_path):
    from safetensors.numpy import save_file

    from antidote.summary.inverted import inverted, picture

    plan = SummarySettings.read({"study": "x", "attacks": [{"name": "a"}], "defenses": [{"name": "cbpt"}]}, "plan")
    assert inverted(plan, tmp_path) == []
    mask, pattern = np.zeros((4, 4), np.float32), np.ones((3, 4, 4), np.float32)
    mask[0, 0] = 1
    model = tmp_path / "a/seed0/cbpt/model"
    put(model / "adapter.json", {"dummy_triggers": [{"class": "cup", "share": 0.5, "mask_area": 1 / 16}]})
    save_file({"masks": mask[None], "patterns": pattern[None]}, model / "adapter.safetensors")
    (cell,) = inverted(plan, tmp_path)
    assert (cell["attack"], cell["defense"]) == ("a", "cbpt") and cell["triggers"][0]["title"] == "cup, 50.0 %"
    pixels = picture(mask, pattern)
    assert pixels.shape == (128, 256, 3)
    assert pixels[0, 0].tolist() == [255] * 3 and pixels[-1, 0].tolist() == [128] * 3, "the pattern shows on grey"
    assert pixels[0, 128].tolist() == [255] * 3 and pixels[-1, -1].tolist() == [0] * 3, "the mask beside it"
    cells = read_cells(plan, tmp_path)
    for name in ("heatmap", "plane", "gallery", "curves"):
        (tmp_path / f"{name}.png").write_bytes(b"x")
    page = render(
        plan, cells, read_costs(plan, tmp_path, tmp_path), summarise(cells, plan), (0, 0), [cell], [], tmp_path
    )
    assert cell["triggers"][0]["uri"] in page and "cup, 50.0 %" in page


def test_an_empty_study_still_has_a_summary(tmp_path):
    put(tmp_path / "plan.json", {"study": "tiny"})
    run_script(tmp_path)
    assert "No stage has left its cost" in (tmp_path / "results/tiny/summary/report.html").read_text()


def show(study: str, results: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/show.py", "--study", study, "--results", results]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_show(summary):
    done = show("tiny", summary.parents[1])
    assert done.returncode == 0 and "*25.0 ± 7.1" in done.stdout and str(summary / "report.html") in done.stdout


def test_show_of_an_unknown_study_is_one_line(summary):
    done = show("tyni", summary.parents[1])
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "tyni: no summary" in done.stderr and "did you mean 'tiny'" in done.stderr
