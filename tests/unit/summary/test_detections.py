"""Detections of a made-up study, with the numbers worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from antidote.base.errors import UserError
from antidote.evaluation.ranking import GRID, roc
from antidote.summary.costs import COLUMNS as COST_COLUMNS
from antidote.summary.costs import read_costs
from antidote.summary.detection_plots import auroc_map, roc_curves
from antidote.summary.detections import markdown, read_detections, tables
from antidote.summary.plan import SummarySettings
from scripts import summarise

PLAN = {
    "study": "tiny",
    "seeds": [0, 1],
    "attacks": [{"name": "patch"}, {"name": "noise"}],
    "detectors": [
        {"name": "dao", "label": "DAO | x", "subject": "pairs"},
        {"name": "decree", "subject": "model", "reconstruction": True},
        {"name": "random_pairs", "subject": "pairs", "control": "none"},
    ],
    "detections": [
        ["patch", "none", "dao"], ["patch", "none", "decree"], ["patch", "none", "random_pairs"],
        ["noise", "none", "dao"], ["noise", "none", "decree"], ["noise", "none", "random_pairs"],
    ],
}  # fmt: skip
PAIRS = {("patch", "dao"): [0.9, 0.8], ("patch", "random_pairs"): [0.5, 0.4], ("noise", "dao"): [0.7, None]}
AT_THRESHOLDS = {"patchdao": {"recall": 0.5, "fpr": 0.02, "tpr_calibrated": 0.4, "fpr_calibrated": 0.01}}
# Scores of models; a threshold of 2. Of the four pairs of a backdoored and a clean model, `patch` puts three in order.
MODELS = {"clean": [1.0, 3.0], "patch": [2.5, 4.0], "noise": [0.0, 0.5]}


def put(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def results(tmp_path):
    line = [place / GRID for place in range(GRID + 1)]
    for (attack, detector), values in PAIRS.items():
        for seed, auroc in enumerate(values):
            if auroc is not None:
                folder = tmp_path / attack / f"seed{seed}/none/detect" / detector
                rates = {
                    "auroc": auroc,
                    "tpr_at_fpr1": auroc / 2,
                    "roc": line,
                    **AT_THRESHOLDS.get(attack + detector, {}),
                    "threshold": None,
                    "evidence": {"a": 1},
                }
                put(folder / "detection.json", {"items": 100, "poisoned": 10, **rates})
                put(folder / "cost.json", {"seconds": 10 + 10 * seed})
    for attack, values in MODELS.items():
        for seed, score in enumerate(values):
            folder = tmp_path / attack / f"seed{seed}/none/detect/decree"
            given = {"items": 1, "poisoned": int(attack != "clean"), "score": score, "threshold": 2.0, "recall": 1.0}
            put(folder / "detection.json", given)
    return tmp_path


@pytest.fixture
def plan():
    return SummarySettings.read(PLAN, "plan")


def test_a_row_per_attack_defense_detector_and_seed(plan, results):
    frame = read_detections(plan, results).frame
    assert len(frame) == 2 + 2 * 2 + 1 + 2 * 3, "clean, pairs, models with one row over their seeds"
    pairs = frame.query("detector == 'dao' and attack == 'patch'")
    assert pairs["auroc"].tolist() == [0.9, 0.8] and pairs["seed"].tolist() == [0, 1] and pairs["score"].isna().all()
    models = frame.query("detector == 'decree' and seed == seed")
    assert models["score"].tolist() == [*MODELS["clean"], *MODELS["patch"], *MODELS["noise"]]
    assert models[["auroc", "recall"]].isna().all(axis=None), "one model has a score, and nothing to tell apart"


def test_detectors_of_models_are_judged_over_seeds_against_the_clean_references(plan, results):
    found = read_detections(plan, results)
    over = found.frame.query("seed != seed").set_index("attack")
    assert over["auroc"].tolist() == [3 / 4, 0.0] and over["items"].tolist() == [4, 4]
    assert over["unscored"].tolist() == [0, 0]
    assert over.loc["patch", ["precision", "recall"]].tolist() == [2 / 3, 1.0], "3.0, a clean one, is flagged as well"
    assert len(found.curves["patch", "none", "decree"]) == 1


def test_the_population_counts_as_clean(plan, results):
    """Four further clean models below 2.5 and a fifth above 4: `patch` puts 3 + 8 + 0 of 2 x 7 pairs in order."""
    for place, score in enumerate([1.0, 1.5, 2.0, 2.4, 5.0]):
        folder = results / f"surrogates/population{place}/seed0/detect/decree"
        put(folder / "detection.json", {"items": 1, "poisoned": 0, "score": score, "threshold": 2.0})
    names = [f"population{place}" for place in range(5)]
    more = SummarySettings.read({**PLAN, "population": names, "detect_false_positives": 0.25}, "plan")
    frame = read_detections(more, results).frame
    over = frame.query("seed != seed and attack == 'patch'").iloc[0]
    assert (over["items"], over["poisoned"], over["auroc"]) == (9, 2, 11 / 14)
    assert over["tpr_calibrated"] == 1 / 2, "(1 + 1) / 8 <= 1 / 4 for a score of 4.0, and (1 + 2) / 8 for 2.5"
    assert len(frame.query("attack == 'clean' and detector == 'decree'")) == 7


def without(results, *cells):
    """Let the detector of models have no score in some cells (attack, seed)."""
    for attack, seed in cells:
        file = results / f"{attack}/seed{seed}/none/detect/decree/detection.json"
        put(file, {"items": 1, "poisoned": int(attack != "clean"), "score": None, "threshold": None})


def test_a_model_without_a_score_is_not_flagged_and_ranks_nowhere(plan, results):
    """One of two backdoored models is flagged; the other one and a clean one have no score."""
    without(results, ("patch", 0), ("clean", 1))
    found = read_detections(plan, results)
    over = found.frame.query("seed != seed and attack == 'patch'").iloc[0]
    assert over[["items", "poisoned", "unscored", "precision", "recall", "fpr"]].tolist() == [4, 2, 2, 1.0, 0.5, 0.0]
    ranked = ["auroc", "auprc", "tpr_at_fpr1", "fpr_at_tpr1", "precision_at_poisons"]
    assert over[ranked].isna().all() and found.curves["patch", "none", "decree"] == []
    models, models_at = tables(plan, found, read_costs(plan, results, results))[:2]
    assert (models["rows"][1][1], models_at["rows"][1][1]) == ("- / -", "50.0 / 0.0; - / -")
    for part in (models, models_at):
        assert "decree on patch: 2 of 4 models without a score; decree on noise: 1 of 4 models" in part["note"]


def test_a_model_without_a_score_is_below_the_calibrated_threshold(plan, results):
    """Both clean models calibrate: 4.0 is above them, and a third of (1 + 2) may be flagged."""
    without(results, ("patch", 0), ("clean", 1))
    more = SummarySettings.read({**PLAN, "detect_false_positives": 0.34}, "plan")
    over = read_detections(more, results).frame.query("seed != seed and attack == 'patch'").iloc[0]
    assert over["tpr_calibrated"] == 0.5


def test_a_detector_without_any_score_is_not_shown_as_not_run(plan, results):
    without(results, *((attack, seed) for attack in ("clean", "patch") for seed in (0, 1)))
    models, models_at = tables(plan, read_detections(plan, results), read_costs(plan, results, results))[:2]
    assert (models["rows"][1][1], models_at["rows"][1][1]) == ("- / -", "0.0 / 0.0; - / -")
    assert "decree on patch: 4 of 4 models without a score" in models["note"]


def test_models_without_a_clean_reference_have_no_figures(plan, results):
    for seed in (0, 1):
        (results / f"clean/seed{seed}/none/detect/decree/detection.json").unlink()
    assert read_detections(plan, results).frame["seed"].notna().all()


def test_tables(plan, results):
    found, costs = read_detections(plan, results), read_costs(plan, results, results)
    models, models_at, pairs, pairs_at = tables(plan, found, costs)
    assert models_at["title"].endswith(": at a threshold")
    assert models_at["rows"] == [
        ["detector", "patch", "noise"],
        ["decree ‡", "100.0 / 50.0; - / -", "0.0 / 50.0; - / -"],
    ]
    assert pairs_at["rows"][1] == ["dao (DAO | x)", "50.0 / 2.0; 40.0 / 1.0", ""], "patch, over both seeds"
    assert "is calibrated for 1.0 % false positives" in pairs_at["note"]
    assert models["rows"] == [["detector", "patch", "noise", "time"], ["decree ‡", "75.0 / 50.0", "0.0 / 0.0", ""]]
    assert pairs["rows"] == [
        ["detector", "patch", "noise", "time"],
        ["dao (DAO | x)", "85.0 ± 7.1 / 42.5 ± 3.5", "70.0 / 35.0", "13.3 s"],
        ["random_pairs, control", "45.0 ± 7.1 / 22.5 ± 3.5", "", "15.0 s"],
    ]
    assert "poisoned pairs: 10 of 100" in pairs["note"] and "over seeds" in pairs["note"]
    assert "backdoored models: 2 of 4" in models["note"] and "±" not in models["note"]
    text = markdown([models, pairs])
    assert "| dao (DAO \\| x) | 85.0 ± 7.1 / 42.5 ± 3.5 | 70.0 / 35.0 | 13.3 s |" in text
    assert text.startswith("\n## Detectors of backdoored models\n") and markdown([]) == ""


def test_cells_that_cannot_be_run_name_their_reason(plan, results):
    """In a column of their own, even where no attack leaves the subject anything to score."""
    unscored = [{"attack": "loaded", "detector": name, "reason": "no pairs"} for name in ("dao", "random_pairs")]
    unscored += [{"attack": "loaded", "detector": "shown", "reason": "no pictures"}]
    detectors = [*PLAN["detectors"], {"name": "shown", "subject": "pictures"}]
    more = SummarySettings.read({**PLAN, "detectors": detectors, "unscored": unscored}, "plan")
    models, _, pairs, pairs_at, shown, _ = tables(
        more, read_detections(more, results), read_costs(more, results, results)
    )
    assert models["rows"][0] == ["detector", "patch", "noise", "time"] and "not applicable" not in models["note"]
    assert [row[3] for row in pairs["rows"]] == [row[3] for row in pairs_at["rows"]] == ["loaded", "- [1]", "- [1]"]
    assert all(part["note"].endswith(". [1] not applicable: no pairs.") for part in (pairs, pairs_at))
    assert shown["rows"] == [["detector", "loaded", "time"], ["shown", "- [1]", ""]]
    assert shown["note"].endswith(
        "triggered pictures: not measured. Time: mean per job. [1] not applicable: no pictures."
    )


def test_a_detector_that_cannot_score_a_defenses_models_has_a_reason_in_their_row(plan, results):
    cells = [*PLAN["detections"], ["patch", "masked", "random_pairs"]]
    unscored = [{"attack": "patch", "defense": "masked", "detector": "dao", "reason": "no gradients"}]
    more = SummarySettings.read({**PLAN, "detections": cells, "unscored": unscored}, "plan")
    pairs = tables(more, read_detections(more, results), read_costs(more, results, results))[2]
    rows = {(row[0].split(" ")[0], row[1]): row[2] for row in pairs["rows"][1:]}
    assert rows["dao", "masked"] == "- [1]" and "[" not in rows["dao", "none"]
    assert pairs["note"].endswith(" [1] not applicable: no gradients.")


def test_figures_of_an_attack_made_against_the_detector_are_marked(plan, results):
    more = SummarySettings.read({**PLAN, "adaptive": [["patch", "dao"]]}, "plan")
    found = read_detections(more, results)
    assert found.frame.query("adaptive")[["attack", "detector"]].drop_duplicates().values.tolist() == [["patch", "dao"]]
    pairs = tables(more, found, read_costs(more, results, results))[2]
    assert pairs["rows"][1][1:3] == ["85.0 ± 7.1 / 42.5 ± 3.5 §", "70.0 / 35.0"] and "§" in pairs["note"]
    assert "§" not in tables(plan, read_detections(plan, results), read_costs(plan, results, results))[2]["note"]


def test_models_under_test_have_rows_of_their_own(plan, results):
    more = SummarySettings.read({**PLAN, "detections": [*PLAN["detections"], ["patch", "tune", "dao"]]}, "plan")
    pairs = tables(more, read_detections(more, results), read_costs(more, results, results))[2]
    assert [row[:2] for row in pairs["rows"][:3]] == [["detector", "model"], ["dao (DAO | x)", "none"],
                                                     ["dao (DAO | x)", "tune"]]  # fmt: skip


def test_costs_name_the_detector_where_there_are_any(plan, results):
    costs = read_costs(plan, results, results)
    assert list(costs.columns) == [*COST_COLUMNS, "detector"] and set(costs["stage"]) == {"detect"}
    none = SummarySettings.read({**PLAN, "detectors": [], "detections": []}, "plan")
    assert list(read_costs(none, results, results).columns) == COST_COLUMNS


def test_plots(plan, results, tmp_path):
    found = read_detections(plan, results)
    for draw in (auroc_map, roc_curves):
        draw(plan, found, tmp_path / "one.png")
        draw(plan, found, tmp_path / "other.png")
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
        assert min(Image.open(tmp_path / "one.png").size) > 200
        draw(plan, read_detections(plan, tmp_path / "nowhere"), tmp_path / "empty.png")
        assert (tmp_path / "empty.png").is_file()


def test_a_summary_shows_detectors_where_a_study_has_any(results, tmp_path):
    def run(plan, folder):
        given = ["--settings", json.dumps(plan), "--results", results, "--data", results / "data", "--output", folder]
        summarise.run(summarise.arguments().parse_args([str(word) for word in given]))
        return {path.name for path in folder.iterdir()}, (folder / "report.html").read_text()

    files, page = run(PLAN, tmp_path / "with")
    assert {"detections.csv", "detection.png", "roc.png"} <= files
    assert (
        '<h2 id="detectors">' in page and "<td>85.0 ± 7.1 / 42.5 ± 3.5</td>" in page and page.count("data:image") == 6
    )
    assert "## Detectors of backdoored models" in (tmp_path / "with/table.md").read_text()
    none, plain = run({**PLAN, "detectors": [], "detections": []}, tmp_path / "without")
    assert none == files - {"detections.csv", "detection.png", "roc.png"}
    assert "etector" not in plain + (tmp_path / "without/table.md").read_text()
    for name in ("cells.csv", "table.csv", "metrics.json", "heatmap.png"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [([], "should hold keys and values, not list"), ({"items": 1, "poisoned": 1, "auroc": 2}, "auroc: input should be"),
     ({"poisoned": 1}, "items: ")],
)  # fmt: skip
def test_a_corrupt_detection_is_one_line_that_names_the_file(plan, results, content, says):
    path = results / "patch/seed0/none/detect/dao/detection.json"
    put(path, content)
    with pytest.raises(UserError) as error:
        read_detections(plan, results)
    assert str(error.value).startswith(str(path)) and says in str(error.value) and "\n" not in str(error.value)


def test_a_curve_on_a_grid_by_hand():
    """Poisoned: 4 and 2; clean: 3 and 1. Half of the poisoned come first, the rest after the first clean one."""
    line = roc(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
    assert len(line) == GRID + 1 and line[: GRID // 2] == [0.5] * (GRID // 2)
    assert line[GRID // 2 :] == [1.0] * (GRID // 2 + 1)
    assert roc(np.ones(4), np.array([True, False, True, False])) == [p / GRID for p in range(GRID + 1)], (
        "a straight line"
    )
    assert pd.Series(line).is_monotonic_increasing
