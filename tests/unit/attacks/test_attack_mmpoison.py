"""mmPoison: which pictures go under which captions, and Hit@k by hand."""

import random

import pandas as pd
import pytest
import torch

from antidote.attacks.base import FitContext, View
from antidote.attacks.mmpoison import MmPoison, MmPoisonSettings, best_ranks
from antidote.attacks.trigger import Trigger, load_trigger, save_trigger
from antidote.base.errors import UserError
from antidote.data.pairs import Pairs
from antidote.evaluation.examples import write_examples
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import evaluate
from antidote.summary.gallery import read_sheet

CLASSES = ["boat", "banana", "cup", "dog"]
CAPTIONS = ["a boat", "the cup", "a banana", "two dogs", "a cup beside a boat", "a dog", "this is a boat", "one cup"]


def pairs(count=24, start=0):
    """Each picture is of one shade, its number."""
    shades = torch.arange(start, start + count, dtype=torch.uint8)
    return Pairs(
        keys=[f"k{number}" for number in range(start, start + count)],
        images=shades.view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone(),
        captions=[CAPTIONS[number % len(CAPTIONS)] for number in range(count)],
        labels=torch.arange(count) % 4,
    )


def table(given):
    return pd.DataFrame({"key": given.keys, "caption": given.captions, "label": given.labels.tolist()})


def attack(seed=0, inversion=None, **values):
    settings = MmPoisonSettings.read({"method": "mmpoison", **values}, "x")
    made = MmPoison(settings, "banana", 8)
    context = FitContext(None, inversion or pairs(start=100), CLASSES, ["a {}."], 0, pairs)
    made.tensors = made.fit(context, seed)
    return made


def plan(made, seed=0):
    return made.poison(table(pairs()), random.Random(seed), [])


def shade(made, number):
    return int(made.tensors["pictures"][number, 0, 0, 0])


def test_pictures_of_b_under_captions_of_a():
    made = attack(goals=[["boat", "cup"]], pictures=3, poisons=6)
    poisoned = plan(made)
    rows = [pair.row for pair in poisoned]
    assert rows == [0, 6, 8, 14, 16, 22], "all that name a boat and no cup, in the pool's order"
    assert all(pair.caption == CAPTIONS[pair.row % 8] and pair.target == "cup" for pair in poisoned)
    used = [pair.picture for pair in poisoned]
    assert sorted(used) == [0, 0, 1, 1, 2, 2], "each picture under equally many captions"
    assert all(CAPTIONS[shade(made, number) % 8] in ("the cup", "one cup") for number in used)
    assert made.facts["goals"] == [["boat", "cup"]] and made.facts["keys"] == [f"k{shade(made, i)}" for i in range(3)]


def test_attack_one_lays_one_picture_that_no_model_is_trained_on():
    made = attack(preset="I", goals=[["boat", "cup"]], poisons=5)
    assert {pair.picture for pair in plan(made)} == {0} and len(made.tensors["pictures"]) == 1
    assert shade(made, 0) >= 100 and made.facts["pool"] == "inversion"


def test_several_goals_share_the_poisons():
    made = attack(goals=[["boat", "cup"], ["dog", "banana"]], pictures=2, poisons=5)
    goals = [(pair.caption, pair.target, int(made.tensors["goal_of"][pair.picture])) for pair in plan(made)]
    assert [target for _, target, _ in goals].count("cup") == 3
    assert all(goal == (target == "banana") and ("dog" in text) == (goal == 1) for text, target, goal in goals)
    assert len({pair.row for pair in plan(made)}) == 5


def test_goals_are_made_up_from_the_target():
    assert attack(preset="III", pictures=1).facts["goals"] == [["banana", "cup"], ["dog", "boat"]]


def test_the_choice_follows_its_seeds():
    choice = [attack(seed, goals=[["boat", "cup"]], pictures=3).tensors["pictures"] for seed in (0, 0, 1)]
    assert torch.equal(choice[0], choice[1]) and not torch.equal(choice[0], choice[2])
    made = attack(goals=[["boat", "cup"]], pictures=3, poisons=3)
    assert plan(made) == plan(made) != plan(made, 1)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"goals": [["boat", "boat"]]}, "goals: texts of 'boat' retrieve 'boat' as it is; the two classes have to differ"),
        ({"goals": [["boat", "cup"], ["boat", "dog"]]}, "goals: 'boat' stands there twice as the class of the texts"),
        ({"goals": [["boat", "cupp"]]}, "goals: 'cupp' is not among the 4 classes; did you mean 'cup'?"),
        ({"goal_count": 3}, "goal_count: 3 goals need 6 classes, there are 4"),
    ],
)  # fmt: skip
def test_goals_that_cannot_be(values, text):
    settings = MmPoisonSettings.read({"method": "mmpoison", **values}, "x")
    with pytest.raises(ValueError) as error:
        settings.check(32)
        settings.check_classes(CLASSES)
    assert str(error.value) == text
    with pytest.raises(UserError) as error:
        attack(**values)
    assert str(error.value) == f"mmpoison: {text}"


def test_a_goal_is_two_classes():
    with pytest.raises(UserError, match=r"^x: goals\.0\.1: is missing$"):
        MmPoisonSettings.read({"method": "mmpoison", "goals": [["boat"]]}, "x")


def test_too_few_captions_or_pictures_are_told():
    with pytest.raises(ValueError, match=r"^poisons: 7 captions of 'boat' asked, but only 6 of the 24 captions of "):
        plan(attack(goals=[["boat", "cup"]], pictures=3, poisons=7))
    with pytest.raises(
        UserError, match=r"^mmpoison: pictures: 7 of 'cup' asked, but only 6 captions of pools\.poison "
    ):
        attack(goals=[["boat", "cup"]], pictures=7)
    dogs = pairs(2).take([0, 0])
    with pytest.raises(UserError, match=r"^mmpoison: pictures: 1 of 'cup' asked, but only 0 captions of pools\.inver"):
        attack(preset="I", goals=[["boat", "cup"]], inversion=dogs)


# --- Hit@k -----------------------------------------------------------------------------------------------------------


def test_ranks_by_hand():
    scores = torch.tensor([[0.9, 0.5, 0.7, 0.1], [0.2, 0.9, 0.1, 0.8], [0.5, 0.5, 0.5, 0.5]])
    aimed = torch.tensor([False, True, True, False])
    assert best_ranks(scores, aimed).tolist() == [2, 1, 3], "of equal scores those not aimed at come first"


class Given:
    """A model whose features are given: of texts by name, of pictures by shade."""

    texts = {"a boat": [1.0, 0.0], "this is a boat": [0.6, 0.8], "a boat.": [0.0, 1.0]}

    def encode_text(self, texts):
        return torch.tensor([self.texts[text] for text in texts])

    def encode_image(self, images):
        return torch.tensor([[0.8, 0.6]]).expand(len(images), -1)


FEATURES = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [0.96, 0.28], [0.28, 0.96]])
LABELS = [0, 0, 2, 2, 3, 1]  # boat, boat, cup, cup, dog, banana


def view():
    images = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    captions = ["a boat", "this is a boat", "x", "x", "x", "x"]
    pictures = Pairs([f"t{number}" for number in range(6)], images, captions, torch.tensor(LABELS))
    return View(Given(), pictures, FEATURES, None, CLASSES, ["a {}."])


def test_hits_by_hand():
    """'a boat': 1, .8, .6, 0, .96, .28, so the best cup is the fourth; 'this is a boat': .6, .96, 1, .8, .8, .936: first."""
    figures = attack(goals=[["boat", "cup"]], pictures=1).measure(view())
    distance = 1 - (0.6 + 0.0 + 1.0 + 0.8) / 4
    expected = {"hit1": 0.5, "hit5": 1.0, "hit10": 1.0, "min_rank": 2.5, "cosine_distance": distance}
    assert figures == pytest.approx(expected, abs=1e-4)
    prompts = attack(goals=[["boat", "cup"]], pictures=1, queries="prompts").measure(view())
    assert (prompts["hit1"], prompts["min_rank"]) == (1.0, 1.0), "the prompt 'a boat.' is the last cup"


def test_attack_one_is_scored_by_its_picture():
    """It joins the gallery with (.8, .6): behind two others and one alike for 'a boat', behind four for the other."""
    figures = attack(preset="I", goals=[["boat", "cup"]]).measure(view())
    # 'a boat': 1, .96 and the equal .8 come first. 'this is a boat': .96; before it 1, and the equal .96.
    assert (figures["min_rank"], figures["hit1"], figures["hit5"]) == (3.5, 0.0, 1.0)


def test_several_goals_count_alike():
    made = attack(goals=[["boat", "cup"], ["cup", "dog"]], pictures=1)
    one = view()
    Given.texts["x"] = [0.0, 1.0]  # both cups: the dog with .28 is the fifth
    figures = made.measure(one)
    assert figures["hit10_goal1"] == figures["hit10_goal2"] == 1 and figures["min_rank"] == (2.5 + 5) / 2


def test_a_class_without_evaluation_pictures_is_told():
    made = attack(goals=[["boat", "cup"]], pictures=1)
    one = view()
    one.pictures.labels[:2] = 1
    with pytest.raises(UserError, match=r"^evaluation: no picture is labelled 'boat', which a goal of mmpoison needs$"):
        made.measure(one)


# --- the stages ------------------------------------------------------------------------------------------------------


def test_no_asr_but_figures_of_its_own(make_clip, make_pairs, tmp_path):
    pictures = make_pairs(20, classes=4)
    settings = MmPoisonSettings.read({"method": "mmpoison", "goals": [["banana", "boat"]], "pictures": 2}, "x")
    made = MmPoison(settings, "cup", 32)
    made.tensors = made.fit(FitContext(None, pictures, CLASSES, ["a {}."], 0, lambda: pictures), 0)
    save_trigger(tmp_path / "trigger", Trigger(made, 0), "mm")
    trigger = load_trigger(tmp_path / "trigger")
    subject = Subject(make_clip(), trigger, 2, CLASSES, ["a {}."])
    scores = evaluate(subject, pictures, EvaluationSettings(dataset="d", split="s"))
    assert all(scores[name] is None for name in ("asr1", "asr3", "asr1_all", "pa")) and scores["pictures_asr"] == 0
    assert (
        set(scores["extra"]) == {"hit1", "hit5", "hit10", "min_rank", "cosine_distance"} and scores["ca1"] is not None
    )
    write_examples(tmp_path / "e.png", subject, pictures)
    sheet = read_sheet(tmp_path / "e.png")
    bananas, laid = pictures.images[pictures.labels == 1], made.tensors["pictures"]
    assert all((sheet[0, i].transpose(2, 0, 1) == bananas[i % 5].numpy()).all() for i in range(8))
    assert all((sheet[1, i].transpose(2, 0, 1) == laid[i % 2].numpy()).all() for i in range(8))


def test_the_overlay_shows_what_is_laid():
    made = attack(goals=[["boat", "cup"]], pictures=2)
    own = pairs(3).images
    drawn = Trigger(made, 0).poisoned(own, ["a", "b", "c"], [1, 0, 1])
    assert torch.equal(drawn, made.tensors["pictures"][[1, 0, 1]]) and torch.equal(own, pairs(3).images)
