"""Data that a user gives with a model: its order, and class names beside folders."""

import json

import numpy as np
import pytest
from PIL import Image

from antidote.base.errors import UserError
from antidote.command import given


def test_the_order_of_given_pairs_is_random_and_keeps_pairs_together(make_pairs):
    pairs = make_pairs(20)
    orders = [given.shuffled(pairs, seed).keys for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(pairs.keys) != orders[0]
    mixed = given.shuffled(pairs, 0)
    for row, key in enumerate(mixed.keys):
        old = pairs.keys.index(key)
        assert mixed.captions[row] == pairs.captions[old] and mixed.labels[row] == pairs.labels[old]
        assert (mixed.images[row] == pairs.images[old]).all()


@pytest.mark.parametrize("name", ["pairs", "shots", "labelled"])
@pytest.mark.parametrize("level", ["nothing", "test-time", "clean-pairs", "few-labelled"])
def test_a_dataset_that_is_not_there_is_told_whether_it_is_needed_or_not(place, name, level):
    there = {"pairs": place / "pictures", "shots": place / "test", "labelled": place / "test", "classes": NAMES[:3]}
    classes(place, NAMES[:3])
    for missing, fault in (
        ("nowhere.csv", "no such dataset"),
        ("none", "no such dataset"),
        ("names.json", "is no dataset"),
    ):
        data = given.Given(**{**there, name: str(place / missing)})
        with pytest.raises(UserError, match=rf"{missing}: {fault}; should be a table"):
            data.granted(32, [level])


@pytest.mark.parametrize(("option", "level"), [
    ("templates", "nothing"), ("templates", "test-time"), ("lexicon", "clean-pairs"),
])  # fmt: skip
def test_a_name_that_is_unknown_is_told_by_its_option(place, option, level):
    data = given.Given(pairs=place / "pictures", classes=NAMES, **{option: "nowhere"})
    with pytest.raises(UserError, match=f"^--{option}: unknown name 'nowhere'; "):
        data.granted(32, [level])


def test_pictures_that_nothing_needs_are_not_read(place, monkeypatch):
    classes(place, NAMES[:3])
    monkeypatch.setattr(given.inputs, "load_pairs", lambda *_: pytest.fail("pictures are read"))
    data = given.Given(pairs=place / "pictures", shots=place / "test", labelled=place / "test", classes=NAMES[:3])
    assert data.granted(32, ["test-time"])["test-time"].classes == NAMES[:3]


def classes(place, names):
    (place / "names.json").write_text(json.dumps(names))
    for folder, level in (("boat", 0), ("cup", 100), ("polar_bear", 200)):
        (place / "test" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(place / "test" / folder / "a.png")
    pictures, found = given.Given(classes=place / "names.json").labels(place / "test", 32)
    return {found[label]: int(image.max()) for label, image in zip(pictures.labels, pictures.images, strict=True)}


@pytest.mark.parametrize("names", [
    ["boat", "cup", "polar_bear"], ["polar bear", "cup", "boat"], ["Cup", "polar bear", "boat"],
])  # fmt: skip
def test_class_names_in_another_order_are_matched_with_their_folders(place, names, caplog):
    levels = {name.casefold().replace("_", " "): level for name, level in classes(place, names).items()}
    assert levels == {"boat": 0, "cup": 100, "polar bear": 200} and not caplog.text


def test_class_names_that_are_not_those_of_the_folders_are_named(place, caplog):
    with caplog.at_level("WARNING"):
        assert classes(place, ["ship", "mug", "bear"]) == {"ship": 0, "mug": 100, "bear": 200}
    pairs = "folder 'boat' is class 'ship', folder 'cup' is class 'mug'"
    assert caplog.text.count("--classes") == 1 and pairs in caplog.text


def numbered(place, numbers, names):
    """Return the class name of each folder, whose number is the brightness of its picture."""
    for number in numbers:
        (place / "test" / number).mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), int(number), np.uint8)).save(place / "test" / number / "a.png")
    pictures, found = given.Given(classes=names).labels(place / "test", 32)
    return {int(image.max()): found[label] for label, image in zip(pictures.labels, pictures.images, strict=True)}


NAMES = [f"class {letter}" for letter in "abcdefghijkl"]


@pytest.mark.parametrize("width", [1, 2, 3])
def test_numbered_class_folders_are_labels(place, width, caplog):
    found = numbered(place, [f"{number:0{width}d}" for number in range(12)], NAMES)
    assert found == dict(enumerate(NAMES)) and not caplog.text


def test_folders_with_other_numbers_are_taken_in_order_with_a_warning_that_shows_it(place, caplog):
    with caplog.at_level("WARNING"):
        found = numbered(place, [str(number) for number in range(1, 13)], NAMES)
    assert found[10] == NAMES[1] and "folder '1' is class 'class a', folder '10' is class 'class b'" in caplog.text
