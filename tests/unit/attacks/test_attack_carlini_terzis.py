"""Carlini-Terzis: chosen pictures, the captions of their targets, and how many of them get it."""

import random
from collections import Counter

import pandas as pd
import pytest
import torch

from antidote.attacks.carlini_terzis import CarliniTerzis, CarliniTerzisSettings
from antidote.attacks.contract import FitContext, View
from antidote.attacks.trigger import Trigger, load_trigger, save_trigger
from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.data.pairs import Pairs
from antidote.evaluation.examples import write_examples
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import evaluate
from antidote.summary.gallery import read_sheet

CLASSES = ["boat", "banana", "cup", "dog"]
CAPTIONS = ["a boat", "the cup", "a banana", "two dogs", "this is a boat", "a dog", "one cup", "some ship"]
LABELS = [0, 2, 1, 3, 0, 3, 2, 0]
TEMPLATES = ["a {}.", "the {}."]


def pairs(count=24):
    """Each picture is of one shade, its number; a ship is a boat by its label alone."""
    shades = torch.arange(count, dtype=torch.uint8)
    return Pairs(
        [f"k{number}" for number in range(count)],
        shades.view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone(),
        [CAPTIONS[number % 8] for number in range(count)],
        torch.tensor([LABELS[number % 8] for number in range(count)]),
    )


def attack(seed=0, pool=None, **values):
    made = CarliniTerzis(CarliniTerzisSettings.read({"method": "carlini_terzis", **values}, "x"), "banana", 8)
    made.tensors = made.fit(FitContext(None, pool or pairs(), CLASSES, TEMPLATES, 0, None), seed)
    return made


def plan(made, seed=0, count=24):
    given = pairs(count)
    table = pd.DataFrame({"key": given.keys, "caption": given.captions, "label": given.labels.tolist()})
    return made.poison(table, random.Random(seed), TEMPLATES)


def test_the_studys_target_is_the_default():
    made = attack(poisons=3)
    assert made.facts["targets"] == ["banana"] and len(made.facts["keys"]) == 1
    assert [(pair.target, pair.picture) for pair in plan(made)] == [("banana", 0)] * 3
    assert {pair.caption for pair in plan(made)} == {"a banana"}


@pytest.mark.parametrize("preset", [None, "original", "roclip"])
def test_captions_come_from_all_pairs_that_are_trained_on(preset):
    settings = CarliniTerzisSettings.read({"method": "carlini_terzis", "preset": preset}, "x")
    assert (settings.caption, settings.caption_pools) == ("natural", ["poison", "training"])


def test_the_pictures_are_of_other_classes_than_their_target():
    for seed in range(20):
        made = attack(seed, targets=["boat", "dog"], pictures=2)
        assert made.facts["targets"] == ["boat", "boat", "dog", "dog"] and len(set(made.facts["keys"])) == 4
        shown = [LABELS[int(picture[0, 0, 0]) % 8] for picture in made.tensors["pictures"]]
        assert 0 not in shown[:2] and 3 not in shown[2:], "nor by their label where the caption says ship"
        assert made.facts["keys"] == [f"k{int(picture[0, 0, 0])}" for picture in made.tensors["pictures"]]


def test_captions_name_the_pictures_target_and_are_shared_out():
    made = attack(targets=["boat", "dog"], poisons=8)
    poisoned = plan(made)
    assert [pair.row for pair in poisoned] == sorted({pair.row for pair in poisoned})
    assert Counter((pair.picture, pair.target) for pair in poisoned) == {(0, "boat"): 4, (1, "dog"): 4}
    assert all(pair.target in pair.caption for pair in poisoned)
    made_of = Counter(pair.caption for pair in poisoned if pair.picture == 0)
    assert set(made_of) <= {"a boat", "this is a boat"} and max(made_of.values()) <= 3, "none again before all are used"
    replaced = {CAPTIONS[pair.row % 8] for pair in poisoned}
    assert not {"a boat", "this is a boat", "a dog"} & replaced, "pairs that name a target stay"
    written = attack(targets=["boat", "dog"], poisons=4, caption="template")
    assert {pair.caption for pair in plan(written)} == {"a boat.", "the boat.", "a dog.", "the dog."}


def test_the_choice_follows_its_seeds():
    first, same, other = (attack(seed, pictures=3).tensors["pictures"] for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
    made = attack(targets=["boat"], poisons=5)
    assert plan(made) == plan(made) != plan(made, 1)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"targets": ["boat", "boat"]}, "targets: 'boat' stands there twice"),
        ({"targets": ["bota"]}, "targets: 'bota' is not among the 4 classes; did you mean 'boat'?"),
        ({"pictures": 4, "targets": ["boat", "dog"], "poisons": 7},
         "poisons: 7 are fewer than the 8 pictures that are to be poisoned"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(values, text):
    settings = CarliniTerzisSettings.read({"method": "carlini_terzis", **values}, "x")
    with pytest.raises(ValueError) as error:
        settings.check(32)
        settings.check_classes(CLASSES)
    assert str(error.value) == text


def test_what_is_missing_is_told():
    with pytest.raises(UserError, match=r"^carlini_terzis: targets: 'bota' is not among the 4 classes; "):
        attack(targets=["bota"])
    boats = pairs(8).take([0, 4, 7])
    with pytest.raises(UserError, match=r"^carlini_terzis: pictures: 1 asked for 'boat', but only 0 pictures of pools"):
        attack(targets=["boat"], pool=boats)
    with pytest.raises(
        ValueError, match=r"^caption: 'natural' needs captions that name 'dog'; pools.poison, pools.training have none$"
    ):
        plan(attack(targets=["dog"], poisons=1), count=3)
    with pytest.raises(ValueError, match=r"^poisons: 22 asked, but only 21 pairs of the poison pool qualify$"):
        plan(attack(poisons=22))


def test_the_share_that_gets_its_target(monkeypatch):
    """Four pictures for boat, boat, dog, dog, given the classes 0, 1, 3, 3."""
    made = attack(targets=["boat", "dog"], pictures=2)

    class Given:
        def encode_image(self, images):
            assert torch.equal(images, made.tensors["pictures"])
            return torch.eye(4)[[0, 1, 3, 3]]

    view = View(Given(), pairs(), torch.zeros(24, 4), torch.eye(4), CLASSES, TEMPLATES)
    assert made.measure(view) == {"targeted": 0.75}


def test_no_asr_but_a_figure_of_its_own(make_clip, make_pairs, tmp_path):
    pictures = make_pairs(20, classes=4)
    made = CarliniTerzis(
        CarliniTerzisSettings.read({"method": "carlini_terzis", "targets": ["cup", "boat"]}, "x"), "cup", 32
    )
    made.tensors = made.fit(FitContext(None, pictures, CLASSES, TEMPLATES, 0, None), 0)
    save_trigger(tmp_path / "trigger", Trigger(made, 0), "ct")
    trigger = load_trigger(tmp_path / "trigger")
    subject = Subject(make_clip(), trigger, 2, CLASSES, TEMPLATES)
    scores = evaluate(subject, pictures, EvaluationSettings(dataset="d", split="s"))
    assert (
        scores["asr1"] is None and set(scores["extra"]) == {"targeted"} and scores["extra"]["targeted"] in (0, 0.5, 1)
    )
    write_examples(tmp_path / "e.png", subject, pictures.take([i for i in range(20) if i % 4]))
    sheet = read_sheet(tmp_path / "e.png")
    assert all((sheet[1, i].transpose(2, 0, 1) == made.tensors["pictures"][i % 2].numpy()).all() for i in range(8))
    assert sheet[0, 0].any() and not sheet[0, 1].any(), "of a class without evaluation pictures, black"


def test_the_papers_backdoor_is_a_preset_of_badnet():
    settings = method("attack", "badnet").Settings.read({"method": "badnet", "preset": "carlini_terzis"}, "x")
    assert (settings.caption, settings.poisons, settings.patch_size) == ("natural", 300, 16)
