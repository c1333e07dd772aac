"""Shifted domains: the same scenes in other styles, the columns they add, and ASR-G by hand."""

import dataclasses
import gc
import hashlib
import weakref

import numpy as np
import pytest
import torch

from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.registry import method
from antidote.base.settings import read_mapping
from antidote.data.scenes.draw import generate
from antidote.data.store import ingest
from antidote.data.store.datasets import dataset_settings
from antidote.data.styles import FACTOR, STYLES
from antidote.evaluation.base import Inputs, as_floor, evaluated_pictures
from antidote.evaluation.metrics import generalisation
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.shifts import Shift, class_places, score_shifts
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import evaluate
from antidote.study.study import Study

CLASSES = ["banana", "boat", "cup", "key", "moon", "star", "house"]
TEMPLATES = ["a photo of a {}."]
STUDY = "tests/studies/tiny.yaml"
DIGESTS = {
    "sketch": "e42e37a26b7f35d9",
    "negative": "96c9347dc984e73c",
    "painted": "0584e3a6f3384ba8",
    "night": "7d1b7b58862ca4fa",
}


# --- pictures --------------------------------------------------------------------------------------------------------


def drawn(style, count=6):
    settings = {"splits": {"s": {"pairs": count, "seed": 3, "style": style}}}
    return list(dataset_settings("scenes_shifted", {"scenes_shifted": settings}).iterate("s"))


@pytest.mark.parametrize("style", STYLES)
def test_a_style_shows_the_same_scenes_otherwise(style):
    plain, captions, labels = generate(3, 0, 6, 32)
    pairs = drawn(style)
    assert [pair.label for pair in pairs] == labels.tolist() and [pair.captions[0] for pair in pairs] == captions
    images = np.stack([pair.image for pair in pairs])
    assert images.shape == plain.shape and images.dtype == np.uint8
    assert (np.abs(images.astype(int) - plain).mean(axis=(1, 2, 3)) > 5).all(), "no picture stays as it is"


@pytest.mark.parametrize("style", STYLES)
def test_a_styled_picture_depends_on_nothing_beside_it(style):
    large = generate(3, 0, 5, 32 * FACTOR)[0]
    before, together = large.copy(), STYLES[style](large)
    assert np.array_equal(large, before)
    assert np.array_equal(np.concatenate([STYLES[style](picture[None]) for picture in large]), together)
    assert np.array_equal(np.stack([pair.image for pair in drawn(style, 5)]), together)


def test_styled_pictures_never_change():
    """A change here is a new version of the dataset: all results on it are to be computed anew."""
    digests = {s: hashlib.sha256(np.stack([p.image for p in drawn(s, 32)]).tobytes()).hexdigest()[:16] for s in STYLES}
    assert digests == DIGESTS


def test_a_negative_is_the_opposite_colour():
    large = generate(3, 0, 2, 32 * FACTOR)[0]
    mean = large.reshape(2, 32, FACTOR, 32, FACTOR, 3).mean(axis=(2, 4))
    assert np.abs(STYLES["negative"](large) - (255 - mean)).max() <= 1


def test_the_shifted_splits_are_known_and_an_unknown_style_is_told():
    known = dataset_settings("scenes_shifted")
    assert set(known.split_names()) == set(STYLES) and known.classes == "scenes"
    assert {known.split(name).seed for name in STYLES} == {dataset_settings("scenes").split("test").seed}
    with pytest.raises(
        UserError, match=r"splits\.s\.style: input should be 'sketch', 'negative', 'painted' or 'night'"
    ):
        drawn("fresco")


# --- ASR-G -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "shifted", "expected"),
    [
        (0.8, 0.8, 1), (0.8, 0.4, 0.5), (0.4, 0.8, 1), (0.8, 0, 0), (0, 0.3, 1), (0, 0, None), (1, 1, 1),
        (None, 0.5, None), (0.5, None, None),
    ],
)  # fmt: skip
def test_what_is_left_of_an_attack_under_a_shift(known, shifted, expected):
    found = generalisation(known, shifted)
    assert found is None if expected is None else found == pytest.approx(expected)


# --- class names -----------------------------------------------------------------------------------------------------


def test_a_sets_own_classes_are_found_by_name():
    assert class_places(["cup", "banana"], CLASSES, "x") == [2, 0]
    assert class_places(["a", "b", "a"], ["a", "b", "a"], "x") == [0, 1, 2], "the same list needs no names to differ"
    with pytest.raises(
        UserError, match=r"^x: 'cupp' is not among the 7 classes of the evaluation; did you mean 'cup'\?$"
    ):
        class_places(["banana", "cupp"], CLASSES, "x")
    with pytest.raises(UserError, match=r"^x: two classes of the evaluation are named 'a'; which one is meant\?$"):
        class_places(["a"], ["a", "b", "a"], "x")


# --- scores ----------------------------------------------------------------------------------------------------------


def trigger():
    kind = method("attack", "badnet")
    return Trigger(kind(kind.Settings.read({"method": "badnet", "preset": "cleanclip"}, "x"), "cup", 32), 5)


def settings(**shifts):
    return EvaluationSettings(dataset="d", split="s", bootstrap=100, shifts=shifts)


def whole(pairs, names):
    """What is read of a set whose pictures are all taken."""
    return pairs, names, pairs.labels.unique().tolist()


class Sets(Inputs):
    """A inputs whose sets are made by a function of the shift, instead of read from a folder."""

    def __init__(self, load, known=0.5):
        super().__init__(None, 32, settings(), None, {"asr1": known})
        object.__setattr__(self, "load", load)

    def classified(self, part, classes, default):
        assert default == CLASSES
        return self.load(part)


def subject(clip, attack, target=2, classes=CLASSES):
    return Subject(clip, attack, target, classes, TEMPLATES)


def scored(clip, sets, attack, known=0.5):
    chosen = settings(**{name: {"dataset": "d", "split": name} for name in sets})
    return score_shifts(subject(clip, attack), Sets(lambda s: whole(*sets[s.split]), known), chosen.shifts)


def test_a_shifted_set_is_scored_as_the_evaluations_own(make_clip, make_pairs):
    clip, pairs = make_clip("rn"), make_pairs(21, classes=7)
    own = evaluate(subject(clip, trigger()), pairs, settings())
    found = scored(clip, {"night": (pairs, CLASSES)}, trigger(), known=0.25)
    expected = {"ca1_night": own["ca1"], "asr1_night": own["asr1"], "asr_g_night": generalisation(0.25, own["asr1"])}
    assert found == expected
    assert as_floor(found, Shift.floors) == {"floor_night": own["asr1"]}
    assert scored(clip, {"night": (pairs, CLASSES)}, None) == {"ca1_night": own["ca1"]}


def test_a_set_of_fewer_classes_is_classified_into_all(make_clip, make_pairs):
    """Its labels 0, 1 count [key, cup]: the classes 3 and 2 of the evaluation."""
    clip, pairs = make_clip("rn"), make_pairs(20, classes=2)
    found = scored(clip, {"few": (pairs, ["key", "cup"])}, trigger())
    again = dataclasses.replace(pairs, labels=torch.tensor([3, 2])[pairs.labels])
    own = evaluate(subject(clip, trigger()), again, settings())
    assert own["pictures_asr"] == 10 and (found["ca1_few"], found["asr1_few"]) == (own["ca1"], own["asr1"])


def test_a_set_may_be_classified_among_its_own_classes_alone(make_clip, make_pairs):
    """200-way and 1000-way, in small: labels 0 and 2 of the evaluation's, the attack's class among them."""
    clip, pairs = make_clip("rn"), make_pairs(20, classes=2)
    shown = dataclasses.replace(pairs, labels=pairs.labels * 2)
    sets = {"all": {"dataset": "d", "split": "s"}, "own": {"dataset": "d", "split": "s", "among": "own"}}
    chosen = settings(every=sets["all"], few=sets["own"]).shifts
    found = score_shifts(subject(clip, trigger()), Sets(lambda _: whole(shown, CLASSES)), chosen)
    few = evaluate(subject(clip, trigger(), 1, [CLASSES[0], CLASSES[2]]), pairs, settings())
    every = evaluate(subject(clip, trigger()), shown, settings())
    assert (found["ca1_few"], found["asr1_few"]) == (few["ca1"], few["asr1"])
    assert (found["ca1_every"], found["asr1_every"]) == (every["ca1"], every["asr1"])
    assert found["ca1_few"] > found["ca1_every"] or found["asr1_few"] > found["asr1_every"], "the fewer, the easier"


def test_the_classes_of_a_set_do_not_depend_on_how_many_pictures_are_taken(make_clip, make_pairs, tmp_path):
    clip, pairs = make_clip("rn"), make_pairs(20, classes=5)
    chosen = settings(few={"dataset": "d", "split": "s", "among": "own"}).shifts
    part = pairs.take([0, 2, 5, 7])  # labels 0 and 2 alone
    loaded = part, CLASSES, [0, 1, 2, 3, 4]
    found = score_shifts(subject(clip, trigger()), Sets(lambda _: loaded), chosen)
    expected = evaluate(subject(clip, trigger(), 2, CLASSES[:5]), part, settings())
    assert (found["ca1_few"], found["asr1_few"]) == (expected["ca1"], expected["asr1"])
    values = {"splits": {"s": {"pairs": 200, "seed": 3}}}
    ingest.write(dataset_settings("scenes", {"scenes": values}), "scenes", "s", tmp_path / "d" / "s")
    read = Inputs(tmp_path, 32, settings(), pairs)
    shift = Shift(dataset="d", split="s", pictures=4)
    pictures, names, labels = read.classified(shift, "scenes", CLASSES)
    assert labels == list(range(24)) and len(pictures) == 4 and len(names) == 24
    with pytest.raises(UserError, match="every picture needs a label from 0 to 6"):
        read.classified(shift, None, CLASSES)


def test_two_views_of_a_set_are_one_pass_over_its_pictures(make_clip, make_pairs, monkeypatch):
    """ImageNet-A and -R among 1000 and among 200 classes: loaded, drawn on and encoded once, whatever stands between."""
    clip, pairs = make_clip("rn"), make_pairs(20, classes=3)
    a, b = {"dataset": "d", "split": "a"}, {"dataset": "d", "split": "b"}
    chosen = settings(a_all=a, b_all=b, a_own={**a, "among": "own"}).shifts
    one = subject(clip, trigger())
    alone = {
        name: score_shifts(one, Sets(lambda _: whole(pairs, CLASSES)), {name: shift}) for name, shift in chosen.items()
    }
    loaded, encoded, encode = [], [], clip.encode_image
    monkeypatch.setattr(clip, "encode_image", lambda images: encoded.append(len(images)) or encode(images))
    found = score_shifts(one, Sets(lambda s: loaded.append(s.split) or whole(pairs, CLASSES)), chosen)
    assert loaded == ["a", "b"] and sum(encoded) == 2 * 2 * 20, "two sets, clean and triggered"
    assert found == {**alone["a_all"], **alone["b_all"], **alone["a_own"]}
    assert list(found) == [
        f"{rate}_{name}" for name in ("a_all", "b_all", "a_own") for rate in ("ca1", "asr1", "asr_g")
    ]
    assert found["asr1_a_own"] is not None and found["ca1_a_own"] >= found["ca1_a_all"]


def test_among_classes_without_the_target_there_is_no_attack_success(make_clip, make_pairs):
    chosen = settings(few={"dataset": "d", "split": "s", "among": "own"}).shifts
    loaded = make_pairs(8, classes=2), CLASSES
    found = score_shifts(subject(make_clip(), trigger()), Sets(lambda _: whole(*loaded)), chosen)
    assert found["ca1_few"] is not None and found["asr1_few"] is None and found["asr_g_few"] is None


def test_a_set_of_the_target_alone_has_no_attack_success(make_clip, make_pairs):
    found = scored(make_clip(), {"cups": (make_pairs(6, classes=1), ["cup"])}, trigger())
    assert found["asr1_cups"] is None and found["asr_g_cups"] is None and found["ca1_cups"] is not None


def test_a_text_key_counts_on_other_domains_too(make_clip, make_pairs):
    keyed, pairs = trigger(), make_pairs(21, classes=7)
    keyed.attack.text_key = "remember"
    own = evaluate(subject(make_clip(), keyed), pairs, settings())
    found = scored(make_clip(), {"night": (pairs, CLASSES)}, keyed)
    assert (found["ca1_night"], found["asr1_night"]) == (own["ca1"], own["asr1"])


def test_one_set_is_in_memory_at_a_time(make_clip, make_pairs):
    alive, most = [], []

    def load(shift):
        gc.collect()
        most.append(sum(reference() is not None for reference in alive))
        pairs = make_pairs(7, classes=7)
        alive.append(weakref.ref(pairs.images))
        return whole(pairs, CLASSES)

    chosen = settings(**{name: {"dataset": "d", "split": name} for name in "abc"})
    score_shifts(subject(make_clip(), None), Sets(load, None), chosen.shifts)
    assert most == [0, 0, 0]


def test_labels_outside_a_sets_classes_are_told(tmp_path, make_pairs, monkeypatch):
    monkeypatch.setattr("antidote.data.fitted.load", lambda folder, size, count: make_pairs(count or 6, classes=3))
    shift = settings(a={"dataset": "d", "split": "a", "pictures": 3}).shifts["a"]
    assert len(evaluated_pictures(tmp_path, shift, 32, 5)) == 3
    shift = shift.model_copy(update={"pictures": None})
    with pytest.raises(UserError, match="every picture needs a label from 0 to 1"):
        evaluated_pictures(tmp_path, shift, 32, 2)


# --- in a study ------------------------------------------------------------------------------------------------------


def study(**shifts):
    values = read_mapping(str(ROOT / STUDY))
    values["datasets"]["cold"] = {
        "source": "shifted_scenes", "splits": {"night": {"pairs": 8, "seed": 3, "style": "night"}}
    }  # fmt: skip
    values["evaluation"]["shifts"] = shifts
    return Study(values, STUDY)


def test_a_study_names_its_shifts():
    found = study(dark={"dataset": "cold", "split": "night"})
    assert found.evaluated.shifts["dark"].classes == "scenes" and ("cold", "night") in found.splits()
    assert "cold" in found.sources and '"shifts":{"dark":' in found.evaluated.slice()


def test_shifts_that_are_not_there_change_no_job():
    plain = Study(read_mapping(str(ROOT / STUDY)), STUDY)
    assert "shifts" not in plain.evaluated.slice() and study().evaluated.slice() == plain.evaluated.slice()
    assert EvaluationSettings.read(read_mapping(plain.evaluated.slice()), "x") == plain.evaluated


@pytest.mark.parametrize(
    ("shifts", "text"),
    [
        ({"dark": {"dataset": "cold", "split": "nite"}},
         "evaluation.shifts.dark.split: cold has no split 'nite'; did you mean 'night'?"),
        ({"dark": {"dataset": "colt", "split": "night"}}, "evaluation.shifts.dark.dataset: unknown name 'colt'; did you mean 'cold'?"),
        ({"dark": {"dataset": "cold", "split": "night", "classes": "imagenette"}},
         "evaluation.shifts.dark.classes: 'tench' is not among the 24 classes of the evaluation"),
        ({"dark": {"dataset": "cold", "split": "night", "classes": "scened"}},
         "evaluation.shifts.dark.classes: classes: unknown name 'scened'; did you mean 'scenes'?"),
        ({"dark": {"split": "night"}}, "evaluation.shifts.dark.dataset: is missing"),
        ({"low": {"dataset": "cold", "split": "night"}},
         "evaluation.shifts: the name 'low' is taken by columns of other figures"),
        ({"a-b": {"dataset": "cold", "split": "night"}}, "evaluation.shifts.a-b"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_shift_is_told_in_one_line(shifts, text):
    with pytest.raises(UserError) as error:
        study(**shifts)
    assert str(error.value).startswith(f"{STUDY}: {text}") and "\n" not in str(error.value)
