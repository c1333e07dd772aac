"""The embedded dataset: the same pictures for ever, words in step with the lexicon, and nothing but the class tells
the class."""

import hashlib
import re
from collections import Counter

import numpy as np
import pytest
from source_parts import pairs, source

from antidote.data.scenes import captions
from antidote.data.scenes.draw import _distance, compose, generate
from antidote.data.scenes.draws import Draws
from antidote.data.scenes.things import CLASSES, COLOURS, PLACES, SIDES
from antidote.data.store.images import encode_png
from antidote.data.words.lexicon import load_lexicon
from antidote.data.words.names import class_names, templates


@pytest.fixture(scope="module")
def drawn():
    return generate(1, 0, 4000, 32)


def test_pictures_have_the_promised_form(drawn):
    images, texts, labels = drawn
    assert images.shape == (4000, 32, 32, 3) and images.dtype == np.uint8
    assert len(texts) == 4000 and labels.shape == (4000,)
    assert set(labels.tolist()) == set(range(len(CLASSES))) and len(CLASSES) >= 20


def test_a_picture_depends_only_on_seed_and_index():
    images, texts, labels = generate(7, 0, 600, 32)
    for start, count in ((0, 1), (255, 3), (599, 1)):
        again = generate(7, start, count, 32)
        assert np.array_equal(again[0], images[start : start + count])
        assert again[1] == texts[start : start + count]
        assert np.array_equal(again[2], labels[start : start + count])


def test_pictures_never_change():
    """A change here is a new version of the dataset: all results on it are to be computed anew."""
    images, texts, labels = generate(1, 0, 128, 32)
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "42056adab543ab9a"
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == "a88170bb25a87adb"
    assert labels[:8].tolist() == [9, 1, 19, 16, 16, 2, 15, 23]


def test_splits_share_no_picture():
    seen = Counter()
    for seed in (1, 2, 3):
        images = generate(seed, 0, 2000, 32)[0]
        seen.update(hashlib.sha256(image.tobytes()).digest() for image in images)
    assert max(seen.values()) == 1


def test_every_caption_names_the_object_and_most_nothing_else(drawn):
    _, texts, labels = drawn
    details = [*COLOURS, *PLACES, "large", "small", "tiny"]
    details = {word for detail in details for word in (detail, *captions.SYNONYMS.get(detail, ()))}
    bare = 0
    for text, label in zip(texts, labels, strict=True):
        noun = CLASSES[label]
        words = re.findall(r"[a-z]+", text)
        first = next(word for word in words if word in _class_words())
        assert first in (noun, *captions.SYNONYMS.get(noun, ())), text
        bare += not details & set(words)
    assert 0.55 < bare / len(texts) < 0.75


def test_colour_and_place_say_nothing_about_the_class():
    scene = compose(Draws(1, np.arange(20_000)))
    for other, count in ((scene.colour, len(COLOURS)), (scene.place, len(PLACES))):
        table = np.zeros((len(CLASSES), count))
        np.add.at(table, (scene.label, other), 1)
        expected = table.sum() / table.size
        freedom = (len(CLASSES) - 1) * (count - 1)
        assert ((table - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)


def test_said_colour_is_the_drawn_colour(drawn):
    scene = compose(Draws(1, np.arange(4000)))
    told = Counter()
    for text, colour in zip(drawn[1], scene.colour, strict=True):
        said = [name for name in COLOURS if name in text.rstrip(".").split()]
        assert said in ([], [list(COLOURS)[colour]]), text
        told.update(said)
    assert set(told) == set(COLOURS)


def test_said_relation_is_the_drawn_relation():
    draws = Draws(1, np.arange(4000))
    scene = compose(draws)
    texts = captions.write(scene, draws)
    names = [SIDES[side] for side in scene.side]
    under = [name for name, text in zip(names, texts, strict=True) if re.search(r"(below|under) a ", text)]
    assert under and set(under) == {"above"}  # an object below its companion has the companion above it
    assert not any(" beside a " in text for text, paired in zip(texts, scene.paired, strict=True) if not paired)


def test_the_object_is_visible_against_its_background(drawn):
    """Every outline fills a fair part of the picture, at every scale and place it is drawn with."""
    draws = Draws(3, np.arange(2000))
    scene = compose(draws)
    distance = _distance(scene.label, scene.x, scene.y, scene.scale, np.zeros(2000), np.zeros(2000, bool), 32)
    share = (distance < 0).mean(axis=(1, 2))
    assert share.min() > 0.04 and share.max() < 0.8


def test_shapes_differ():
    """No outline resembles another one: at most 85 % overlap, shifted and mirrored as they come."""
    count = len(CLASSES)
    masks = _distance(
        np.arange(count), *np.zeros((2, count)), np.full(count, 0.85), np.zeros(count), np.zeros(count, bool), 32
    ) < 0  # fmt: skip
    for one in range(count):
        for other in range(one):
            overlap = (masks[one] & masks[other]).sum() / (masks[one] | masks[other]).sum()
            assert overlap < 0.85, (CLASSES[one], CLASSES[other])


def test_other_sizes_show_the_same_scene():
    small, texts, _ = generate(1, 0, 8, 32)
    large, same, _ = generate(1, 0, 8, 128)
    assert texts == same
    shrunk = large.reshape(8, 32, 4, 32, 4, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - small).mean() < 8


def test_lexicon_knows_every_word_and_captions_use_every_word():
    lexicon = load_lexicon("scenes")
    words = Counter()
    for seed in range(4):
        words.update(re.findall(r"[a-z]+", " ".join(generate(seed, 0, 4000, 16)[1])))
    known = {word for kind in _kinds(lexicon) for word in lexicon.words(kind)}
    assert set(words) == known
    for word in known:
        assert set(lexicon.synonyms(word)) <= known - {word}
        assert all(word in lexicon.synonyms(other) for other in lexicon.synonyms(word)), word
        assert all(lexicon.word_class(other) == lexicon.word_class(word) for other in lexicon.synonyms(word))


def test_lexicon_says_what_captions_swap():
    lexicon = load_lexicon("scenes")
    for word, synonyms in captions.SYNONYMS.items():
        assert set(lexicon.synonyms(word)) == set(synonyms)


def test_classes_have_synonyms_of_their_own():
    lexicon = load_lexicon("scenes")
    assert class_names("scenes") == CLASSES
    nouns = [word for name in CLASSES for word in (name, *lexicon.synonyms(name))]
    assert len(nouns) == len(set(nouns)) and not set(nouns) & set(PLACES)
    assert all(lexicon.word_class(name) == "noun" for name in CLASSES)
    assert all(lexicon.word_class(name) == "adjective" for name in COLOURS)


def test_prompts_look_like_captions(drawn):
    known = {text.rstrip(".") for text in drawn[1]}
    for template in templates("scenes"):
        assert template.format("star").rstrip(".") in known


def _class_words():
    return {word for name in CLASSES for word in (name, *captions.SYNONYMS.get(name, ()))}


def _kinds(lexicon):
    return {entry["pos"] for entry in lexicon._words.values()}


def test_scenes_split_is_the_generators_pictures():
    settings = source("scenes", splits={"train": {"pairs": 300, "seed": 5}})
    got = pairs(settings)
    arrays, captions, labels = generate(5, 0, 300, 32)
    assert len({item.key for item in got}) == 300
    assert all(np.array_equal(item.image, array) for item, array in zip(got, arrays, strict=True))
    assert [item.captions for item in got] == [[caption] for caption in captions]
    assert [item.label for item in got] == labels.tolist()
    assert encode_png(got[0].image)
