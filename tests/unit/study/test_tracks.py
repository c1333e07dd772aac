"""A study names a track only if it keeps to the track's recipe."""

import re

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study.study import Study
from antidote.study.tracks import MACHINE
from antidote.training.recipe import TrainSettings


def study(file="config.yaml", **changes):
    """Return a committed study with changed keys; a mapping changes keys of the study's own mapping."""
    values = read_mapping(str(ROOT / file))
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(values.get(key), dict)
        values[key] = {**values[key], **value} if both else value
    return Study(values, "study.yaml")


def test_a_study_that_keeps_to_its_track():
    assert str(study(track={"name": "tiny", "version": 1}).file.track) == "tiny 1"
    assert study(track=None, target="boat").file.track is None


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"track": {"name": "tyni"}}, "study.yaml: track.name: unknown track 'tyni'; did you mean 'tiny'?"),
        ({"track": {"name": "tiny", "version": 9}}, "study.yaml: track.version: tiny has version 1, not 9"),
        (
            {"track": {"name": "tiny"}, "target": "apple"},
            "study.yaml: target: the track tiny 1 fixes 'banana', not 'apple'; leave out `track`",
        ),
    ],
)
def test_a_study_that_does_not(changes, text):
    with pytest.raises(UserError, match=f"^{re.escape(text)}"):
        study(**changes)


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"pretraining": {"epochs": 1}}, "pretraining.epochs: the track tiny 1 fixes 8 or 12, not 1"),
        ({"pretraining": {"flip": 0.5}}, "pretraining.flip: the track tiny 1 fixes 0.0, not 0.5"),
        ({"poisoning": {"weight_decay": 5.0}}, "poisoning.weight_decay: the track tiny 1 fixes 0.1, not 5.0"),
        ({"poisoning": {"crop_scale": [0.5, 1]}}, "poisoning.crop_scale: the track tiny 1 fixes None, not [0.5, 1.0]"),
        ({"evaluation": {"pictures": 50}}, "evaluation.pictures: the track tiny 1 fixes None, not 50"),
        (
            {"pools": {"training": {"dataset": "scenes_defender", "split": "train", "pairs": 7500}}},
            "pools.training.dataset: the track tiny 1 fixes 'scenes' or 'scenes_large', not 'scenes_defender'",
        ),
        (
            {"datasets": {"scenes": {"splits": {"mine": {"pairs": 8000, "seed": 9}}}},
             "pools": {"poison": {"dataset": "scenes", "split": "mine", "pairs": 500}}},
            "pools.poison.split: the track tiny 1 fixes 'train', not 'mine'",
        ),
        (
            {"datasets": {"scenes_defender": {"source": "scenes", "splits": {"train": {"pairs": 20000, "seed": 77}}}}},
            "datasets.scenes_defender.source: the track tiny 1 fixes 'shifted_scenes', not 'scenes'",
        ),
        (
            {"datasets": {"scenes_defender": {"splits": {"train": {"pairs": 4000, "seed": 12, "style": "night"}}}}},
            "datasets.scenes_defender.splits.train: the track tiny 1 fixes {'pairs': 4000, 'seed': 12, 'style': 'sketch'",
        ),
        (
            {"datasets": {"scenes": {"splits": {"test": {"pairs": 50, "seed": 99}}}}},
            "datasets.scenes.splits.test: the track tiny 1 fixes {'pairs': 2000, 'seed': 3}, not {'pairs': 50",
        ),
        ({"datasets": {"scenes": {"size": 48}}}, "datasets.scenes.size: the track tiny 1 fixes 32, not 48"),
    ],
)  # fmt: skip
def test_a_study_of_other_data_or_another_training(changes, text):
    with pytest.raises(UserError, match=f"^{re.escape('study.yaml: ' + text)}.*; leave out `track`$"):
        study(**changes)
    assert study(**changes, track=None).file.track is None


@pytest.mark.parametrize(
    "changes",
    [
        {"datasets": {"scenes": {"terms": "none", "splits": {"mine": {"pairs": 80, "seed": 9}}}}},
        {"poisoning": {"accumulate": 2, "compile": True, "channels_last": True}},
        {"evaluation": {"classes": "scenes", "batch_size": 16}},
    ],
)
def test_what_a_study_of_a_track_may_change(changes):
    assert str(study(**changes).file.track) == "tiny 1"


def test_photographs_may_lie_elsewhere_and_in_another_format():
    name, file = "tiny_imagenet_32", "configs/open-small.yaml"
    table = {
        "source": "table",
        "image": "image",
        "label": "label",
        "splits": {"train": "a.parquet", "val": "b.parquet"},
    }
    for change in ({"root": "elsewhere", "expected": {"train": 10, "val": 10}}, table):
        assert str(study(file, datasets={name: change}).file.track) == "open 1"
    for change, told in (
        ({"image_size": 16}, "image_size: the track open 1 fixes 32, not 16"),
        ({"splits": {"val": "train"}}, "splits.val: the track open 1 fixes 'val', not 'train'"),
        ({**table, "templates": "simple"}, "templates: the track open 1 fixes 'openai_imagenet', not 'simple'"),
        (
            {"source": "scenes", "splits": {"train": {"pairs": 90000, "seed": 1}, "val": {"pairs": 100, "seed": 2}}},
            "source: the track open 1 fixes 'folder', not 'scenes'",
        ),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(f'study.yaml: datasets.{name}.{told}')}"):
            study(file, datasets={name: change})
    part = read_mapping(str(ROOT / "configs/small.yaml"))["datasets"]["cc3m_part"]
    moved = {"cc3m_part": {**part, "splits": {"train": "elsewhere.tsv"}}}
    assert str(study("configs/small.yaml", datasets=moved).file.track) == "small 1"
    with pytest.raises(UserError, match=r"^study\.yaml: datasets\.cc3m_part\.sample: the track small 1 fixes"):
        study("configs/small.yaml", datasets={"cc3m_part": {**part, "sample": {"pairs": 250000, "seed": 1}}})


def test_a_split_of_photographs_may_have_another_name_on_the_disk():
    """Not the name of another split of the track."""
    name = "tiny_imagenet_32"
    assert str(study("configs/open-small.yaml", datasets={name: {"splits": {"val": "validation"}}}).file.track)
    with pytest.raises(UserError, match=rf"^study\.yaml: datasets\.{name}\.splits\.train: the track open 1 fixes"):
        study("configs/open-small.yaml", datasets={name: {"splits": {"train": "val", "val": "validation"}}})


@pytest.mark.parametrize(
    "change",
    [
        {"subset": "subsets/paper.parquet"},  # docs/data.md: the same pictures again
        {"columns": ["url", "caption"]},
        {"columns": ["address", "text", "id"], "url": "address", "caption": "text", "key": "id"},
        {"splits": {"mine": "mine.tsv"}, "rows": {"mine": 5}},
    ],
)
def test_the_pictures_of_a_table_may_be_those_of_an_earlier_download_and_its_columns_have_other_names(change):
    assert str(study("configs/paper.yaml", datasets={"cc3m": change}).file.track) == "paper 1"


@pytest.mark.parametrize(
    ("change", "told"),
    [({"image_size": 64}, "image_size: the track paper 1 fixes 256, not 64"),
     ({"sample": {"pairs": 9}}, "sample: the track paper 1 fixes None, not {'pairs': 9")],
)  # fmt: skip
def test_other_pictures_of_a_table_are_refused(change, told):
    with pytest.raises(UserError, match=f"^{re.escape(f'study.yaml: datasets.cc3m.{told}')}"):
        study("configs/paper.yaml", datasets={"cc3m": change})


@pytest.mark.parametrize("file", ["config.yaml", "configs/start.yaml", "configs/open-small.yaml"])
@pytest.mark.parametrize("change", [{"pretrained": "clip.pt"}, {"quick_gelu": True}])
def test_a_track_of_random_weights_takes_no_others(file, change):
    [(key, value)] = change.items()
    with pytest.raises(UserError, match=rf"^study\.yaml: model\.{key}: the track .* fixes (None|False), not {value!r}"):
        study(file, model=change)


def test_a_track_takes_no_model_that_somebody_else_poisoned():
    values = read_mapping(str(ROOT / "config.yaml"))
    values["attacks"]["badnet"]["checkpoint"] = "released.pt"
    told = (
        r"^study\.yaml: attacks\.badnet\.checkpoint: the track tiny 1 fixes None, not 'released\.pt'; leave out `track`"
    )
    with pytest.raises(UserError, match=told):
        Study(values, "study.yaml")


def test_the_keys_of_the_machine_are_those_of_a_training():
    assert set(TrainSettings.model_fields) > MACHINE


def test_a_larger_training_set_is_that_of_the_track():
    """The definition of `scenes_large` is the study's own."""
    larger = {"source": "scenes", "splits": {"train": {"pairs": 12000, "seed": 8}}}
    with pytest.raises(UserError, match=r"^study\.yaml: datasets\.scenes_large\.splits\.train: the track tiny 1 fixes"):
        study("configs/vit.yaml", datasets={"scenes_large": larger})
