"""A single rerun cell beside the published study: no summary, some seeds."""

from __future__ import annotations

import re
import shutil

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study.study import Study
from scripts import results
from tests.unit.summary.test_pages import put

ASR = {0: 0.4, 1: 0.2, 2: 0.9}
DIGITS = 9  # of results files, as the tables of a summary are rounded


@pytest.fixture
def study(tmp_path, anything_goes):
    """A study of a track of three seeds, all of whose cells are scored, and its results files as a leaderboard."""
    values = read_mapping(str(ROOT / "tests/studies/tiny.yaml")) | {"seeds": list(ASR)}
    values["track"] = {"name": "open", "version": 1}
    values["defenses"] = {"finetune": values["defenses"]["finetune"]}
    put(tmp_path / "study.yaml", values)
    folder = tmp_path / "results/tiny"
    for seed, asr1 in ASR.items():
        put(folder / f"clean/seed{seed}/none/scores.json", {"ca1": 0.9, "asr1": None})
        put(folder / f"clean/seed{seed}/model/open_clip_model.safetensors", f"clean {seed}")
        for attack in ("badnet", "blended"):
            cell = folder / f"{attack}/seed{seed}"
            put(cell / "floor/scores.json", {"ca1": 0.9, "asr1": 0.01})
            put(cell / "model/open_clip_model.safetensors", f"{attack} {seed}")
            put(cell / "finetune/model/open_clip_model.safetensors", f"{attack} tuned {seed}")
            put(cell / "none/scores.json", {"ca1": 0.88, "asr1": 0.95})
            put(cell / "finetune/scores.json", {"ca1": 0.8, "asr1": asr1})
    return tmp_path / "study.yaml"


def act(*words):
    results.run(results.arguments().parse_args([str(word) for word in words]))


def publish(study, monkeypatch):
    """Write the leaderboard without a summary of the study, as `write` would with one."""
    monkeypatch.setattr(results, "FOLDER", study.parent / "leaderboard")
    read = results.Finished.read
    monkeypatch.setattr(results.Finished, "read", lambda *words: read(*words, part=True))
    act("write", study, "--results", study.parent / "results", "--output", results.FOLDER)
    monkeypatch.setattr(results.Finished, "read", read)


def rerun(study, *, seeds=(0,), asr1=None):
    """Leave one defended cell and its seeds, with another ASR@1 if one is given."""
    folder = study.parent / "results/tiny"
    shutil.rmtree(folder / "blended")
    for seed in ASR:
        (folder / f"badnet/seed{seed}/none/scores.json").unlink()
        if seed not in seeds:
            (folder / f"badnet/seed{seed}/finetune/scores.json").unlink()
        elif asr1 is not None:
            put(folder / f"badnet/seed{seed}/finetune/scores.json", {"ca1": 0.8, "asr1": asr1})


def test_one_cell_of_one_seed_is_set_beside_the_same_seed_of_the_leaderboard(study, monkeypatch, capsys):
    publish(study, monkeypatch)
    rerun(study)
    act("compare", study, "--results", study.parent / "results")
    told = capsys.readouterr().out
    assert "| badnet | finetune | asr1 | 40.0 | 40.0 | +0.0" in told and told.count("| equal |") == 2
    assert told.splitlines()[-1] == "- 3 cells of one run that the other has not scored"


@pytest.mark.parametrize(("seeds", "first", "second"), [((0,), "70.0", "40.0"), ((0, 1), "70.0 ± 0.0", "30.0 ± 14.1")])
def test_the_spread_is_that_of_all_seeds_of_the_leaderboard(study, monkeypatch, capsys, seeds, first, second):
    """ASR@1 of 40, 20 and 90 %: another seed is as far away, so the processor may be the cause."""
    publish(study, monkeypatch)
    rerun(study, seeds=seeds, asr1=0.7)
    act("compare", study, study.parent / "leaderboard/open-1/tiny", "--results", study.parent / "results")
    [row] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| badnet | finetune | asr1")]
    assert row.split(" | ")[3:5] == [first, second] and row.endswith("| too few seeds to tell |")


def test_a_cell_of_other_settings_is_refused(study, monkeypatch):
    publish(study, monkeypatch)
    rerun(study)
    settings = Study(read_mapping(str(study)), "study").defenses["finetune"].model_dump(mode="json")
    card = {"settings": settings | {"training": settings["training"] | {"lr": 0.5}}}
    put(study.parent / "results/tiny/badnet/seed0/finetune/model/card.json", card)
    with pytest.raises(UserError, match=r"card\.json: .*training\.lr"):
        act("compare", study, "--results", study.parent / "results")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda study: shutil.rmtree(study.parent / "results"), "no cell was run whose models are there"),
        (lambda study: put(study, read_mapping(str(study)) | {"track": None}), "is no file of a study of a track"),
        (lambda study: study.unlink(), "is no file of a study of a track; name the folder to compare with as well"),
        (lambda study: shutil.rmtree(study.parent / "leaderboard"), "leaderboard/open-1/tiny: holds no measured"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(study, monkeypatch, change, told):
    publish(study, monkeypatch)
    change(study)
    with pytest.raises(UserError, match=re.escape(told)) as error:
        act("compare", study, "--results", study.parent / "results")
    assert "\n" not in str(error.value)


def test_a_cell_that_is_not_in_the_other_run_is_named(study, monkeypatch, capsys):
    """A renamed defense: what was scored under the new name has nothing to be compared with."""
    publish(study, monkeypatch)
    values = read_mapping(str(study))
    put(study, values | {"defenses": values["defenses"] | {"renamed": values["defenses"]["finetune"]}})
    cell = study.parent / "results/tiny/badnet/seed0/renamed"
    put(cell / "model/open_clip_model.safetensors", "renamed")
    put(cell / "scores.json", {"ca1": 0.8, "asr1": 0.4})
    act("compare", study, "--results", study.parent / "results")
    folder = study.parent / "leaderboard/open-1/tiny"
    assert capsys.readouterr().out.splitlines()[-1] == f"- badnet / renamed: only in {study}, not in {folder}"


def test_digits_that_a_results_file_leaves_out_are_no_difference(study, monkeypatch, capsys):
    """198 of 484 pictures."""
    for seed in ASR:
        put(study.parent / f"results/tiny/badnet/seed{seed}/finetune/scores.json", {"ca1": 0.8, "asr1": 198 / 484})
    publish(study, monkeypatch)
    file = study.parent / "leaderboard/open-1/tiny/badnet--finetune.json"
    file.write_text(file.read_text().replace(str(198 / 484), str(round(198 / 484, DIGITS))))
    rerun(study)
    act("compare", study, "--results", study.parent / "results")
    told = capsys.readouterr().out
    assert "asr1: 1 cell, 1 equal" in told and "not equal on the same" not in told
