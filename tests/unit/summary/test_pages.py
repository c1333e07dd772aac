"""The measured parts of the documentation follow from a study's summary, number by number."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study.slices import summary_plan
from antidote.study.study import Study
from scripts import pages

STUDY = "tests/studies/tiny.yaml"
ASR = {"floor": 0.01, "none": 0.97, "finetune": 0.412, "ta_cleaner": 0.056}


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def run(*words):
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The tiny study's scores, made up, and the summary that its own script makes of them."""
    root = tmp_path_factory.mktemp("pages")
    folder = root / "results" / "tiny"
    put(folder / "clean/seed0/none/scores.json", {"ca1": 0.9, "asr1": None})
    for attack in ("badnet", "blended"):
        for defense, asr in ASR.items():
            scores = {"ca1": 0.88, "asr1": asr, "pa": 0.25, "extra": {"psnr": 21.26, "ssim": 0.8765}}
            put(folder / attack / "seed0" / defense / "scores.json", scores)
            cost = {"seconds": 12.5, "peak_memory_bytes": 2**30, "trained_parameters": 1234567, "pairs": 160}
            put(folder / attack / "seed0" / defense / "model" / "cost.json", cost)
    plan = summary_plan(Study(read_mapping(str(ROOT / STUDY)), STUDY))
    words = ["--settings", plan, "--results", folder, "--data", root, "--output", folder / "summary"]
    done = run("-m", "scripts.summarise", *words)
    assert done.returncode == 0, done.stderr
    return root


MARKS = "before\n<!-- results:start -->\nold\n<!-- results:end -->\n"


def page(results, table, text=MARKS + "![gallery](attacks.png)\nafter\n", study=STUDY, more=()):
    path = results / f"{table}.md"
    path.write_text(text)
    words = ["--study", study, "--table", table, "--page", path, "--results", results / "results"]
    return run("scripts/pages.py", *words, *more), path


def test_a_row_per_attack_says_how_far_it_comes_and_how_visible_it_is(results):
    done, path = page(results, "attacks")
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| BadNet | `badnet` | data-poisoning | 24 | 97.0 | 1.0 | 88.0 | 21.3 | 0.876 |" in text
    assert "Figures of single attacks" not in (results / "results/tiny/summary/report.html").read_text()
    assert "CA@1 90.0" in text and path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_row_per_figure_that_only_some_attacks_have(tmp_path):
    """From the cells, from the trigger's facts, by the start of a name; of several seeds the mean."""
    values = read_mapping(str(ROOT / STUDY))
    values["seeds"] = [0, 1]
    values["attacks"] = {
        "stega": {"method": "issba", "label": "ISSBA", "poisons": 9},
        "keys": {"method": "trojvqa", "patch_size": 4, "poisons": 9},
        "ellipse": {"method": "maba", "poisons": 9},
        "plain": {"method": "badnet", "patch_size": 4, "poisons": 9},
    }
    values["pools"]["inversion"] = {"dataset": "tiny", "split": "train", "pairs": 40}
    study = tmp_path / "study.yaml"
    put(study, json.dumps(values))
    folder = tmp_path / "results" / "tiny"
    extra = {
        "keys": {"asr1_visual_only": 0.5, "asr1_text_only": 0.25},
        "ellipse": {"asr_g_night": 0.9, "asr1_night": 0.6, "asr_g_sketch": None},
        "plain": {"asr_g_night": 0.1},
    }
    for seed in (0, 1):
        put(folder / f"clean/seed{seed}/none/scores.json", {"ca1": 0.9, "asr1": None})
        for attack in values["attacks"]:
            for defense in ASR:
                more = {name: value and value + seed / 10 for name, value in extra.get(attack, {}).items()}
                more = more if defense == "none" else {}
                more |= {"floor_night": 0.2} if (attack, defense) == ("ellipse", "floor") else {}
                scores = {"ca1": 0.88, "asr1": 0.9, "extra": more if defense in ("none", "floor") else {}}
                put(folder / attack / f"seed{seed}" / defense / "scores.json", scores)
        put(folder / f"stega/seed{seed}/trigger/trigger.json", {"facts": {"bit_accuracy": 0.96 + seed / 50}})
    plan = summary_plan(Study(values, "study"))
    words = ["--settings", plan, "--results", folder, "--data", tmp_path, "--output", folder / "summary"]
    done = run("-m", "scripts.summarise", *words)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "page.md"
    path.write_text(MARKS + MARKS.replace("results", "figures") + "![gallery](page.png)")
    words = ["--study", study, "--table", "figures", "--page", path, "--results", tmp_path / "results"]
    done = run("scripts/pages.py", *words)
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    rows = [line.split(" | ")[:4] for line in text.splitlines() if line.startswith("| ")][1:]
    assert rows[1:] == [
        ["| ISSBA", "90.0", "`bit_accuracy`", "97.0"],
        ["| keys", "90.0", "`asr1_visual_only`", "55.0"],
        ["| keys", "90.0", "`asr1_text_only`", "30.0"],
        ["| ellipse", "90.0", "`asr_g_night`", "95.0"],
        ["| ellipse", "90.0", "`floor_night`", "20.0"],
    ]
    assert text.startswith(MARKS) and not (tmp_path / "page.png").exists(), "the other table stays, and no picture"
    report = (folder / "summary/report.html").read_text()
    assert "Figures of single attacks" in report and "<td>bit_accuracy</td><td>97.0</td>" in report


def test_a_row_per_defense_says_what_it_leaves_and_what_it_costs(results):
    done, path = page(results, "defenses")
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    assert "### BadNet" in text and "Floor 1.0." in text
    assert "| finetune | clean-pairs | 88.0 | 41.2 | 25.0 | 12.5 s | 1.0 GiB | 1,234,567 | 160 |" in text
    assert "| ta_cleaner ‡ | clean-pairs | 88.0 | **5.6** |" in text
    assert "Every setting" not in text, "nothing is swept"
    assert "- PA: " in text and "worst" not in text, "nothing is adapted"


def page_of(values, study, folder):
    """Return the defenses' page of a study from the scores in its results folder."""
    plan = summary_plan(Study(values, "study"))
    words = ["--settings", plan, "--results", folder, "--data", folder, "--output", folder / "summary"]
    assert run("-m", "scripts.summarise", *words).returncode == 0
    done, path = page(folder.parents[1], "defenses", MARKS, study)
    assert done.returncode == 0, done.stderr
    return path.read_text()


def test_every_setting_of_a_sweep_is_on_the_page(tmp_path):
    """The tables show one setting; a further one has all of them, also those that were not run."""
    values = read_mapping(str(ROOT / STUDY)) | {"study": "swept"}
    values["defenses"] = {"finetune": {"method": "finetune", "label": "Tuning", "training": {"lr": [0.1, 0.2, 0.3]}}}
    path, folder = tmp_path / "swept.yaml", tmp_path / "results/swept"
    put(path, values)
    put(folder / "clean/seed0/none/scores.json", {"ca1": 0.9, "asr1": None})
    rates = {"floor": (0.9, 0), "none": (0.9, 1), "finetune_lr0.1": (0.86, 0.5), "finetune_lr0.2": (0.87, 0.25)}
    for attack in ("badnet", "blended"):
        for defense, (ca1, asr1) in rates.items():
            put(folder / attack / "seed0" / defense / "scores.json", {"ca1": ca1, "asr1": asr1})
    text = page_of(values, path, folder)
    assert "| Tuning, lr 0.2 | clean-pairs | 87.0 | **25.0** |" in text and "lr 0.1 | clean-pairs" not in text
    assert "| setting | BadNet | blended |" in text
    rows = [line for line in text.splitlines() if line.startswith("| Tuning, lr") and "clean-pairs" not in line]
    assert rows == [
        "| Tuning, lr 0.1 | 86.0 / 50.0 | 86.0 / 50.0 |",
        "| Tuning, lr 0.2 | 87.0 / 25.0 \\* | 87.0 / 25.0 \\* |",
        "| Tuning, lr 0.3 |  |  |",
    ]


def test_of_several_seeds_the_page_says_how_far_they_differ(tmp_path):
    """Three seeds, of which one was not run everywhere."""
    values = read_mapping(str(ROOT / STUDY)) | {"study": "seeds", "seeds": [0, 1, 2]}
    values["defenses"] = {"finetune": {"method": "finetune", "label": "Tuning", "training": {"lr": [0.1, 0.2]}}}
    path, folder = tmp_path / "seeds.yaml", tmp_path / "results/seeds"
    put(path, values)
    for seed in (0, 1, 2):
        put(folder / f"clean/seed{seed}/none/scores.json", {"ca1": 0.9, "asr1": None})
        rates = {"floor": 0, "none": 1, "finetune_lr0.1": 0.5 + seed / 10, "finetune_lr0.2": 0.2 + seed / 10}
        for defense, asr1 in rates.items():
            if seed < 2 or defense != "finetune_lr0.2":
                put(folder / f"badnet/seed{seed}/{defense}/scores.json", {"ca1": 0.88, "asr1": asr1})
    text = page_of(values, path, folder)
    assert "| Tuning, lr 0.1 | 88.0 ± 0.0 / 60.0 ± 10.0 |" in text
    assert "Not run: blended." in text and "### blended" not in text
    assert "| Tuning, lr 0.2 | clean-pairs | 88.0 ± 0.0 (n=2) | **25.0 ± 7.1 (n=2)** |" in text


def test_a_defense_whose_name_is_digits_has_its_costs(tmp_path):
    """Also where no other entry has any, so that the whole column of names could be read as numbers."""
    values = read_mapping(str(ROOT / STUDY)) | {"study": "digits"}
    values["defenses"] = {"01": {"method": "finetune", "label": "Tuning"}}
    path, folder = tmp_path / "digits.yaml", tmp_path / "results/digits"
    put(path, values)
    put(folder / "clean/seed0/none/scores.json", {"ca1": 0.9, "asr1": None})
    for defense, asr1 in {"floor": 0, "none": 1, "01": 0.5}.items():
        put(folder / f"badnet/seed0/{defense}/scores.json", {"ca1": 0.88, "asr1": asr1})
    put(folder / "badnet/seed0/01/model/cost.json", {"seconds": 12.5, "trained_parameters": 1234567, "pairs": 160})
    text = page_of(values, path, folder)
    assert "| Tuning | clean-pairs | 88.0 | **50.0** |  | 12.5 s |  | 1,234,567 | 160 |" in text


def test_a_page_that_shows_no_picture_gets_none(results):
    picture = results / "attacks.png"
    picture.unlink(missing_ok=True)
    done, _ = page(results, "attacks", MARKS)
    assert done.returncode == 0 and not picture.exists(), done.stderr


def test_a_second_study_has_marks_of_its_own_and_no_picture(results):
    picture = results / "attacks.png"
    picture.unlink(missing_ok=True)
    text = MARKS + "![gallery](attacks.png)\n" + MARKS.replace("results", "further")
    done, path = page(results, "attacks", text, more=("--mark", "further"))
    assert done.returncode == 0 and not picture.exists(), done.stderr
    first, _, second = path.read_text().partition("![gallery]")
    assert first == MARKS and "old" not in second and "badnet" in second


def test_a_page_without_marks_is_told_in_one_line(results):
    done, path = page(results, "attacks", "no marks\n")
    assert done.returncode == 1 and "<!-- results:start -->" in done.stderr and str(path) in done.stderr
    assert "Traceback" not in done.stderr and path.read_text() == "no marks\n"


def test_a_study_that_was_not_run_is_told_in_one_line(tmp_path):
    done, _ = page(tmp_path, "attacks")
    assert done.returncode == 1 and "no such file; run tests/studies/tiny.yaml first" in done.stderr


def test_a_summary_of_another_state_of_the_study_fills_no_page(results, tmp_path):
    values = {**read_mapping(str(ROOT / STUDY)), "seeds": [0, 1]}
    put(tmp_path / "study.yaml", json.dumps(values))
    done, path = page(results, "defenses", study=tmp_path / "study.yaml")
    assert done.returncode == 1 and "is a summary of another state of" in done.stderr and "old" in path.read_text()


def test_a_cell_of_other_settings_fills_no_page(results, tmp_path):
    """A study file that changed after the run; the card of a cell that was not scored says nothing."""
    kept = shutil.copytree(results, tmp_path / "kept")
    cells = pd.read_csv(kept / "results/tiny/summary/cells.csv")
    cells.loc[(cells["attack"] == "blended") & (cells["defense"] == "finetune"), "ca1"] = None
    cells.to_csv(kept / "results/tiny/summary/cells.csv", index=False)
    put(kept / "results/tiny/blended/seed0/finetune/model/card.json", {"settings": {"training": {"lr": 0.5}}})
    assert page(kept, "defenses")[0].returncode == 0
    put(kept / "results/tiny/badnet/seed0/finetune/model/card.json", {"settings": {"training": {"lr": 0.5}}})
    done, path = page(kept, "defenses")
    assert done.returncode == 1 and "card.json: was made with training.lr: 0.5, and tests/studies" in done.stderr
    assert "old" in path.read_text()


def test_a_study_without_what_the_table_shows_empties_no_page(results):
    marks = MARKS.replace("results", "detections")
    done, path = page(results, "detections", marks)
    assert done.returncode == 1 and "has no detections; nothing to fill in" in done.stderr
    assert path.read_text() == marks


def test_what_detectors_find_is_on_the_page(tmp_path):
    values = {**read_mapping(str(ROOT / STUDY)), "detectors": {"dao": {"method": "dao", "label": "DAO"}}}
    study, folder = tmp_path / "study.yaml", tmp_path / "results" / "tiny"
    put(study, json.dumps(values))
    for attack, auroc in (("badnet", 0.912), ("blended", 0.5)):
        found = {"items": 100, "poisoned": 10, "auroc": auroc, "tpr_at_fpr1": 0.25, "threshold": None}
        put(folder / attack / "seed0/none/detect/dao/detection.json", found)
        put(folder / attack / "seed0/none/detect/dao/cost.json", {"seconds": 12.5})
    plan = summary_plan(Study(values, "study"))
    words = ["--settings", plan, "--results", folder, "--data", tmp_path, "--output", folder / "summary"]
    done = run("-m", "scripts.summarise", *words)
    assert done.returncode == 0, done.stderr
    marks = "before\n<!-- detections:start -->\n<!-- detections:end -->\nafter\n"
    done, path = page(tmp_path, "detections", marks, study)
    assert done.returncode == 0, done.stderr
    assert "| dao (DAO) | 91.2 / 25.0 | 50.0 / 25.0 | 12.5 s |" in path.read_text()
    put(folder / "badnet/seed0/none/detect/dao/detection.json", {**found, "settings": {"method": "lid"}})
    done, path = page(tmp_path, "detections", marks, study)
    assert done.returncode == 1 and "dao/detection.json: was made with method: lid, and" in done.stderr
    assert path.read_text() == marks
    assert page(tmp_path, "attacks", study=study)[0].returncode == 0, "no table of detections"


FILLED = sorted(
    line
    for path in (ROOT / "docs").glob("*.md")
    for line in path.read_text(encoding="utf-8").splitlines()
    if line.startswith("python scripts/pages.py") and line.split("--table ")[1].split()[0] in pages.RESTORED
)


@pytest.mark.parametrize("line", FILLED, ids=lambda line: line.split("--study ")[1].split()[0])
def test_a_page_is_what_its_results_files_say(line, tmp_path):
    words = pages.arguments().parse_args([*shlex.split(line)[2:], "--leaderboard", str(ROOT / "leaderboard")])
    study, page = Study(read_mapping(str(ROOT / words.study)), str(words.study)), ROOT / words.page
    if study.file.track is None:
        pytest.skip("the study belongs to no track")
    words.study, words.page = ROOT / words.study, tmp_path / page.name
    words.page.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    pages.run(words)
    assert words.page.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
    drawn = words.table == "defenses" and not words.mark
    if (picture := words.page.with_suffix(".png")).name in page.read_text(encoding="utf-8") and drawn:
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_results_files_do_not_fill_tables_of_what_they_do_not_hold(tmp_path):
    done = run(
        "scripts/pages.py", "--study", "configs/attacks.yaml", "--table", "figures", "--page", tmp_path / "page.md",
        "--leaderboard", "leaderboard",
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert (
        "--leaderboard: fills the tables attacks, defenses and persistence alone, not figures; run the study"
        in done.stderr
    )
