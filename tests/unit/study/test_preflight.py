"""What a study will take: jobs, work, disk, and what is missing."""

import argparse
import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
import yaml

from antidote.attacks.badnet import BadNetSettings
from antidote.attacks.siba import SIBASettings
from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.registry import DEFENSES, method
from antidote.base.settings import read_mapping
from antidote.command import check
from antidote.defenses.beear_clip import BEEARSettings
from antidote.defenses.ta_cleaner import TACleanerSettings
from antidote.study import amounts, preflight
from antidote.study.preflight import Rates, Stage
from antidote.study.study import Study
from antidote.training.recipe import TrainSettings
from scripts import preflight as script

SHOTS = {"dataset": "scenes", "split": "defense", "per_class": 16}


def study(**changes):
    return Study({**read_mapping("config.yaml"), **changes}, "config.yaml")


def by_name(found):
    return {stage.name: stage for stage in found}


# Pools of 1000 clean pairs, 160 shots, 900 pairs for inversion and 4000 to train on: what one job trains on and encodes.
SIZES = {
    "defense": 1000,
    "shots": 160,
    "inversion": 900,
    "training": 3000,
    "poison": 1000,
    "training set": 4000,
    "classes": 10,
}
EFFORTS = {
    "none": (0, 0),
    "finetune": (10_000, 0),
    "cleanclip": (20_000, 0),
    "ta_cleaner": (10 * 2000 + 10 * TACleanerSettings().samples_per_epoch, 0),
    "par": (10_000, 10_000),
    "linear_probe": (0, 160),
    "supervised": (1600, 0),
    "rvpt": (50 * 160, 160),
    # ten classes screened, eight inverted; one step of the prompts works on 100 texts
    "cbpt": (10 * 300 * 16 + 8 * 1000 * 64 + 50 * 160 / 32 * 100, 2 * 160),
    # two passes of each pair, and in each round of 16 steps four perturbations of 20 steps on 64 pictures
    "beear_clip": (2 * 10_000 + 10_000 / BEEARSettings().training.batch_size / 16 * 4 * 20 * 64, 10_000),
    "ubt_oracle": (4000 * 1.5, 4000),
    "imbert_clip": (0, 0),
}


@pytest.mark.parametrize("name", DEFENSES)
def test_every_defense_says_how_much_work_it_is(name):
    plan = study(defenses={"d": {"method": name}}, pools={**read_mapping("config.yaml")["pools"], "shots": SHOTS})
    trained, encoded = amounts.defending(plan, "d", SIZES)
    assert (trained, encoded) == EFFORTS.get(name, (trained, encoded)) and min(trained, encoded) >= 0


def test_a_learned_trigger_is_work_and_a_drawn_one_is_none():
    assert method("attack", "badnet").work(BadNetSettings(), SIZES) == (0, 0)
    assert method("attack", "siba").work(SIBASettings(epochs=7), SIZES) == (7 * 900, 0)


def test_stages_of_the_default_study(tmp_path):
    found = by_name(preflight.stages(study(seeds=[0, 1]), tmp_path))
    jobs = {name: len(stage.outputs) for name, stage in found.items() if name != "data"}
    assert jobs == {"clean model": 2, "triggers": 4, "poisoned pairs": 4, "backdoored models": 4, "defended models": 12,
                    "scores": 16}  # fmt: skip
    assert found["clean model"].trained == 2 * 8 * 8000
    assert found["backdoored models"].trained == 2 * 2 * 8 * 8000
    # Fine-tuning once, CleanCLIP two views, TA-Cleaner two views and its samples; two attacks, two seeds.
    assert found["defended models"].trained == 4 * 15 * (1000 + 2 * 1000 + 2 * 1000 + 512)
    assert found["scores"].encoded == 2 * 2000 * (16 + 4), "clean and triggered, of every cell and every floor"


def test_what_is_there_counts_as_done(tmp_path):
    file = tmp_path / "default/clean/seed0/model/open_clip_model.safetensors"
    file.parent.mkdir(parents=True)
    file.touch()
    found = by_name(preflight.stages(study(), tmp_path))
    assert found["clean model"].done == 1 and found["clean model"].left == 0
    assert found["backdoored models"].done == 0 and found["backdoored models"].left == 1


def test_persistence_is_a_stage_where_the_study_asks_for_it(tmp_path):
    assert not any("persistence" in name for name in by_name(preflight.stages(study(), tmp_path)))
    one = {"kind": "full", "training": {"epochs": 2, "batch_size": 100}, "every": 10}
    asked = study(persistence={"adaptations": {"a": one}})
    found = by_name(preflight.stages(asked, tmp_path))
    for name in ("persistence", "persistence, clean models"):
        assert found[name].trained == 8 * 2 * 1000 and found[name].encoded == 8 * 2 * 2000 * (20 // 10 + 1)
    clean = found["defended clean models"]
    assert len(clean.outputs) == 3 and clean.trained == found["defended models"].trained / 2, "once, not per attack"


def test_hours(tmp_path):
    (tmp_path / "done").touch()
    half = Stage("x", (tmp_path / "done", tmp_path / "not"), trained=7200, encoded=3600)
    assert half.done == 1 and Rates(2, 1, 0).hours(half) == pytest.approx(1)
    assert Rates(2, 1, 0).hours(Stage("none", ())) == 0


def test_disk_counts_what_is_still_to_be_written(tmp_path):
    plan = study()
    needed = preflight.disk(plan, preflight.stages(plan, tmp_path), size=32, parameters=1000)
    assert needed["models"] == 4 * 1000 * (1 + 2 + 6)
    assert needed["poisoned pairs"] == preflight.LOSSLESS_PER_PIXEL * 32 * 32 * 640
    assert preflight.free(tmp_path / "not/there") > 0


def test_what_a_study_starts_from_has_to_be_there(tmp_path):
    table = {"source": "table", "caption": "c", "path": "p", "splits": {"train": str(tmp_path / "none.csv")}}
    place = {"dataset": "mine", "split": "train"}
    pools = {"training": {**place, "pairs": 10}, "poison": {**place, "pairs": 500}, "defense": {**place, "pairs": 200}}
    changed = study(datasets={"mine": table}, pools=pools, lexicon="none", track=None)
    assert preflight.missing(changed) == [f"mine/train: {tmp_path / 'none.csv'}: not there"]
    (tmp_path / "none.csv").touch()
    assert preflight.missing(changed) == [
        f"mine/train: {tmp_path}/none.csv: cannot be read (No columns to parse from file)"
    ]
    (tmp_path / "none.csv").write_text("c,p\na cat,x.png\n")
    tried = f"{tmp_path}/x.png: No such file or directory; 'x.png' is relative to the table's folder"
    fault = f"mine/train: {tmp_path}/none.csv: none-0000000: picture file cannot be read ({tried})"
    assert preflight.missing(changed) == [fault]
    (tmp_path / "x.png").touch()
    assert preflight.missing(changed) == []


def test_further_models_and_sets_count(tmp_path):
    further = {"other": {"model": {"name": "tiny-rn"}, "pretraining": {"epochs": 3, "batch_size": 64}}}
    pictures = {"dataset": "scenes", "split": "defense", "pictures": 100}
    evaluation = {**read_mapping("config.yaml")["evaluation"], "probe": pictures, "retrieval": pictures}
    plan = study(surrogates=further, evaluation=evaluation)
    found = by_name(preflight.stages(plan, tmp_path))
    assert len(found["surrogate models"].outputs) == 1 and found["surrogate models"].trained == 3 * 8000
    assert found["scores"].encoded == (2 * 2000 + 2 * 100 + 100) * (8 + 2), "the probe's pictures are clean alone"
    assert preflight.disk(plan, list(found.values()), size=32, parameters=1000)["models"] == 4 * 1000 * (1 + 1 + 2 + 6)


def test_shifts_that_share_a_pass_count_once(tmp_path):
    """As the evaluation encodes them: two views of the same pictures together, other pictures apart."""
    shown = {"dataset": "scenes", "split": "defense", "pictures": 100}
    shifts = {"all_of": shown, "own_of": {**shown, "among": "own"}, "fewer": {**shown, "pictures": 30}}
    plan = study(evaluation={**read_mapping("config.yaml")["evaluation"], "shifts": shifts})
    found = by_name(preflight.stages(plan, tmp_path))
    assert found["scores"].encoded == 2 * (2000 + 100 + 30) * (8 + 2)


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


@pytest.fixture
def nothing_there(tmp_path, monkeypatch):
    """An empty folder in the place of the project's data."""
    monkeypatch.setattr(preflight, "DATA", tmp_path / "data")
    monkeypatch.setattr(preflight.img2dataset, "interpreter", lambda: "python")
    return tmp_path


def scored_on(source, split="val", **more):
    evaluation = {**read_mapping("config.yaml")["evaluation"], "retrieval": {"dataset": "mine", "split": split}}
    return study(datasets={"mine": source}, evaluation=evaluation, **more)


def test_empty_folders_are_missing(nothing_there):
    root = nothing_there / "pictures"
    plan = scored_on({"source": "folder", "root": str(root), "splits": {"val": "val"}})
    none = f"mine/val: splits.val: {root}/val: no such folder"
    assert preflight.missing(plan) == [none]
    (root / "val").mkdir(parents=True)
    assert preflight.missing(plan) == [f"mine/val: splits.val: {root}/val: holds no class folders"]
    for name in ("cat", "dog"):
        (root / "val" / name).mkdir()
    (root / "val/cat/1.png").touch()
    assert preflight.missing(plan) == [f"mine/val: {root}/val: 1 of 2 class folders hold no picture (dog)"]
    (root / "val/dog/1.png").touch()
    assert preflight.missing(plan) == []


def test_a_picture_of_each_of_karpathys_folders_has_to_be_there(nothing_there):
    rows = [
        {"filepath": f, "filename": f"{n}.jpg", "split": "val", "sentences": []} for n in (1, 2) for f in ("a", "b")
    ]
    (nothing_there / "d.json").write_text(json.dumps({"images": rows}))
    place = {"source": "karpathy", "file": str(nothing_there / "d.json"), "root": str(nothing_there)}
    plan = scored_on({**place, "splits": {"val": ["val"]}})
    (nothing_there / "a").mkdir()
    (nothing_there / "a/1.jpg").touch()
    assert preflight.missing(plan) == [f"mine/val: {nothing_there}/b/1.jpg: not there"]


def test_archives_of_imagenet_are_named_one_by_one(nothing_there):
    root = nothing_there / "imagenet"
    source = {"source": "torchvision", "dataset": "ImageNet", "root": str(root), "splits": {"val": {"split": "val"}}}
    plan = scored_on({**source, "classes": "openai_imagenet"})
    root.mkdir()
    names = ["ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_val.tar"]
    assert preflight.missing(plan) == [f"mine/val: {root / name}: not there" for name in names]
    (root / "val/n01440764").mkdir(parents=True)
    (root / names[0]).touch()
    assert preflight.missing(plan) == [], "unpacked pictures stand in for their archive"


TABLE = {"source": "url_table", "splits": {"val": "t.csv"}, "rows": {"val": 4000}, "image_size": 100}


def test_a_table_of_addresses_needs_its_files_and_img2dataset(nothing_there, monkeypatch):
    plan = scored_on({**TABLE, "splits": {"val": f"{nothing_there}/t.csv"}, "subset": f"{nothing_there}/list.parquet"})

    def absent():
        raise UserError("img2dataset: is not installed")

    monkeypatch.setattr(preflight.img2dataset, "interpreter", absent)
    lines = [
        f"mine/val: {nothing_there}/t.csv: not there",
        f"mine/val: subset: {nothing_there}/list.parquet: not there",
    ]
    assert preflight.missing(plan) == [*lines, "img2dataset: is not installed"]
    assert "mine (the pictures of its addresses)" in preflight.fetched(plan)
    (nothing_there / "data/mine").mkdir(parents=True)
    (nothing_there / "data/mine.dvc").touch()
    assert preflight.missing(plan) == [f"mine/val: `dvc pull {nothing_there}/data/mine.dvc` brings it"]
    assert not any("mine" in line for line in preflight.fetched(plan))


def needed(plan, results):
    return preflight.disk(plan, preflight.stages(plan, results), size=32, parameters=1000)


def test_pictures_are_on_the_disk_twice_while_they_are_downloaded(nothing_there):
    each = 0.4 * 100 * 100 * 1.4
    data = needed(scored_on({**TABLE, "sample": {"pairs": 10**6}}), nothing_there)
    drawn = data["data"] - data["downloads"]
    assert data["downloads"] == pytest.approx(4000 * each) and drawn > 0
    part = needed(scored_on({**TABLE, "sample": {"pairs": 500}}), nothing_there)
    assert part["downloads"] == pytest.approx(500 * each)
    assert part["data"] == pytest.approx(drawn + 500 * each)
    shard = nothing_there / "data/downloads/mine/val/x/pass1/00000.tar"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(bytes(10**6))
    assert needed(scored_on(TABLE), nothing_there)["downloads"] == pytest.approx(4000 * each - 10**6)


def test_pictures_that_are_not_reduced_and_those_made_ready_count(nothing_there):
    source = {"source": "folder", "root": "x", "splits": {"val": "val"}, "expected": {"val": 50_000}}
    few, many = (needed(scored_on({**source, "expected": {"val": n}}), nothing_there) for n in (10_000, 60_000))
    assert many["data"] - few["data"] == 50_000 * 150_000
    assert many["pictures made ready"] - few["pictures made ready"] == 50_000 * 3 * 32 * 32


def test_triggered_pictures_that_cells_share_count(nothing_there):
    """ISSBA: 1.7 GB per 50,000 pictures of 224 pixels, for each seed; a trigger that is quickly drawn is not kept."""
    pools = {
        **read_mapping("config.yaml")["pools"],
        "inversion": {"dataset": "scenes", "split": "defense", "pairs": 64},
    }
    plan = {"seeds": [0, 1], "pools": pools}
    quick, slow = (study(attacks={"one": {"method": name, "poisons": 9}}, **plan) for name in ("badnet", "issba"))
    found = preflight.stages(slow, nothing_there)
    scored = sum((part.looks - 1) * preflight.pictures(slow, part) for part in slow.evaluated.passes())
    assert scored >= 2000
    each = preflight.disk(slow, found, size=224, parameters=1000)["triggered pictures"] / (2 * scored)
    assert 50_000 * each == pytest.approx(1.7e9, rel=0.05)
    assert needed(quick, nothing_there)["triggered pictures"] == 0
    ended = [stage for stage in found if stage.name != "scores"]
    assert preflight.disk(slow, ended, size=224, parameters=1000)["triggered pictures"] == 0


def test_each_disk_is_looked_at(nothing_there, monkeypatch):
    parts = {"downloads": 5e9, "data": 5e9, "models": 4e9}
    monkeypatch.setattr(preflight, "free", lambda folder: 8 * 10**9)
    one = preflight.too_full(parts, nothing_there)
    assert one == ["disk: downloads, data, models: 14 GB are needed, 8 GB are free"]
    monkeypatch.setattr(preflight, "_disk_of", lambda folder: int("data" in str(folder)))
    assert preflight.too_full(parts, nothing_there) == ["disk: downloads, data: 10 GB are needed, 8 GB are free"]


def test_pools_that_ask_for_more_pairs_than_there_are(capsys):
    """Of a split that a job writes; the pools of one split are disjoint."""
    assert preflight.too_few_pairs(study()) == []
    pools = {
        **read_mapping("config.yaml")["pools"],
        "training": {"dataset": "scenes", "split": "train", "pairs": 75_000},
    }
    [line] = preflight.too_few_pairs(study(pools=pools, track=None))
    assert re.fullmatch(r"pools: ask for 75,\d+ pairs \(training 75,000, .*\); scenes/train has 8,000", line)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--batch-size", "-3"], "'-3' should be a whole number from 1 on"),
        (["--rates", "0", "5"], "'0' should be a number above 0"),
        (["--memory", "nan"], "'nan' should be a number from 0 on"),
    ],
)
def test_numbers_that_measure_nothing_are_told(words, told, capsys):
    with pytest.raises(SystemExit):
        script.arguments().parse_args(["config.yaml", *words])
    assert told in capsys.readouterr().err


def test_a_device_that_is_too_small_is_one_line_among_others(monkeypatch, capsys, tmp_path):

    def fail(clip, recipe):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(preflight, "measured", fail)
    given = {"file": "config.yaml", "results": tmp_path, "batch_size": None, "memory": None}
    with pytest.raises(SystemExit):
        script.run(argparse.Namespace(**given, rates=None))
    told = capsys.readouterr().out
    assert "missing: device: " in told and "needs more than the GPU's memory" in told
    assert "disk: " in told and "defended models" in told and "- pairs/s trained" in told
    script.run(argparse.Namespace(**given, rates=[700.0, 2000.0]))
    assert "700 pairs/s trained" in capsys.readouterr().out, "given rates need no measuring"


def test_cells_that_are_not_run_are_told(capsys, tmp_path):
    values = read_mapping(str(ROOT / "tests/studies/tiny.yaml"))
    values["defenses"] = {
        "rvpt": {"method": "rvpt", "prompts": [1, 2]},
        "ubt": {"method": "ubt", "overfit": {"batch_size": 32}},
        "probe": {"method": "linear_probe"},
    }
    values["pools"] |= {"shots": {"split": "defense", "per_class": 2}, "defense": {"split": "defense", "pairs": 40}}
    values["pools"]["poison"]["target_pairs"] = 5
    values["pools"]["inversion"] = {"split": "defense", "pairs": 20, "target_pairs": 5}
    values["attacks"]["encoder"] = {"method": "badencoder", "preset": "cifar10", "poisons": 20}
    values["attacks"]["few_shot"] = {"method": "flba"}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(values))
    told = [
        "rvpt: tiny-rn: needs a vision transformer", "ubt on encoder: badencoder poisons no training set\n",
        "every other defense on few_shot: flba: the backdoor is in a few-shot classifier",
    ]  # fmt: skip
    check.run(argparse.Namespace(files=[str(tmp_path / "s.yaml")]))
    printed = capsys.readouterr().out
    assert all(f"  not run   {line}" in printed for line in told) and printed.count("not run") == 3
    given = {"file": str(tmp_path / "s.yaml"), "results": tmp_path, "batch_size": 32, "memory": None, "rates": [1, 1]}
    script.run(argparse.Namespace(**given))
    printed = capsys.readouterr().out
    assert all(f"\nnot run: {line}" in printed for line in told)


def test_rates_are_measured(make_clip):
    rates = preflight.measured(make_clip("rn"), TrainSettings(batch_size=4, epochs=3, shuffle="shards"))
    assert rates.parameters > 0
    assert all(math.isfinite(rate) and rate > 0 for rate in (rates.trained, rates.encoded))


def test_weights_of_further_models_have_to_be_there():
    further = {"other": {"model": {"name": "tiny-rn", "pretrained": "none.pt"}, "pretraining": {"epochs": 0}}}
    faults = preflight.further_weights(study(surrogates=further))
    assert len(faults) == 1 and faults[0].startswith("surrogates.other: 'none.pt' is neither a file")


def test_of_jobs_that_nothing_waits_for_the_longest_starts_first():
    order = amounts.LongestFirst(study())
    first = sorted(("finetune", "cleanclip", "ta_cleaner"), key=lambda d: -order.defense(SimpleNamespace(defense=d)))
    assert first == ["ta_cleaner", "cleanclip", "finetune"]
    assert all(order.defense(SimpleNamespace(defense=name)) < 0 for name in first), "others wait for the rest"
