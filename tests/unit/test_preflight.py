"""What a study will take: jobs, work, disk, and what is missing."""

import math

import pytest

from antidote import preflight
from antidote.errors import UserError
from antidote.preflight import Rates, Stage
from antidote.registry import DEFENSES
from antidote.settings import read_mapping
from antidote.study import Study
from antidote.training import TrainSettings


def study(**changes):
    return Study({**read_mapping("config.yaml"), **changes}, "config.yaml")


def by_name(found):
    return {stage.name: stage for stage in found}


def test_every_defense_says_how_much_work_it_is():
    assert set(preflight.WORK) == set(DEFENSES)


def test_stages_of_the_default_study(tmp_path):
    found = by_name(preflight.stages(study(seeds=[0, 1]), tmp_path))
    jobs = {name: len(stage.outputs) for name, stage in found.items() if name != "data"}
    assert jobs == {"clean model": 2, "triggers": 4, "poisoned pairs": 4, "backdoored models": 4, "defended models": 12,
                    "scores": 16}  # fmt: skip
    assert found["clean model"].trained == 2 * 8 * 8000
    assert found["backdoored models"].trained == 2 * 2 * 8 * 8000
    # Fine-tuning once, CleanCLIP two views, TA-Cleaner two views and its samples; two attacks, two seeds.
    assert found["defended models"].trained == 4 * 10 * (2000 + 2 * 2000 + 2 * 2000 + 640)
    assert found["scores"].encoded == 2 * 2000 * (16 + 4), "clean and triggered, of every cell and every floor"


def test_what_is_there_counts_as_done(tmp_path):
    file = tmp_path / "default/clean/seed0/model/open_clip_model.safetensors"
    file.parent.mkdir(parents=True)
    file.touch()
    found = by_name(preflight.stages(study(), tmp_path))
    assert found["clean model"].done == 1 and found["clean model"].left == 0
    assert found["backdoored models"].done == 0 and found["backdoored models"].left == 1


def test_rebound_is_a_stage_where_the_study_asks_for_it(tmp_path):
    rebound = {"training": {"epochs": 2, "batch_size": 100}, "every": 10}
    found = by_name(preflight.stages(study(rebound=rebound), tmp_path))
    assert found["rebound"].trained == 8 * 2 * 2000 and found["rebound"].encoded == 8 * 2 * 2000 * (40 // 10 + 1)


def test_hours(tmp_path):
    (tmp_path / "done").touch()
    half = Stage("x", (tmp_path / "done", tmp_path / "not"), trained=7200, encoded=3600)
    assert half.done == 1 and Rates(2, 1, 0).hours(half) == pytest.approx(1)
    assert Rates(2, 1, 0).hours(Stage("none", ())) == 0


def test_disk_counts_what_is_still_to_be_written(tmp_path):
    plan = study()
    needed = preflight.disk(plan, preflight.stages(plan, tmp_path), size=32, parameters=1000)
    assert needed["models"] == 4 * 1000 * (1 + 2 + 6)
    assert needed["poisoned pairs"] == preflight.PNG_BYTES_PER_PIXEL * 32 * 32 * 640
    assert preflight.free(tmp_path / "not/there") > 0


def test_what_a_study_starts_from_has_to_be_there(tmp_path):
    table = {"source": "table", "caption": "c", "path": "p", "splits": {"train": str(tmp_path / "none.csv")}}
    place = {"dataset": "mine", "split": "train"}
    pools = {"training": {**place, "pairs": 10}, "poison": {**place, "pairs": 500}, "defense": {**place, "pairs": 2}}
    changed = study(datasets={"mine": table}, pools=pools, lexicon="none")
    assert preflight.missing(changed) == [f"mine/train: {tmp_path / 'none.csv'}: not there"]
    (tmp_path / "none.csv").touch()
    assert preflight.missing(changed) == []


def test_further_models_and_sets_count(tmp_path):
    further = {"other": {"model": {"name": "tiny-rn"}, "pretraining": {"epochs": 3, "batch_size": 64}}}
    pictures = {"dataset": "scenes", "split": "defense", "pictures": 100}
    evaluation = {**read_mapping("config.yaml")["evaluation"], "probe": pictures, "retrieval": pictures}
    plan = study(surrogates=further, evaluation=evaluation)
    found = by_name(preflight.stages(plan, tmp_path))
    assert len(found["surrogate models"].outputs) == 1 and found["surrogate models"].trained == 3 * 8000
    assert found["scores"].encoded == 2 * (2000 + 100 + 100) * (8 + 2)
    assert preflight.disk(plan, list(found.values()), size=32, parameters=1000)["models"] == 4 * 1000 * (1 + 1 + 2 + 6)


def test_pictures_of_karpathys_splits_have_to_be_there(tmp_path):
    place = {"source": "karpathy", "file": str(tmp_path / "none.json"), "root": str(tmp_path / "none")}
    evaluation = {**read_mapping("config.yaml")["evaluation"], "retrieval": {"dataset": "mine", "split": "test"}}
    plan = study(datasets={"mine": {**place, "splits": {"test": ["test"]}}}, evaluation=evaluation)
    assert preflight.missing(plan) == [f"mine/test: {tmp_path / name}: not there" for name in ("none.json", "none")]


def test_weights_of_further_models_are_fetched_beforehand(monkeypatch, tmp_path):
    """The public scorer of two defenses once, that of a surrogate too; one line for what cannot be had."""
    asked = []

    def find(name, pretrained, quick_gelu, config):
        asked.append((name, pretrained, quick_gelu, config["embed_dim"]))
        raise UserError("model.pretrained: 'openai' cannot be downloaded")

    monkeypatch.setattr(preflight, "find_weights", find)
    further = {"public": {"model": {"name": "tiny-rn", "pretrained": "w.pt"}}, "own": {}}
    scored = {"method": "ubt", "scorer": "RN101/openai"}
    plan = study(surrogates=further, defenses={"a": scored, "b": scored, "c": {"method": "ubt"}})
    assert preflight.further_weights(plan) == [
        "surrogates.public: 'openai' cannot be downloaded", "defenses.a.scorer: 'openai' cannot be downloaded",
    ]  # fmt: skip
    assert [entry[:3] for entry in asked] == [("tiny-rn", "w.pt", False), ("RN101", "openai", True)]
    monkeypatch.setattr(preflight, "find_weights", lambda *_: None)
    assert preflight.further_weights(plan) == []


def test_rates_are_measured(make_clip):
    rates = preflight.measured(make_clip("rn"), TrainSettings(batch_size=4, epochs=3))
    assert rates.parameters > 0
    assert all(math.isfinite(rate) and rate > 0 for rate in (rates.trained, rates.encoded))
