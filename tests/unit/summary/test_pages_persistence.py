"""The table of what comes back after a defense: from results files as from the runs, with all that may be missing."""

from __future__ import annotations

import json
import shutil

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study.slices import summary_plan
from antidote.study.study import Study
from scripts import pages, summarise
from scripts import results as results_files
from tests.unit.summary.test_pages import put

MARKS = "before\n<!-- persistence:start -->\nold\n<!-- persistence:end -->\nafter\n"
SEEDS = (0, 1, 2)
# Rates by defense, adaptation and seed: as delivered, after step 10 and after step 20.
CURVES = {
    ("finetune", "full"): [(0.2, 0.3, 0.4), (0.1, 0.1, 0.15), (0.3, 0.4, 0.55)],
    ("ta_cleaner", "full"): [(0.1, 0.25, 0.1), (0.1, 0.1, 0.1), (0.1, 0.1, 0.1)],
    ("ta_cleaner", "head"): [(0.1, 0.05, 0.05), (0.2, 0.1, 0.1)],
}
CONTROLS = {("finetune", "full"): [(0.01, 0.02, 0.03)] * 3, ("ta_cleaner", "head"): [(0.02, 0.01, 0.0)]}


def run(module, *words):
    module.run(module.arguments().parse_args([str(word) for word in words]))


def curve(rates):
    return {"curve": [{"step": 10 * i, "ca1": 0.8, "score": rate} for i, rate in enumerate(rates)]}


@pytest.fixture(scope="module")
def study(tmp_path_factory, anything_goes):
    """A made-up study with its runs and its results files; nothing of blended is adapted, nor the undefended model."""
    root = tmp_path_factory.mktemp("persisted")
    values = read_mapping(str(ROOT / "tests/studies/tiny.yaml")) | {"seeds": list(SEEDS)}
    values["track"] = {"name": "open", "version": 1}
    values["persistence"] = {"adaptations": {"full": {"kind": "full"}, "head": {"kind": "projection"}}}
    folder = root / "results/tiny"
    put(root / "study.yaml", values)
    for seed in SEEDS:
        put(folder / f"clean/seed{seed}/none/scores.json", {"ca1": 0.9, "asr1": None})
        for attack in ("badnet", "blended"):
            put(folder / f"{attack}/seed{seed}/floor/scores.json", {"ca1": 0.9, "asr1": 0.01})
            put(folder / f"{attack}/seed{seed}/model/open_clip_model.safetensors", "weights")
            for defense in ("none", "finetune", "ta_cleaner"):
                put(folder / f"{attack}/seed{seed}/{defense}/scores.json", {"ca1": 0.88, "asr1": 0.97})
                put(folder / f"{attack}/seed{seed}/{defense}/model/open_clip_model.safetensors", "weights")
    for name, found in (("", CURVES), ("clean/", CONTROLS)):
        for (defense, adaptation), curves in found.items():
            for seed, rates in enumerate(curves):
                put(folder / f"badnet/seed{seed}/{defense}/persistence/{name}{adaptation}.json", curve(rates))
    plan = summary_plan(Study(values, "study"))
    run(summarise, "--settings", plan, "--results", folder, "--data", root, "--output", folder / "summary")
    run(results_files, "write", root / "study.yaml", "--results", root / "results", "--output", root / "board")
    return root


def page(study, board=None, table="persistence"):
    """Return the page that the results files of a folder fill; without one, the study's runs."""
    path = study / "page.md"
    path.write_text(MARKS.replace("persistence", table if table == "persistence" else "results"))
    source = ["--leaderboard", board] if board else ["--results", study / "results"]
    run(pages, "--study", study / "study.yaml", "--table", table, "--page", path, *source)
    return path.read_text()


def test_a_row_says_what_comes_back_and_what_the_control_does(study):
    text = page(study, study / "board")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "### BadNet\n" in text
    assert (
        "| finetune | full | 20.0 ± 10.0 | 36.7 ± 20.2 | +16.7 ± 10.4 | 27.5 ± 15.2 | 20 (2 of 3) "
        "| 3.0 ± 0.0 | +2.0 ± 0.0 |\n" in text
    )
    assert "- control: the clean model under the same defense" in text and "more than 10 points above" in text


def test_a_seed_that_comes_back_shows_where_the_mean_does_not(study):
    text = page(study, study / "board")
    assert "| ta_cleaner ‡ | full | 10.0 ± 0.0 | 15.0 ± 8.7 | +5.0 ± 8.7 | 12.5 ± 4.3 | - (1 of 3) |  |  |" in text
    assert "‡ reconstruction" in text


def test_what_was_not_measured_is_empty_and_few_seeds_are_counted(study):
    text = page(study, study / "board")
    assert "| finetune | head (projection) |  |  |  |  |  |  |  |" in text
    assert "| none | full |  |  |  |  |  |  |  |" in text and "- empty: not measured, or no such control" in text
    assert "| ta_cleaner ‡ | head (projection) (n=2) | 15.0 ± 7.1 |" in text and "| - | 1.0 (n=1) | -1.0 |" in text
    assert "Not measured: blended." in text and "### blended" not in text


def test_the_rise_is_told_seed_by_seed(study):
    text = page(study, study / "board").partition("by seed (0, 1, 2):")[2]
    assert "| defense | delivered | full | head |" in text
    assert "| finetune | 20.0 / 10.0 / 30.0 | +20.0 / +5.0 / +25.0 |  |" in text
    assert "| ta_cleaner ‡ | 10.0 / 10.0 / 10.0 | +15.0 / +0.0 / +0.0 | -5.0 / -10.0 / - |" in text


def test_runs_and_results_files_fill_the_same_table(study):
    assert page(study) == page(study, study / "board")


def test_a_table_of_full_measurements_has_no_note_on_empty_cells(study, tmp_path):
    board = shutil.copytree(study / "board", tmp_path / "board")
    whole = json.loads((board / "open-1/tiny/badnet--finetune.json").read_text())["persistence"]
    both = [*whole, *({**one, "adaptation": "head", "kind": "projection", "settings": {}} for one in whole)]
    for file in (board / "open-1/tiny").iterdir():
        put(file, {**json.loads(file.read_text()), "persistence": both})
    text = page(study, board)
    assert "empty:" not in text and "Not measured" not in text and "### blended" in text


def test_older_files_without_figures_keep_the_step_of_the_mean(study, tmp_path):
    board = shutil.copytree(study / "board", tmp_path / "board")
    file = board / "open-1/tiny/badnet--finetune.json"
    values = json.loads(file.read_text())
    put(file, {**values, "persistence": [{**one, "figures": {}} for one in values["persistence"]]})
    assert "| finetune | full |  |  |  |  | 20 |  |  |" in page(study, board)


def test_files_without_curves_empty_no_page(study, tmp_path):
    board = shutil.copytree(study / "board", tmp_path / "board")
    for file in (board / "open-1/tiny").iterdir():
        put(file, {**json.loads(file.read_text()), "persistence": []})
    with pytest.raises(UserError, match=r"study.yaml: has no persistence; nothing to fill in"):
        page(study, board)
    assert (study / "page.md").read_text() == MARKS


def disputed(study, folder, pattern):
    board = shutil.copytree(study / "board", folder / "board")
    for file in (board / "open-1/tiny").glob(f"{pattern}.json"):
        put(file, {**json.loads(file.read_text()), "disputed": "another rate than the paper's"})
    return board


def test_a_disputed_cell_says_so(study, tmp_path):
    board = disputed(study, tmp_path, "badnet--finetune")
    text = page(study, board)
    assert "| finetune | full | disputed |  |  |  |  |  |  |" in text and "| finetune | disputed |  |  |" in text
    text = page(study, board, "defenses")
    assert "| finetune | clean-pairs |  | [1] |" in text
    assert "- [1] disputed: left out while the dispute is open" in text and "not run" not in text


def test_a_disputed_cell_without_a_defense_says_so(study, tmp_path):
    board = disputed(study, tmp_path, "badnet--none")
    text = page(study, board, "defenses")
    assert "- ? gate not known: badnet: the cell without a defense is disputed\n" in text and "[1]" in text
    badnet = text.partition("### BadNet")[2].partition("### blended")[0]
    assert "Floor" not in badnet and "Floor 1.0." in text and "not run" not in text and "not measured" not in text
    text = page(study, board, "attacks")
    assert "| [1] |  |  |  |  |" in text and "- [1] disputed: left out while the dispute is open" in text
    assert "not run" not in text and "not measured" not in text


def test_an_attack_of_disputed_cells_alone_was_run(study, tmp_path):
    board = disputed(study, tmp_path, "badnet--*")
    text = page(study, board, "defenses")
    assert "### BadNet" in text and "Not run" not in text and text.count("| [1] |") == 3
    text = page(study, board)
    assert "### BadNet" in text and "Not measured: blended." in text
