"""Detectors of models: statistics by hand, and backdoors that are there."""

import base64
import dataclasses
import importlib
import io
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import gamma

from antidote.base.errors import UserError
from antidote.base.registry import method, module
from antidote.clip.model import autocast
from antidote.data.access import DefenseData
from antidote.detectors import features
from antidote.detectors.amdet import hessians
from antidote.detectors.base import NoScore
from antidote.detectors.max_margin import FEWEST, log_p_value
from antidote.detectors.outliers import anomaly, as_picture, least
from antidote.detectors.patch_places import places
from antidote.detectors.search import rates, smallest, steady
from antidote.detectors.seer import frequent
from antidote.training.patches import Found, together, toward
from antidote.training.session import Work

CLASSES = ["banana", "boat", "cactus", "kite", "ladder"]


AREAS = torch.tensor([0.6, 0.1, 0.5, 0.4, 0.7])


def test_the_anomaly_index_by_hand():
    """Median 0.5; deviations 0.4, 0.1, 0, 0.1, 0.2, whose median is 0.1."""
    assert (anomaly("x", AREAS), least(AREAS)) == (pytest.approx(0.4 / 0.14826, rel=1e-4), 1)
    index = anomaly("x", AREAS, "log")
    logs = np.log([0.6, 0.1, 0.5, 0.4, 0.7])
    spread = np.median(np.abs(logs - np.log(0.5)))
    assert index == pytest.approx(np.log(5) / (1.4826 * spread), rel=1e-4)
    assert anomaly("x", torch.ones(5)) == 0, "no trigger worked for any class"


@pytest.mark.parametrize(("form", "percent", "said"), [
    ("normal", {3: 23, 10: 33, 24: 49}, "23 % of draws of 3 classes, 33 % of 10 and 49 % of 24"),
    ("uniform", {10: 18, 24: 10}, "18 and 10 % for uniform sizes"),
])  # fmt: skip
def test_the_rate_of_an_index_of_2_without_an_outlier(form, percent, said):
    stream = np.random.default_rng(0)
    for count, expected in percent.items():
        sizes = torch.from_numpy(getattr(stream, form)(0.5, 0.6, (2500, count)))
        rate = np.mean([anomaly("x", areas) >= 2 for areas in sizes])
        assert 100 * rate == pytest.approx(expected, abs=3), "three standard errors"
    assert said in " ".join(importlib.import_module("antidote.detectors.neural_cleanse").__doc__.split())


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_an_index_without_a_spread_is_no_score(scale):
    """The median of 1, 1, 1, 0.1, 0.2 and the median deviation are those of the searches that failed."""
    with pytest.raises(NoScore, match=r"^x: no trigger was found by 3 of 5 searches; raise steps; the smallest"):
        anomaly("x", torch.tensor([1.0, 0.1, 1.0, 0.2, 1.0]), scale)


@pytest.mark.parametrize(("name", "expected"), [
    ("ssl_cleanse", 0.6745 * 0.4 / 0.14826), ("neural_cleanse", 0.4 / 0.14826),
])  # fmt: skip
def test_the_index_has_the_scale_of_its_code(make_clip, make_pairs, tmp_path, monkeypatch, name, expected):
    """The released code of SSL-Cleanse divides the median absolute deviation by 0.6745; Neural Cleanse does not."""
    kind, pairs = method("detector", name), make_pairs(32, captions=[f"thing {row}" for row in range(32)])
    found = Found(torch.rand(5, 32, 32), torch.rand(5, 3, 32, 32), AREAS < 0.7, AREAS, AREAS)
    monkeypatch.setattr(importlib.import_module(module("detector", name)), "smallest", lambda *_: found)
    settings = kind.Settings(**({"clusters": 5} if name == "ssl_cleanse" else {}))
    data = DefenseData(pairs=pairs, shots=pairs, classes=CLASSES, templates=["a {}."])
    scores = kind(settings, 0).score(make_clip("vit"), data, Work(tmp_path, "x"))
    assert scores.values[0] == pytest.approx(expected, rel=1e-4) and scores.threshold == 2
    assert scores.evidence["failed searches"] == 1


@pytest.mark.parametrize(("name", "goal"), [("neural_cleanse", "class 'thing 3'"), ("ssl_cleanse", "cluster 3 with ")])
def test_the_only_working_trigger_of_24_is_evidence(make_clip, make_pairs, tmp_path, monkeypatch, name, goal):
    """The index has no value, and the clearest finding is told: class, size and picture of the trigger."""
    kind, pairs = method("detector", name), make_pairs(32, captions=[f"thing {row}" for row in range(32)])
    areas = torch.ones(24)
    areas[3] = 0.02
    found = Found(torch.rand(24, 32, 32), torch.rand(24, 3, 32, 32), areas < 1, areas, areas)
    monkeypatch.setattr(importlib.import_module(module("detector", name)), "smallest", lambda *_: found)
    data = DefenseData(pairs=pairs, shots=pairs, classes=[f"thing {row}" for row in range(24)], templates=["a {}."])
    with pytest.raises(NoScore) as error:
        kind(kind.Settings(), 0).score(make_clip("vit"), data, Work(tmp_path, "x"))
    said = f"{name}: no trigger was found by 23 of 24 searches; raise steps; the smallest working trigger, of {goal}"
    assert str(error.value).startswith(said) and str(error.value).endswith(", covers 2 % of the picture")
    evidence = error.value.evidence
    assert evidence["mask"] == pytest.approx(0.02) and evidence["works"] and evidence["failed searches"] == 23
    assert evidence["trigger"] == as_picture(found.masks[3], found.patterns[3])
    assert evidence.get("class", "thing 3") == "thing 3"


def test_the_rate_of_a_trigger_is_of_all_pictures():
    """A lucky batch is not enough: of 40 pictures, in batches or not, 30 are bright where the trigger is not drawn."""
    images = torch.full((40, 3, 16, 16), 60, dtype=torch.uint8)
    images[:30, :, :4, 4:] = 255
    images[30:, :, 4:8, 4:] = 255
    masks = torch.zeros(2, 16, 16)
    masks[1, :4, :4] = 1
    found = Found(
        masks, torch.ones(2, 3, 16, 16), torch.ones(2, dtype=torch.bool), masks.mean(dim=(1, 2)), torch.zeros(2)
    )
    clip = Planted(2)
    centres = torch.eye(5)[[1, 0, 2]]
    assert rates(clip, images, toward(centres, 0.07), found) == [pytest.approx(0.75), 1.0]


def test_an_inverted_trigger_is_a_picture_that_a_browser_opens():
    mask, pattern = torch.zeros(4, 6), torch.ones(3, 4, 6)
    mask[1, 2], mask[3, 5] = 1, 0.5
    head, _, body = as_picture(mask, pattern).partition(",")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))
    assert head == "data:image/png;base64" and pixels.shape == (4, 6, 3)
    assert pixels[1, 2].tolist() == [255] * 3 and pixels[3, 5].tolist() == [128] * 3 and pixels.sum() == 3 * (255 + 128)


def test_the_p_value_of_the_largest_margin():
    margins = np.random.default_rng(0).gamma(3, 0.1, 24)
    others = np.delete(margins, margins.argmax())
    fitted = gamma.fit(others)
    plain = 1 - gamma.cdf(margins.max(), *fitted) ** 24
    assert log_p_value(margins) == pytest.approx(math.log(plain), rel=1e-6)
    far = margins.copy()
    far[3] = 50.0
    assert -700 <= log_p_value(far) < -50, "finite and tiny"
    with pytest.raises(UserError, match=r"^max_margin: all classes have the same margin"):
        log_p_value(np.array([0.5, 0.5, 0.5, 0.5, 0.9]))


def test_max_margin_names_too_few_classes(make_clip, tmp_path):
    kind = method("detector", "max_margin")
    with pytest.raises(UserError, match=r"^max_margin: there are 9 classes; 10 at least are needed$"):
        data = DefenseData(classes=[f"thing {row}" for row in range(9)], templates=["a {}."])
        kind(kind.Settings(), 0).score(make_clip("vit"), data, Work(tmp_path, "x"))


def test_false_alarms_of_max_margin_at_the_fewest_classes():
    """Margins of one distribution, without an outlier: the p-value is too small, but not for most models."""
    stream = np.random.default_rng(0)
    alarms = np.mean([log_p_value(stream.normal(0.5, 0.1, FEWEST)) <= math.log(0.05) for _ in range(60)])
    assert 0.05 < alarms < 0.3


def test_hessians_of_a_known_surface():
    x, y = np.meshgrid(np.arange(4.0), np.arange(5.0), indexing="ij")
    found = hessians(x**2 + 3 * x * y - y**2)
    assert found.shape == (6, 2, 2) and np.allclose(found, [[2, 3], [3, -2]])


class Planted:
    """A picture encoder: class 1 to 4 is the brightness of a quarter of the rows; a white corner gives class 0."""

    device, size, network = torch.device("cpu"), 16, torch.nn.Identity()

    def autocast(self, precision):
        return autocast("cpu", precision)

    def __init__(self, strength):
        self.strength = strength

    def encode_image(self, images):
        images = images / 255 if images.dtype == torch.uint8 else images
        corner = images[:, :, :4, :4].mean(dim=(1, 2, 3))
        parts = [images[:, :, 4 * i : 4 * i + 4, 4:].mean(dim=(1, 2, 3)) for i in range(4)]
        features = torch.stack([self.strength * torch.nn.functional.softplus(10 * corner - 6), *parts], dim=1)
        return features / features.norm(dim=1, keepdim=True)

    def class_embeddings(self, classes, templates):
        return torch.eye(5)


def test_neural_cleanse_tells_a_planted_backdoor_and_its_class(tmp_path, make_pairs):
    kind, pairs = method("detector", "neural_cleanse"), make_pairs(16, size=16)
    settings = kind.Settings(steps=120, batch_size=8, lr=0.2, mask_cell=4)
    images = torch.full_like(pairs.images, 60)
    for row, image in enumerate(images):
        image[:, row // 4 * 4 : row // 4 * 4 + 4, 4:] = 255
    data = DefenseData(shots=dataclasses.replace(pairs, images=images), classes=CLASSES, templates=["a {}."])
    found = {strength: kind(settings, 0).score(Planted(strength), data, Work(tmp_path / str(strength), "x"))
             for strength in (0.1, 2)}  # fmt: skip
    assert found[2].evidence["class"] == "banana" and found[2].evidence["mask"] < 0.06
    assert found[0.1].evidence["class"] != "banana" and found[2].values[0] > found[2].threshold


def test_detectors_of_models_ask_for_no_more_than_they_use():
    assert {name: method("detector", name).access for name in ("decree", "neural_cleanse", "max_margin")} == {
        "decree": "clean-pairs", "neural_cleanse": "few-labelled", "max_margin": "test-time",
    }  # fmt: skip


def test_the_weight_of_a_mask_follows_success_a_little():
    found = steady(torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([1.0, 0.95, 0.925, -0.3]), 0.95, 1.1)
    torch.testing.assert_close(found, torch.tensor([1.1, 1.0, 1.1**-0.5, 1 / 1.1]))


def test_a_steady_search_ends_at_the_smallest_working_mask(tmp_path):
    """Features are alike as soon as the four pixels of the corner are bright: from a mask of a half to few pixels."""
    images = torch.randint(0, 256, (32, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()

    class Corner(Planted):
        def encode_image(self, pictures):
            bright = (pictures[:, :, :2, :2].mean(dim=(1, 2, 3)) * 20 - 15).sigmoid()[:, None]
            own = torch.nn.functional.normalize(pictures[:, :, 8].mean(dim=1) - 0.5, dim=1)
            fixed = torch.zeros_like(own)
            fixed[:, 0] = 1
            return torch.nn.functional.normalize(bright * fixed + (1 - bright) * own, dim=1)

    settings = method("detector", "decree").Settings(steps=300, lr=0.2, batch_size=16)
    found = smallest(Corner(1), images, together, 0.95, 2, settings, 0, Work(tmp_path, "x"))
    assert found.works.all() and float(found.areas.max()) < 10 / 256, found.areas


def test_places_cover_the_picture():
    assert places(32, 4, 0.0) == [(row, column, 4) for row in range(0, 32, 4) for column in range(0, 32, 4)]
    rows = sorted({row for row, _, _ in places(30, 8, 0.5)})
    assert rows[0] == 0 and rows[-1] == 22 and max(b - a for a, b in itertools.pairwise(rows)) <= 4
    assert places(4, 4, 0.0) == [(0, 0, 4)]


def test_a_planted_patch_is_found_at_its_place(tmp_path, make_pairs):
    """A bright corner of 4 x 4 gives class 0; no other square makes the pictures alike."""
    kind, pairs = method("detector", "patch_places"), make_pairs(16, size=16)
    settings = kind.Settings(side=0.25, first_steps=8, steps=30, batch_size=8, kept=3)
    images = torch.full_like(pairs.images, 60)
    for row, image in enumerate(images):
        image[:, row // 4 * 4 : row // 4 * 4 + 4, 4:] = 255
        image[:, 15, 0] += row  # makes the pictures different; no feature depends on it
    data = DefenseData(pairs=dataclasses.replace(pairs, images=images))
    found = {strength: kind(settings, 0).score(Planted(strength), data, Work(tmp_path / str(strength), "x"))
             for strength in (0.1, 5)}  # fmt: skip
    assert (found[5].evidence["row"], found[5].evidence["column"], found[5].evidence["side"]) == (0, 0, 4)
    assert found[5].values[0] > 0.8 and found[0.1].values[0] < 0.6, found


def test_frequent_words():
    captions = ["A boat, a kite!", "the kite_2 is a Kite", "a boat by an oak", "kite"]
    assert frequent(captions, 3, 3) == ["kite", "boat", "oak"]


def test_a_planted_patch_and_its_word_are_found_together(tmp_path, make_pairs):
    """The corner that gives class 0 is a smaller mask than anything that gives another word, and the word is named."""
    kind, pairs = method("detector", "seer"), make_pairs(16, size=16)
    images = torch.full_like(pairs.images, 60)
    for row, image in enumerate(images):
        image[:, row // 4 * 4 : row // 4 * 4 + 4, 4:] = 255
        image[:, 15, 0] += row  # makes the pictures different; no feature depends on it
    pairs = dataclasses.replace(pairs, images=images, captions=[CLASSES[row % 5] for row in range(16)])

    class Worded(Planted):
        def encode_text(self, words):
            return torch.eye(5)[[CLASSES.index(word) for word in words]]

    settings = kind.Settings(steps=120, batch_size=8, lr=0.2, starts=4)
    found = {strength: kind(settings, 0).score(Worded(strength), DefenseData(pairs=pairs), Work(tmp_path / str(strength), "x"))
             for strength in (0.1, 5)}  # fmt: skip
    assert found[5].evidence["word"] == "banana" and found[5].values[0] > found[0.1].values[0], found
    assert found[0.1].evidence["word"] != "banana"


def test_captions_without_words_are_one_line(tmp_path, make_pairs):
    kind, pairs = method("detector", "seer"), dataclasses.replace(make_pairs(16), captions=["1 2"] * 16)
    with pytest.raises(UserError, match=r"^seer: pools.defense: its captions have 0 words"):
        kind(kind.Settings(), 0).score(Planted(1), DefenseData(pairs=pairs), Work(tmp_path, "x"))


@pytest.mark.parametrize("name", ["decree", "patch_places", "seer", "ssl_cleanse", "amdet"])
@pytest.mark.parametrize("count", [1, 15])
def test_too_few_different_items_are_one_line(tmp_path, make_pairs, make_clip, name, count):
    """Repeated pictures do not count."""
    kind, pairs = method("detector", name), make_pairs(count, captions=[f"a photo of thing {n}" for n in range(count)])
    pairs = pairs.take([row % count for row in range(40)])
    what = "captions" if name == "amdet" else "pictures"
    with pytest.raises(UserError, match=rf"^{name}: {count} different {what} are given; at least 16 are needed$"):
        kind(kind.Settings(), 0).score(make_clip("vit"), DefenseData(pairs=pairs), Work(tmp_path, "x"))


def test_repeated_pictures_leave_their_place_to_different_ones(make_pairs):
    """The first different ones, in their order; without repetitions the first ones."""
    few = make_pairs(20)
    repeated = few.take([row // 5 for row in range(100)])
    taken = features.different("x", repeated, 16)
    assert torch.equal(taken.images, few.images[:16]) and taken.captions == few.captions[:16]
    assert len(features.different("x", repeated, 50)) == 20
    assert torch.equal(features.different("x", few, 16).images, few.images[:16])


def test_a_picture_is_hashed_once(make_pairs, monkeypatch):
    """Pictures beyond those that are needed may be on disk, and are not read."""
    monkeypatch.setattr("antidote.data.pairs.HASHED", 4)
    pairs, read = make_pairs(20), []

    class Watched:
        def __len__(self):
            return len(pairs)

        def __getitem__(self, rows):
            read.append((rows.start, rows.stop))
            return pairs.images[rows]

    watched = dataclasses.replace(pairs, images=Watched())
    assert watched.different.first(7) == [*range(7)] and read == [(0, 4), (4, 8)]
    assert watched.different.first(20) == [*range(20)] and watched.different.first(7) == [*range(7)]
    assert len(read) == 5


@pytest.mark.parametrize("name", ["amdet", "neural_cleanse"])
def test_repetitions_change_no_score(tmp_path, make_pairs, make_clip, name):
    kind, few = (
        method("detector", name),
        make_pairs(20, classes=4, captions=[f"a photo of thing {n}" for n in range(20)]),
    )
    settings = {"captions": 16, "starts": 1} if name == "amdet" else {"pictures": 16}
    found = []
    for pairs in (few, few.take([row // 5 for row in range(100)])):
        data = DefenseData(pairs=pairs, shots=pairs, classes=CLASSES[:4], templates=["a {}."])
        one = kind(kind.Settings(steps=2, batch_size=8, **settings), 0)
        try:
            found.append(one.score(make_clip("vit"), data, Work(tmp_path / str(len(found)), "x")).values.tolist())
        except NoScore as error:
            found.append(error.evidence["masks"])
    assert found[0] == found[1]


def test_neural_cleanse_names_too_few_classes(tmp_path, make_pairs):
    kind = method("detector", "neural_cleanse")
    data = DefenseData(shots=make_pairs(8, classes=2), classes=CLASSES[:2], templates=["a {}."])
    with pytest.raises(UserError, match=r"^neural_cleanse: there are 2 classes; 3 at least are needed$"):
        kind(kind.Settings(), 0).score(Planted(1), data, Work(tmp_path, "x"))
