"""TA-Cleaner: its sub-captions on captions made by hand, its loss against a slow reference, its choice of samples."""

import itertools
import math
import random
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from antidote.base.errors import UserError
from antidote.data.access import DefenseData
from antidote.data.scenes import captions
from antidote.data.scenes.things import CLASSES, COLOURS
from antidote.data.words.lexicon import Lexicon
from antidote.data.words.replacements import PICTURE_NOUNS, Replacements
from antidote.defenses.ta_cleaner import (
    Parsed,
    TACleaner,
    TACleanerSettings,
    negative,
    positive,
    sub_caption_loss,
)
from antidote.training.objectives import Batch


def objective(pairs, lexicon, batch_size=8, **settings):
    values = {"training": {"batch_size": batch_size}, **settings}
    return TACleaner(TACleanerSettings.read(values, "test"), 0).objective(None, DefenseData(pairs, lexicon))


def batch_at(step, pairs):
    rows = torch.arange(min(4, len(pairs)))
    return Batch(pairs.images[rows], [pairs.captions[i] for i in rows], rows, 0, step, random.Random(step))


# --- sub-captions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "skeleton", "clause"),
    [
        ("a red banana lies on the sea", "banana lies on sea", "red banana lies on sea"),
        ("A Small Blue BOAT, above the beach.", "boat above beach", "small blue boat above beach"),
        ("the large green cactus stands in front of a wall", "cactus stands in front of wall",
         "large green cactus stands in front of wall"),
        ("a photo of a big key", "photo of key", "big key"),
        ("a red cup, a blue key and a ball on the white sand next to a boat", "cup key ball on sand next to boat",
         "red cup on white sand"),
        ("the ring is red", "ring", "ring"),
        ("the ring floats quietly", "ring floats", "ring floats"),
        ("a close view", "view", "view"),
        ("banana", "banana", "banana"),
        ("an unknown gizmo", "an unknown gizmo", "an unknown gizmo"),
        ("red and blue", "red and blue", "red and blue"),
        ("", "", ""),
    ],
)  # fmt: skip
def test_what_positives_keep(scenes_lexicon, caption, skeleton, clause):
    """A caption without a noun of the lexicon stands in whole; so does every one where all are to."""
    parsed = Parsed.of(caption, scenes_lexicon)
    assert positive(parsed, "skeleton") == skeleton and positive(parsed, "clause") == clause
    assert positive(parsed, "whole") == caption


SMALL = Lexicon(
    {
        "dog": {"pos": "noun", "synonyms": ["hound"]},
        "hound": {"pos": "noun", "synonyms": ["dog"]},
        "cat": {"pos": "noun", "synonyms": []},
        "runs": {"pos": "verb", "synonyms": []},
        "on": {"pos": "preposition", "synonyms": []},
        "big": {"pos": "adjective", "synonyms": ["large"]},
        "large": {"pos": "adjective", "synonyms": ["big"]},
    }
)
REPLACEMENTS = Replacements(["big", "cat", "dog", "hound", "large", "runs"], SMALL)


def negatives(text, lexicon=SMALL, replacements=REPLACEMENTS, draws=30, **values):
    parsed, settings = Parsed.of(text, lexicon), TACleanerSettings(**values)
    return {negative(parsed, settings, replacements, random.Random(seed)) for seed in range(draws)}


def test_a_negative_swaps_the_object_for_an_unrelated_word():
    assert negatives("dog runs on") == {"cat runs on"}, "no synonym"
    assert negatives("cat on") == {"dog on", "hound on"}
    assert negatives("dog on hound") == {"cat on cat"}, "wherever it is named"
    assert negatives("big cat") == {"dog", "hound"}, "a skeleton has no adjectives"
    assert negatives("big cat", positives="clause") == {"big dog", "big hound"}
    assert negatives("a photo of a dog") == {"cat"} == negatives("a photo of a dog", swaps=2)


def test_a_negative_holds_no_word_of_the_caption_nor_one_related_to_it():
    assert negatives("dog cat") == {"dog cat"}, "the other noun is taken, and one without the object is no negative"
    assert negatives("cat runs on dog") == {"cat runs on dog"}


def test_adjectives_and_verbs_can_be_swapped_too(scenes_lexicon):
    known = Replacements(["red", "blue", "crimson", "banana", "key", "lies", "floats", "tiny"], scenes_lexicon)
    found = negatives("a red banana lies there", scenes_lexicon, known, swap=("adjective",))
    assert found == {"blue banana lies", "tiny banana lies"}, "back in the skeleton, since it is false"
    assert negatives("a red banana lies there", scenes_lexicon, known, swap=("verb", "noun")) == {"banana floats"}
    both = negatives("a red banana lies there", scenes_lexicon, known, swaps=2)
    assert both == {"blue key lies", "tiny key lies"}
    assert negatives("a red banana lies", scenes_lexicon, known, swaps=9, swap=("noun", "verb")) == {"key floats"}
    whole = negatives("a red banana lies there", scenes_lexicon, known, positives="whole", swaps=2)
    assert whole == {"a blue key lies there", "a tiny key lies there"}


def test_where_nothing_can_be_swapped_the_text_comes_back():
    assert negatives("big large runs on") == {"big large runs on"}
    assert negatives("") == {""}


def every_caption():
    """Yield what the scenes can say of each object, by all its names, with the object; other words at random."""
    rng = random.Random(0)
    words = captions.SYNONYMS
    for label, template in itertools.product(CLASSES, [form for forms in FORMS for form in forms]):
        for noun in (label, *words.get(label, ())):
            wheres = [w for some in captions.WHERE.values() for w in some] if "{where}" in template else [""]
            for where in wheres:
                verbs = captions.VERBS[where.split()[0]] if "{verb}" in template else [""]
                for verb in verbs:
                    other = rng.choice([name for name in CLASSES if name != label])
                    text = template.format(
                        noun=noun, where=where, verb=verb, second=other, colour=rng.choice(list(COLOURS)),
                        size=rng.choice(["large", "small"]), adverb=rng.choice(captions.ADVERBS),
                        beside=rng.choice([b for some in captions.BESIDE.values() for b in some]),
                    )  # fmt: skip
                    parts = text.split()
                    swapped = [rng.choice([w, *words.get(w, ())]) if w != noun else w for w in parts]
                    yield label, " ".join(swapped)


FORMS = (*captions.FORMS, captions.PAIRED)


@pytest.mark.parametrize("form", ["skeleton", "clause", "whole"])
def test_no_negative_names_what_the_picture_shows(scenes_lexicon, form):
    """Over all captions that the scenes can make; each has a negative, which holds no picture noun put in."""
    given = list(every_caption())
    vocabulary = sorted({word for _, text in given for word in text.split()})
    known, rng = Replacements(vocabulary, scenes_lexicon), random.Random(1)
    settings = TACleanerSettings(positives=form, swaps=2)
    for label, text in given:
        parsed = Parsed.of(text, scenes_lexicon)
        found = negative(parsed, settings, known, rng)
        names = {label, *captions.SYNONYMS.get(label, ())}
        assert not names & set(found.split()), f"{text!r} -> {found!r}"
        assert found != positive(parsed, form)
        new = set(found.split()) - set(text.split())
        assert new and not new & {"photo", "picture", "view", "sketch", "front", "is"}, f"{text!r} -> {found!r}"


def test_a_seed_decides_negatives(scenes_lexicon, make_pairs):
    goal = objective(make_pairs(), scenes_lexicon)
    parsed = Parsed.of("banana lies on sea", scenes_lexicon)
    drawn = [negative(parsed, goal.settings, goal.replacements, random.Random(seed)) for seed in range(40)]
    again = [negative(parsed, goal.settings, goal.replacements, random.Random(seed)) for seed in range(5)]
    assert drawn[:5] == again and len(set(drawn)) > 5
    assert all(other.endswith(" lies on sea") and not other.startswith("banana") for other in drawn)


class Animals(Lexicon):
    """Nouns with their base form, and what stands above it."""

    ABOVE: ClassVar = {
        "dog": {"animal", "thing"},
        "cat": {"animal", "thing"},
        "animal": {"thing"},
        "pup": {"dog", "animal"},
    }

    def word_class(self, word):
        return "noun"

    def meanings(self, word, word_class):
        base = word.removesuffix("s")
        return frozenset({word, base}), frozenset({word, base, *self.ABOVE.get(base, ())})

    def parents(self, word, word_class):
        return frozenset({"animal"} if word in ("dog", "cat") else ())


@pytest.mark.parametrize(
    ("word", "unrelated"),
    [("dog", {"cat", "cats", "key"}), ("dogs", {"cat", "cats", "key"}), ("animal", {"key"}), ("cat", {"dog", "pup", "key"}),
     ("key", {"animal", "cat", "cats", "dog", "pup"}), ("pup", {"cat", "cats", "key"})],
)  # fmt: skip
def test_no_other_form_nor_a_more_general_or_special_word_is_a_negative(word, unrelated):
    choices = Replacements(["animal", "cat", "cats", "dog", "key", "pup"], Animals({}))
    drawn = [choices.pick(word, "noun", random.Random(seed)) for seed in range(200)]
    assert set(drawn) == unrelated
    assert min(map(drawn.count, unrelated)) > 100 / len(unrelated), "each as likely"


def test_a_sibling_shares_the_next_more_general_word():
    choices = Replacements(["animal", "cat", "cats", "dog", "key", "pup"], Animals({}))
    assert {choices.pick("dog", "noun", random.Random(seed), near=True) for seed in range(50)} == {"cat"}
    drawn = {choices.pick("dog", "noun", random.Random(seed), [("cat", "noun")], near=True) for seed in range(50)}
    assert drawn == {"key"}, "one that the caption holds is none, nor another form of it"
    assert {choices.pick("key", "noun", random.Random(seed), near=True) for seed in range(50)} > {"cat", "dog"}


def test_where_every_word_is_related_nothing_is_picked():
    assert Replacements(["animal", "dogs"], Animals({})).pick("dog", "noun", random.Random(0)) is None


def test_picks_are_the_same_as_from_a_list(scenes_lexicon):
    """Quick as it is, a seed draws what a choice from the list of unrelated words would."""
    words = [word for word in scenes_lexicon.words("noun") if word not in PICTURE_NOUNS]
    choices = Replacements(words, scenes_lexicon)
    for seed, word in enumerate(words):
        others = [w for w in words if w not in {word, *scenes_lexicon.synonyms(word)}]
        assert choices.pick(word, "noun", random.Random(seed)) == random.Random(seed).choice(others)


# --- loss ------------------------------------------------------------------------------------------------------------


def slow_loss(images, positives, negatives, scale, texts, negative_texts):
    """The formula of the module, term by term."""

    def e(a, b):
        return math.exp(scale * sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)))

    i2t = t2i = 0.0
    for i, text in enumerate(texts):
        others = [j for j in range(len(texts)) if j == i or texts[j] != text]
        wrong = [k for k in range(len(negative_texts)) if negative_texts[k] != text]
        own = e(images[i], positives[i])
        below = sum(e(images[i], positives[j]) for j in others) + sum(e(images[i], negatives[k]) for k in wrong)
        i2t -= math.log(own / below)
        t2i -= math.log(own / sum(e(images[j], positives[i]) for j in others))
    return (i2t + t2i) / (2 * len(texts))


@pytest.mark.parametrize("per_sample", [0, 1, 2])
def test_the_loss_equals_a_slow_reference(per_sample):
    generator = torch.Generator().manual_seed(per_sample)

    def features(count):
        values = torch.randn(count, 5, generator=generator, dtype=torch.double)
        return values / values.norm(dim=1, keepdim=True)

    texts = ["dog on table", "cat", "dog on table", "boat", "cat"]
    wrong = ["cat", "boat on sea", "dog on table", "cat", "none", "cat", "boat", "x", "y", "cat"][: 5 * per_sample]
    given = features(5), features(5), features(5 * per_sample)
    scale = torch.tensor(7.5, dtype=torch.double)
    loss = sub_caption_loss(*given, scale, texts, wrong)
    assert loss.item() == pytest.approx(slow_loss(*given, 7.5, texts, wrong), abs=1e-6)
    unlike = sub_caption_loss(*given, scale, list("abcde"), [f"-{text}" for text in wrong])
    assert unlike.item() == pytest.approx(slow_loss(*given, 7.5, list("abcde"), [f"-{t}" for t in wrong]), abs=1e-6)
    assert unlike > loss, "texts that read alike are left out"


def test_one_sample_and_gradients():
    image = torch.nn.functional.normalize(torch.ones(1, 3), dim=1).requires_grad_()
    text, wrong = torch.eye(3)[:1], torch.eye(3)[1:2]
    scale = torch.tensor(2.0, requires_grad=True)
    loss = sub_caption_loss(image, text, wrong, scale, ["a"], ["b"])
    assert loss.item() == pytest.approx(math.log(2) / 2)
    loss.backward()
    assert image.grad.isfinite().all() and scale.grad.isfinite()
    assert sub_caption_loss(image, text, wrong, scale, ["a"], ["a"]).item() == 0


def test_the_term_joins_cleanclips_loss_with_its_weight(make_clip, make_pairs, scenes_lexicon):
    pairs, clip = make_pairs(16), make_clip()
    totals = {}
    for weight in (0.0, 0.5):
        goal = objective(pairs, scenes_lexicon, samples_per_epoch=16, sub_caption_weight=weight)
        goal.begin_epoch(0)
        torch.manual_seed(0)
        batch = batch_at(1, pairs)
        views = goal.views(batch)
        assert len(views.images[2]) == len(views.texts[2]) == len(views.texts[3]) == 8
        encoded = [clip.encode_image(view) for view in views.images], [clip.encode_text(view) for view in views.texts]
        totals[weight], terms = goal.loss(*encoded, torch.tensor(10.0), replace(batch, views=views))
    assert set(terms) == {"contrastive", "self_supervised", "sub_captions"}
    assert (totals[0.5] - totals[0.0]).item() == pytest.approx(terms["sub_captions"].item() / 2, rel=1e-5)


def test_sub_captions_are_aligned_with_pictures_with_captions_or_with_both(make_clip, make_pairs, scenes_lexicon):
    pairs, clip, found = make_pairs(16), make_clip(), {}
    for choice, pictures in (("pictures", 3), ("captions", 2), ("both", 3)):
        goal = objective(pairs, scenes_lexicon, samples_per_epoch=16, aligned_with=choice)
        goal.begin_epoch(0)
        torch.manual_seed(0)
        batch = batch_at(1, pairs)
        views = goal.views(batch)
        assert len(views.images) == pictures, "no picture is encoded that the loss does not use"
        assert TACleaner.step_views(goal.settings, None)[:2] == (len(views.images), len(views.texts))
        encoded = [clip.encode_image(view) for view in views.images], [clip.encode_text(view) for view in views.texts]
        found[choice] = goal.loss(*encoded, torch.tensor(10.0), replace(batch, views=views))[1]["sub_captions"].item()
        if choice == "captions":
            assert views.texts[4] == [pairs.captions[row] for row in goal.rows(batch)]
            anchors, positives, negatives = encoded[1][4], *encoded[1][2:4]
            slow = slow_loss(*(one.detach() for one in (anchors, positives, negatives)), 10.0, *views.texts[2:4])
            assert found[choice] == pytest.approx(slow, rel=1e-4)
    assert found["both"] == pytest.approx((found["pictures"] + found["captions"]) / 2, rel=1e-5)
    assert found["pictures"] != pytest.approx(found["captions"], rel=1e-2)


def test_a_step_without_samples_is_cleanclips(make_clip, make_pairs, scenes_lexicon):
    pairs, clip = make_pairs(16), make_clip()
    goal = objective(pairs, scenes_lexicon, samples_per_epoch=3)
    goal.begin_epoch(0)
    batch = batch_at(0, pairs)
    views = goal.views(batch)
    assert len(views.images[2]) == 0 and views.texts[2:] == [[], []]
    encoded = [clip.encode_image(v) for v in views.images[:2]], [clip.encode_text(v) for v in views.texts[:2]]
    empty = torch.zeros(0, 16)
    _, terms = goal.loss([*encoded[0], empty], [*encoded[1], empty, empty], torch.tensor(10.0), batch)
    assert set(terms) == {"contrastive", "self_supervised"}


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 8, 9, 20, 31, 32, 35, 6400])
def test_every_sample_has_its_turn_once_per_epoch(make_pairs, scenes_lexicon, count):
    """35 pairs are 4 steps of 8, so that at most 32 samples have a turn; mini-batches are as equal as they can be."""
    pairs = make_pairs(35)
    goal = objective(pairs, scenes_lexicon, samples_per_epoch=count)
    drawn = []
    for epoch in range(3):
        goal.begin_epoch(epoch)
        turns = [goal.rows(batch_at(4 * epoch + position, pairs)) for position in range(4)]
        sizes = [len(turn) for turn in turns if turn]
        assert sorted(row for turn in turns for row in turn) == sorted(goal.samples)
        assert len(set(goal.samples)) == len(goal.samples) == min(count, 32)
        assert len(sizes) == math.ceil(min(count, 32) / 8) and max(sizes) - min(sizes) <= 1 and max(sizes) <= 8
        drawn.append(list(goal.samples))
    assert drawn[0] != drawn[1] or count == 1


def test_turns_are_spread_over_the_epoch(make_pairs, scenes_lexicon):
    pairs = make_pairs(80)
    goal = objective(pairs, scenes_lexicon, samples_per_epoch=16)
    goal.begin_epoch(0)
    assert [position for position in range(10) if goal.rows(batch_at(position, pairs))] == [4, 9]


def test_an_epochs_samples_depend_on_seed_and_epoch_alone(make_pairs, scenes_lexicon):
    one, two = (objective(make_pairs(30), scenes_lexicon, samples_per_epoch=5) for _ in range(2))
    one.begin_epoch(0)
    one.begin_epoch(3)
    two.begin_epoch(3)
    assert one.samples == two.samples


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positives", ["skeleton", "clause", "whole"])
def test_every_text_is_announced(make_clip, make_pairs, positives):
    """Also pieces of words that open_clip reads as a whole: `caf` of `café`, `amp` of `&amp;`."""
    from antidote.training.vocabulary import CompactVocabulary

    nouns = ("caf", "amp", "banana", "boat", "o'clock")
    lexicon = Lexicon({word: {"pos": "noun", "synonyms": []} for word in nouns})
    pairs = make_pairs(8, captions=("a café", "salt &amp; banana", "boat at 3 O'Clock", "naïve"))
    goal = objective(pairs, lexicon, batch_size=4, samples_per_epoch=8, negatives=3, positives=positives)
    goal.augmented = pairs.captions  # EDA may or may not leave such a piece
    clip = make_clip()
    CompactVocabulary(clip, goal.texts())
    for step in range(8):
        if step % 2 == 0:
            goal.begin_epoch(step // 2)
        for view in goal.views(batch_at(step, pairs)).texts:
            assert not view or clip.encode_text(view).isfinite().all()


def test_without_positives_whole_captions_stand_in(make_pairs, scenes_lexicon):
    pairs = make_pairs(8)
    goal = objective(pairs, scenes_lexicon, samples_per_epoch=8, positives="whole")
    goal.begin_epoch(0)
    assert goal.views(batch_at(0, pairs)).texts[2] == [pairs.captions[row] for row in goal.samples]


def test_a_lexicon_that_knows_no_noun_is_told(make_pairs):
    with pytest.raises(
        UserError, match=r"^ta_cleaner: lexicon: no caption word is a noun of it; name one .*wordnet:FOLDER"
    ):
        objective(make_pairs(), Lexicon({}))
