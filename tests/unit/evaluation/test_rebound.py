"""Rebound: measuring on the way changes nothing in the training, and a killed run gives the same curve."""

from __future__ import annotations

import json

import pytest
import torch

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.evaluation.rebound import ReboundSettings, rebound
from antidote.study.study import Study
from antidote.summary.cells import read_cells
from antidote.summary.plan import SummarySettings
from antidote.summary.rebounds import rebounds
from antidote.summary.tables import summarise
from antidote.summary.text import plain
from antidote.training.loop import train
from antidote.training.objectives import Contrastive
from antidote.training.session import Work

FILE = "tests/studies/tiny.yaml"
PROMPTS = ["a zebra that no caption names"]
SETTINGS = ReboundSettings.read({"training": {"epochs": 2, "batch_size": 4, "lr": 1e-2, "warmup": 0}, "every": 4}, "")


def work(folder, every=1e9):
    return Work(folder / "work", "identity", every)


def measure(clip):
    """Stands in for the evaluation: a figure of the weights, one of a prompt whose words no caption has."""
    clip.network.eval()
    with torch.no_grad():
        weight = next(clip.network.parameters())
        return {"ca1": float(weight.double().sigmoid().mean()), "score": float(clip.encode_text(PROMPTS).abs().mean())}


def test_the_model_is_measured_every_so_many_steps_and_at_the_end(make_clip, make_pairs, tmp_path):
    curve = rebound(make_clip(), make_pairs(20), PROMPTS, measure, SETTINGS, 0, work(tmp_path))
    assert [point["step"] for point in curve] == [4, 8, 10]
    assert len({point["ca1"] for point in curve}) == 3, "the weights move on between measurements"


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_measuring_changes_nothing_in_the_training(make_clip, make_pairs, tmp_path, kind):
    watched, plainly = make_clip(kind), make_clip(kind)
    rebound(watched, make_pairs(20), PROMPTS, measure, SETTINGS, 0, work(tmp_path / "a"))
    train(plainly, Contrastive(make_pairs(20)), SETTINGS.training, 0, work(tmp_path / "b"))
    for (name, ours), theirs in zip(
        watched.network.state_dict().items(), plainly.network.state_dict().values(), strict=True
    ):
        if name == "token_embedding.weight":  # the decay of the prompts' words is rounded at each step, not once
            torch.testing.assert_close(ours, theirs)
        else:
            assert torch.equal(ours, theirs), name


def test_the_last_point_is_the_model_that_the_training_ends_with(make_clip, make_pairs, tmp_path):
    clip = make_clip()
    curve = rebound(clip, make_pairs(20), PROMPTS, measure, SETTINGS, 0, work(tmp_path))
    assert {rate: curve[-1][rate] for rate in ("ca1", "score")} == measure(clip)


def test_a_killed_run_gives_the_same_curve(make_clip, make_pairs, tmp_path):
    whole = rebound(make_clip(), make_pairs(20), PROMPTS, measure, SETTINGS, 0, work(tmp_path / "whole"))
    calls = []

    def killing(clip):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(clip)

    with pytest.raises(KeyboardInterrupt):
        rebound(make_clip(), make_pairs(20), PROMPTS, killing, SETTINGS, 0, work(tmp_path, every=0))
    assert (tmp_path / "work" / "checkpoint.pt").exists()
    assert rebound(make_clip(), make_pairs(20), PROMPTS, measure, SETTINGS, 0, work(tmp_path, every=0)) == whole


def test_a_rebound_needs_clean_pairs():
    values = read_mapping(str(ROOT / FILE))
    values |= {"rebound": {"every": 5}, "defenses": {}}
    del values["pools"]["defense"]
    with pytest.raises(UserError, match=r"pools.defense: is missing, and `rebound` fine-tunes on its pairs"):
        Study(values, FILE)


def test_defaults_of_a_group_are_kept_where_some_keys_are_given():
    values = {**read_mapping(str(ROOT / FILE)), "rebound": {"training": {"lr": 0.5}}}
    recipe = Study(values, FILE).file.rebound.training
    assert (recipe.lr, recipe.epochs, recipe.batch_size) == (0.5, 1, 128)


# --- in the summary --------------------------------------------------------------------------------------------------

PLAN = {
    "study": "s", "seeds": [0, 1], "attacks": [{"name": "patch"}],
    "defenses": [{"name": "none"}, {"name": "tune", "method": "tune"}],
}  # fmt: skip


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture
def results(tmp_path):
    for seed in (0, 1):
        for defense, asr in (("none", 0.9), ("tune", 0.1)):
            folder = tmp_path / "patch" / f"seed{seed}" / defense
            put(folder / "scores.json", {"ca1": 0.8, "asr1": asr})
            curve = [{"step": 10, "ca1": 0.8, "score": asr / 2}, {"step": 20, "ca1": 0.8, "score": asr + seed / 20}]
            put(folder / "rebound.json", {"rebound": max(point["score"] for point in curve), "curve": curve})
    return tmp_path


def test_the_highest_rate_stands_in_the_tables(results):
    plan = SummarySettings.read({**PLAN, "rebound": True}, "plan")
    cells = read_cells(plan, results)
    tuned = cells[cells["defense"] == "tune"]
    assert list(tuned["rebound"]) == pytest.approx([0.10, 0.15])
    table = summarise(cells, plan)
    assert table.loc[table["defense"] == "tune", "rebound_mean"].item() == pytest.approx(0.125)
    assert "Rebound in percent" in plain(table) and "12.5" in plain(table)
    rebounds(plan, results, table, results / "rebound.png")
    assert (results / "rebound.png").stat().st_size > 10_000


def test_leftovers_of_a_study_without_rebound_do_not_show(results):
    plan = SummarySettings.read(PLAN, "plan")
    cells = read_cells(plan, results)
    assert "rebound" not in cells and "Rebound" not in plain(summarise(cells, plan))


def test_a_broken_curve_is_told_in_one_line(results):
    put(results / "patch/seed1/tune/rebound.json", {"rebound": 0.1, "curve": []})
    with pytest.raises(UserError, match=r"patch/seed1/tune/rebound.json: curve: .*at least 1"):
        read_cells(SummarySettings.read({**PLAN, "rebound": True}, "plan"), results)
