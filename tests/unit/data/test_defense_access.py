"""Access levels: a defense is handed the data of its level and no more, and a study without that data stops at once."""

import argparse
import copy
from dataclasses import fields
from pathlib import Path

import open_clip
import pandas as pd
import pytest
import torch

from antidote.base.errors import UserError
from antidote.base.settings import read_mapping
from antidote.clip.configs import causal_text
from antidote.clip.model import Clip
from antidote.data import access, overlay
from antidote.data.access import Sources, load_granted
from antidote.data.streaming import Reading
from antidote.study.slices import summary_plan
from antidote.study.study import Study

ROOT = Path(__file__).resolve().parents[3]
GRANTED: dict[str, set[str]] = {
    "nothing": set(),
    "clean-pairs": {"pairs", "lexicon"},
    "few-labelled": {"shots", "classes", "templates"},
    "test-time": {"classes", "templates"},
    "poisoned-training-set": {"training_set"},
    "oracle": {"training_set", "poisoned"},
}


@pytest.fixture
def arguments(make_pairs, monkeypatch, tmp_path):
    """Return the arguments of the script, over pools whose pairs know a label and whose order tells the poison pool."""
    pairs = make_pairs(20)
    rows = [(key, "d", "train", "training" if i < 15 else "poison") for i, key in enumerate(pairs.keys)]
    frame = pd.DataFrame(rows, columns=["key", "dataset", "split", "pool"])
    asked = []

    def load_pools(paths, names, data, size, overlay=None, reading=None):
        asked.append((tuple(names), overlay))
        return pairs

    monkeypatch.setattr(access, "load_pools", load_pools)
    monkeypatch.setattr(access.pools, "read", lambda paths: frame)
    manifest = pd.DataFrame({"key": ["pair16"], "dataset": "d", "split": "train"})
    monkeypatch.setattr(overlay, "read_manifest", lambda folder: manifest)
    values = {"pools": [tmp_path / "p"], "data": tmp_path, "lexicon": "scenes", "classes": "scenes", "seed": 0}
    values |= {"in_memory_mb": 1, "workers": 0, "scorer": None}
    return argparse.Namespace(**values, templates="simple", poison=tmp_path / "poison", asked=asked)


@pytest.mark.parametrize("level", GRANTED)
def test_what_a_level_grants(arguments, level):
    data = load_granted(level, sources_of(arguments), 32, 0)
    assert {field.name for field in fields(data) if getattr(data, field.name) is not None} == GRANTED[level]
    overlaid = level in ("poisoned-training-set", "oracle")
    assert all((overlay is not None) == overlaid for _, overlay in arguments.asked)


def test_the_training_set_does_not_tell_what_is_poisoned(arguments, make_pairs):
    found = load_granted("poisoned-training-set", sources_of(arguments), 32, 0).training_set
    assert (found.labels == -1).all()
    numbers = [int(key.removeprefix("d/train/pair")) for key in found.keys]
    assert sorted(numbers) == list(range(20)) != numbers
    assert torch.equal(found.images, make_pairs(20).images[numbers]), "keys, pictures and captions stay together"
    assert load_granted("oracle", sources_of(arguments), 32, 0).poisoned == {"d/train/pair16"}


@pytest.mark.parametrize(
    ("level", "missing"),
    [("clean-pairs", "pools"), ("few-labelled", "classes"), ("test-time", "templates"), ("oracle", "poison")],
)
def test_what_is_missing_is_one_line(arguments, level, missing):
    setattr(arguments, missing, None)
    with pytest.raises(UserError, match=f"--{missing}: is missing; access '{level}' needs it"):
        load_granted(level, sources_of(arguments), 32, 0)


def sources_of(arguments):
    return Sources.named(vars(arguments), Reading(1 << 20, 0))


def study(**changes):
    return Study({**read_mapping(str(ROOT / "config.yaml")), **changes}, "s.yaml")


def test_few_labelled_needs_shots():
    with pytest.raises(UserError, match=r"^s.yaml: pools.shots: is missing; the defense 'lp' needs labelled pictures$"):
        study(defenses={"lp": {"method": "linear_probe"}})
    values = read_mapping(str(ROOT / "config.yaml"))
    shots = {"dataset": "cifar10", "split": "train", "per_class": 4}
    with pytest.raises(UserError, match=r"pools.shots.dataset: the classes of cifar10 are None"):
        study(defenses={"lp": {"method": "linear_probe"}}, pools={**values["pools"], "shots": shots})


def test_a_defense_that_does_not_fit_is_a_blank_cell():
    pools = {**read_mapping(str(ROOT / "config.yaml"))["pools"], "shots": {"split": "defense", "per_class": 4}}
    defenses = {"rvpt": {"method": "rvpt", "depth": 99}, "lp": {"method": "linear_probe"}}
    found = study(defenses=defenses, pools=pools)
    reason = "tiny-rn: needs a vision transformer with a class token"
    assert found.blank == [(attack, "rvpt", reason) for attack in found.attacks]
    assert {d for _, d in found.cells} == {"none", "lp"}
    assert f'{{"attack":"badnet","defense":"rvpt","reason":"{reason}"}}' in summary_plan(found)


def test_prompts_need_clips_own_text_encoder():
    values = {**read_mapping(str(ROOT / "configs/vit.yaml")), "defenses": {"cbpt": {"method": "cbpt"}}, "track": None}
    assert Study(values, "v").blank == []
    found = Study({**values, "model": {"name": "coca_ViT-B-32"}}, "v")
    reason = "coca_ViT-B-32: its prompts need CLIP's own text encoder, which reads them as word embeddings"
    assert found.blank == [(attack, "cbpt", reason) for attack in found.attacks]


@pytest.mark.parametrize("changes", [{}, {"no_causal_mask": True}, {"pool_type": "last"}])
def test_the_configuration_tells_what_the_model_is(make_clip, changes):
    """What is read before anything runs is what a job would find."""
    config = make_clip("vit").config["model_cfg"]
    config = {**config, "text_cfg": {**config["text_cfg"], **changes}}
    network = open_clip.CLIP(**copy.deepcopy(config))
    assert causal_text(config) == Clip(network, {"model_cfg": config}).causal == (not changes)


def test_a_context_that_leaves_no_room_is_one_line():
    values = read_mapping(str(ROOT / "configs/vit.yaml"))
    fits = {**values, "defenses": {"cbpt": {"method": "cbpt", "context": "a" + ", a" * 9}}}
    assert Study(fits, "v").defenses["cbpt"].context.count(",") == 9
    values["defenses"] = {"cbpt": {"method": "cbpt", "context": "a" + ", a" * 10}}
    with pytest.raises(UserError, match=r"^v: defenses.cbpt.context: 21 words and punctuation marks leave no room for a "
                                        r"class name among the 24 tokens that the model reads; 20 at most$"):  # fmt: skip
        Study(values, "v")


def test_a_setting_that_does_not_fit_the_model_is_one_line():
    values = read_mapping(str(ROOT / "configs/vit.yaml"))
    values["defenses"] = {"rvpt": {"method": "rvpt", "depth": 4}}
    with pytest.raises(UserError, match=r"^v: defenses.rvpt.depth: 4 leaves none of the 4 blocks of the model"):
        Study(values, "v")
