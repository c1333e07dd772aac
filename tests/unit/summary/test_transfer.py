"""Surrogates of a study, and the transfer matrix over the studies of several victims."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study.study import Study
from antidote.summary.transfer import matrix, of_run, transfer

FILE = "tests/studies/tiny.yaml"


def study(surrogate: str, surrogates: dict | None = None) -> Study:
    values = read_mapping(str(ROOT / FILE))
    values["pools"]["inversion"] = {"dataset": "tiny", "split": "defense", "pairs": 8}
    values["attacks"] = {"trojvqa": {"method": "trojvqa", "patch_size": 6, "poisons": 8, "surrogate": surrogate}}
    return Study({**values, "surrogates": surrogates or {}}, FILE)


def test_a_trigger_may_be_fitted_on_a_further_model_of_the_study():
    other = {"other": {"model": {"name": "tiny-vit"}, "pretraining": {"epochs": 1}, "seed": 3}}
    made = study("other", other)
    assert made.attacks["trojvqa"].surrogate == "other" and made.file.surrogates["other"].seed == 3


@pytest.mark.parametrize(
    "surrogate,surrogates,text",
    [
        ("othr", {"other": {}}, "attacks.trojvqa.surrogate: 'othr' is neither a model folder nor one of the study; did you"
                                " mean 'other'?"),
        ("other", {"other": {"model": {"name": "small-rn"}}}, "surrogates.other.model.name: small-rn reads pictures of "
                                                              "another size than the study's model, 32 pixels"),
        ("other", {"other": {"model": {"name": "tiny-vti"}}}, "surrogates.other.model.name: unknown model 'tiny-vti'"),
        ("clean", {"floor": {}}, "surrogates: name 'floor' is taken by the layout of results/"),
        ("clean", {"other": {"sed": 1}}, "surrogates.other.sed: unknown key; did you mean 'seed'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_surrogate_is_told_in_one_line(surrogate, surrogates, text):
    with pytest.raises(UserError, match=re.escape(text)) as error:
        study(surrogate, surrogates)
    assert "\n" not in str(error.value)


def test_a_model_folder_has_to_read_pictures_of_the_studys_size(tmp_path):
    config = tmp_path / "open_clip_config.json"
    config.write_text("{}")
    with pytest.raises(UserError, match="is not the configuration of an open_clip model"):
        study(str(tmp_path))
    config.write_text(json.dumps({"model_cfg": {"vision_cfg": {"image_size": 64}}}))
    with pytest.raises(UserError, match="reads 64 pixels, the study's model 32"):
        study(str(tmp_path))
    config.write_text(json.dumps({"model_cfg": {"vision_cfg": {"image_size": 32}}}))
    assert study(str(tmp_path)).attacks["trojvqa"].surrogate == str(tmp_path)


@pytest.fixture
def results(tmp_path):
    """Two studies: `a` has victim RN, `b` has victim ViT; a patch, and a trigger that is not fitted."""

    def put(path, value):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))

    rates = {("a", "patch"): (0.9, 0.1), ("a", "patch_ViT"): (0.7, 0.0), ("b", "patch"): (0.8, 0.4)}
    for name, victim in (("a", "RN"), ("b", "ViT")):
        put(tmp_path / name / "clean/seed0/model/card.json", {"settings": {"model": {"name": victim}}})
        lines = ["attack,defense,seed,asr1,floor", "clean,none,0,,"]
        for (where, attack), (success, alone) in rates.items():
            if where == name:
                lines += [f"{attack},none,0,{success},{alone}", f"{attack},none,1,{success - 0.2},{alone}"]
                lines += [f"{attack},tune,0,0.0,{alone}"]
                settings = {"surrogate": "ViT" if attack.endswith("ViT") else "clean", "method": "badclip"}
                put(tmp_path / name / attack / "seed0/trigger/trigger.json", {"settings": settings})
        put(tmp_path / name / "noise/seed0/trigger/trigger.json", {"settings": {"method": "blended"}})
        put(tmp_path / name / "summary/cells.csv", "\n".join([*lines, "noise,none,0,0.9,0.0", ""]))
    return tmp_path


def test_the_matrix_by_hand(results):
    table = transfer(map(of_run, [results / "a", results / "b"])).set_index(["surrogate", "victim"])
    assert set(table.index) == {("RN", "RN"), ("ViT", "RN"), ("ViT", "ViT")}
    assert table.loc[("RN", "RN"), ["T", "U", "T-U"]].tolist() == pytest.approx([0.8, 0.1, 0.7])
    assert table.loc[("ViT", "RN"), ["T", "U", "T-U"]].tolist() == pytest.approx([0.6, 0.0, 0.6])
    assert table.loc[("ViT", "ViT"), ["T", "U", "T-U"]].tolist() == pytest.approx([0.7, 0.4, 0.3])
    text = matrix(table.reset_index())
    assert "| surrogate | RN | ViT |" in text and "| RN | 80.0 ± 14.1 / 10.0 ± 0.0 |  |" in text
    assert "| ViT | 60.0 ± 14.1 / 0.0 ± 0.0 | 70.0 ± 14.1 / 40.0 ± 0.0 |" in text
    one = matrix(table.reset_index().assign(T_std=float("nan"), U_std=float("nan")))
    assert "| RN | 80.0 / 10.0 |  |" in one


def run(results, *arguments):
    command = [sys.executable, "scripts/transfer.py", "--results", results, "--study", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_prints_it_and_writes_a_table(results):
    page = results / "page.md"
    page.write_text("before\n<!-- transfer:start -->\nold\n<!-- transfer:end -->\nafter\n")
    done = run(results, "a", "b", "--output", results / "transfer.csv", "--page", page)
    assert done.returncode == 0 and "60.0 ± 14.1 / 0.0" in done.stdout, done.stderr
    assert (results / "transfer.csv").read_text().splitlines()[1].startswith("patch,badclip,RN,RN,2,0.8,0.1,0.7,0.1414")
    text = page.read_text()
    assert (
        text.startswith("before\n") and text.endswith("after\n") and "60.0 ± 14.1 / 0.0" in text and "old" not in text
    )


@pytest.mark.parametrize("output", ["", "no/such/transfer.csv"])
def test_an_output_that_cannot_be_written_is_told_in_one_line(results, output):
    done = run(results, "a", "--output", results / output)
    assert done.returncode == 1 and "should be a file in a folder that is there" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_study_that_was_not_run_is_told_in_one_line(results):
    done = run(results, "c")
    assert done.returncode == 1 and "c/summary/cells.csv: no such file; run the study first" in done.stderr
    assert "Traceback" not in done.stderr


def test_published_studies_give_the_matrix_without_a_run():
    command = [sys.executable, "scripts/transfer.py", "--leaderboard", "leaderboard", "--study"]
    done = subprocess.run(
        [*command, *(f"configs/{name}.yaml" for name in ("transfer-rn", "transfer-vit", "vit"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs/attacks.md").read_text(encoding="utf-8")
    assert f"<!-- transfer:start -->\n{done.stdout}<!-- transfer:end -->" in page and "|  |" not in done.stdout
    done = subprocess.run([*command, "config.yaml"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "config.yaml: no trigger there was fitted on a surrogate" in done.stderr


def test_attacks_on_one_surrogate_have_a_row_each_and_seeds_need_both_figures(results):
    path = results / "a/summary/cells.csv"
    path.write_text(path.read_text() + "weak,none,0,0.3,0.1\nweak,none,1,,0.0\nweak,none,2,0.9,\n")
    settings = {"surrogate": "clean", "method": "badclip"}
    (results / "a/weak/seed0/trigger").mkdir(parents=True)
    (results / "a/weak/seed0/trigger/trigger.json").write_text(json.dumps({"settings": settings}))
    table = transfer(map(of_run, [results / "a"])).set_index("attack")
    assert table.loc["weak", ["seeds", "T", "U", "T-U"]].tolist() == pytest.approx([1, 0.3, 0.1, 0.2])
    text = matrix(table.reset_index())
    assert "| RN (patch) | 80.0 ± 14.1" in text and "| RN (weak) | 30.0 / 10.0 |" in text and "| ViT | 60.0" in text


def test_two_studies_with_the_same_trigger_and_victim_are_told(results):
    """One of them would silently take the place of the other."""
    (results / "a").rename(results / "first")
    shutil.copytree(results / "first", results / "again")
    told = f"{results / 'again'}: patch, fitted on RN, against RN is in {results / 'first'} too; leave out one"
    with pytest.raises(UserError, match=re.escape(told)):
        transfer(map(of_run, [results / "first", results / "b", results / "again"]))


@pytest.mark.parametrize("content", ["{}", '{"settings": {"model": 1}}', "[]"])
def test_a_card_of_another_version_is_told(results, content):
    (results / "a/clean/seed0/model/card.json").write_text(content)
    with pytest.raises(UserError, match=r"card\.json: settings.* is missing; run the study again"):
        transfer(map(of_run, [results / "a"]))
