"""The models that a study names: pictures are resized for them in one way."""

from __future__ import annotations

import json

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.clip.configs import ModelSettings
from antidote.study.study import Study
from tests.unit.study.test_study import FILE, change

PATCH = {"method": "badnet", "poisons": 8, "location": "center"}


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("model.pretrained", "", "model.pretrained"),
        ("surrogates", {"s": {"model": {"pretrained": ""}}}, "surrogates.s.model.pretrained"),
        ("population", {"clean": 1, "models": [{"pretrained": ""}]}, "population.models.0.pretrained"),
        ("attacks.badnet", {**PATCH, "checkpoint": ""}, "attacks.badnet: checkpoint"),
        ("persistence", {"adaptations": {"a": {"kind": "other_domain", "pool": ""}}}, "persistence.adaptations.a.pool"),
        ("datasets.d", {"source": "folder", "root": "r", "names": "", "splits": {"s": ""}}, "datasets.d: names"),
    ],
)
def test_an_empty_name_is_refused(key, value, place):
    """An empty `checkpoint` would give a backdoored model that no training has touched."""
    with pytest.raises(UserError) as error:
        Study(change(read_mapping(str(ROOT / FILE)), key, value), FILE)
    assert str(error.value) == f"{FILE}: {place}: is an empty text; give a name or a path, or leave the key out"


def test_an_empty_path_is_no_empty_name():
    """A split may be the root itself, whatever its name."""
    dataset = {"source": "folder", "root": "r", "splits": {"names": ""}}
    study = Study(change(read_mapping(str(ROOT / FILE)), "datasets.d", dataset), FILE)
    assert study.file.datasets["d"] == dataset


def test_settings_alone_refuse_an_empty_name():
    with pytest.raises(UserError, match=r"^victim: pretrained: is an empty text; give a name or a path, or leave the"):
        ModelSettings.read({"pretrained": ""}, "victim")


@pytest.mark.parametrize("name", ["", "open_clip_model.safetensors"])
def test_a_model_folder_that_reads_squashed_pictures_is_refused(tmp_path, name):
    """The folder, and its file of weights, as a model, a released checkpoint and a surrogate."""
    values = read_mapping(str(ROOT / FILE))
    known = {"model_cfg": {"vision_cfg": {"image_size": 32}}, "preprocess_cfg": {"resize_mode": "squash"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(known))
    (tmp_path / "open_clip_model.safetensors").touch()
    path = str(tmp_path / name)
    attack = {"method": "badnet", "poisons": 8}
    fitted = {"method": "badclip", "poisons": 8, "surrogate": str(tmp_path)}
    inversion = change(values, "pools.inversion", {"dataset": "tiny", "split": "train", "pairs": 40})
    for changed, told in (
        (change(values, "model.pretrained", path), "model.pretrained: "),
        (change(values, "attacks.badnet", {**attack, "checkpoint": path}), "attacks.badnet.checkpoint: "),
        (change(inversion, "attacks.badnet", fitted), "attacks.badnet.surrogate: "),
    ):
        with pytest.raises(UserError, match=f"{told}.* reads pictures that are resized by 'squash'"):
            Study(changed, FILE)
