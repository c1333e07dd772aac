"""EDA: what each of the four operations may do, and that a seed decides it."""

import random
from collections import Counter

import pytest

from antidote.data.words import eda
from antidote.data.words.lexicon import Lexicon

WORDS = Lexicon(
    {
        "red": {"pos": "adjective", "synonyms": ["crimson", "scarlet"]},
        "house": {"pos": "noun", "synonyms": ["country-house", "St. Home"]},
        "in": {"pos": "noun", "synonyms": ["inch"]},
    }
)
NONE = Lexicon({})
LONG = " ".join(f"word{chr(97 + n)}" for n in range(26))
RED = "the red house stands in front of the red wall"


def outcomes(caption, lexicon, draws=200):
    return {eda.augment(caption, lexicon, random.Random(seed)) for seed in range(draws)}


def test_a_seed_decides():
    for seed in range(20):
        assert eda.augment(RED, WORDS, random.Random(seed)) == eda.augment(RED, WORDS, random.Random(seed))
    assert len(outcomes(RED, WORDS)) > 20


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A Dog's bone, well-known;  NEW\tday\n", "a dogs bone well known new day"),
        ("red,blue and black/white", "red blue and black white"),
        ("the 3d printer", "the d printer"),
        ("dog’s café", "dogs caf"),
    ],
)
def test_only_lower_case_letters_are_left(caption, words):
    """As in CleanCLIP's code: apostrophes vanish, whatever else is no letter parts words."""
    assert eda.letters(caption) == words.split()
    for text in outcomes(caption, NONE, 60):
        assert set(text.split()) <= set(words.split())


@pytest.mark.parametrize("caption", ["", "   ", "123", "日本", "?!"])
def test_a_caption_without_letters_comes_back(caption):
    assert outcomes(caption, WORDS, 10) == {caption}


def test_never_empty():
    for caption in ("red", "a b", "in"):
        assert all(outcomes(caption, lexicon) and all(outcomes(caption, lexicon)) for lexicon in (WORDS, NONE))
    assert outcomes("red", NONE) == {"red"}


def test_all_four_operations_occur_about_equally():
    """Of 20 distinct words without synonyms: two operations leave them, one reorders, one drops about 10 %."""
    caption = " ".join(LONG.split()[:20])
    kinds = Counter()
    for seed in range(400):
        words = eda.augment(caption, NONE, random.Random(seed)).split()
        same = "same" if words == caption.split() else "swapped" if len(words) == 20 else "dropped"
        kinds[same] += 1
    # Dropping leaves all 20 words in 12 % of its draws.
    assert 190 < kinds["same"] < 245 and 70 < kinds["swapped"] < 130 and 60 < kinds["dropped"] < 120


def test_replacing_touches_a_tenth_of_the_words_and_all_their_places():
    words = RED.split()
    for seed in range(50):
        changed = eda._replace(words, 1, WORDS, random.Random(seed))
        different = {(a, b) for a, b in zip(words, changed, strict=True) if a != b}
        assert len(different) == 1 and different <= {
            ("red", "crimson"), ("red", "scarlet"), ("house", "country-house"), ("house", "St. Home"),
        }  # fmt: skip
    both = eda._replace(words, 5, WORDS, random.Random(0))
    assert {"red", "house"}.isdisjoint(both) and "in" in both, "function words are not replaced"
    assert words == RED.split(), "the list handed over stays"


def test_inserting_adds_synonyms_of_its_words():
    words = ["red", "wall", "near", "the", "sea"]
    for count in (1, 3):
        changed = eda._insert(words, count, WORDS, random.Random(count))
        added = Counter(changed) - Counter(words)
        assert sum(added.values()) == count and set(added) <= {"crimson", "scarlet"}
        assert [word for word in changed if word not in added] == words, "the others keep their order"
    assert eda._insert(words, 2, NONE, random.Random(0)) == words
    places = {tuple(eda._insert(["red"], 1, WORDS, random.Random(seed))).index("red") for seed in range(20)}
    assert places == {0, 1}


def test_inserting_weighs_words_and_not_synonyms():
    words = Lexicon({"a": {"pos": "x", "synonyms": ["one"]}, "b": {"pos": "x", "synonyms": list("cdefghijk")}})
    hits = sum("one" in eda._insert(["a", "b"], 1, words, random.Random(seed)) for seed in range(400))
    assert 150 < hits < 250


def test_swapping_exchanges_two_words():
    words = LONG.split()
    for seed in range(30):
        changed = eda._swap(words, 1, NONE, random.Random(seed))
        assert sorted(changed) == sorted(words) and sum(a != b for a, b in zip(words, changed, strict=True)) == 2
    assert sum(a != b for a, b in zip(words, eda._swap(words, 2, NONE, random.Random(1)), strict=True)) in (0, 3, 4)
    assert eda._swap(["one"], 3, NONE, random.Random(0)) == ["one"]


def test_dropping_keeps_nine_tenths_in_order():
    words, kept = LONG.split(), 0
    for seed in range(200):
        left = eda._delete(words, 99, NONE, random.Random(seed))
        assert left == [word for word in words if word in left]
        kept += len(left)
    assert kept / (200 * 26) == pytest.approx(0.9, abs=0.02)
    assert all(eda._delete(["one"], 1, NONE, random.Random(seed)) == ["one"] for seed in range(50))


def test_a_tenth_of_the_words_but_at_least_one(monkeypatch):
    counts = []
    for name in ("_replace", "_insert", "_swap", "_delete"):
        monkeypatch.setattr(eda, name, lambda words, count, lexicon, rng: counts.append(count) or words)
    for length in (1, 9, 19, 20, 26):
        eda.augment(" ".join(LONG.split()[:length]), NONE, random.Random(0))
    assert counts == [1, 1, 1, 2, 2]


def test_synonyms_are_written_as_the_rest_is():
    texts = outcomes("house", WORDS)
    assert {"country house", "st home"} <= texts and all(text == text.lower() and "-" not in text for text in texts)
