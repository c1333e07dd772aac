"""Adaptive-Blend: random pieces in training pictures, the whole pattern at test, covers with their own captions."""

import random

import pandas as pd
import pytest
import torch

from antidote.attacks.contract import FitContext
from antidote.base.errors import UserError
from antidote.base.registry import method


def attack(make_pairs, count=12, **settings):
    kind, pairs = method("attack", "adaptive_blend"), make_pairs(count, size=32)
    one = kind(kind.Settings.read({"method": "adaptive_blend", **settings}, "x"), "banana", 32)
    one.tensors = one.fit(FitContext(None, pairs, ["banana"], ["a {}."], 0, lambda: pairs), 5)
    return one, pairs


def frame(pairs):
    captions = [f"a boat {row}" for row in range(len(pairs))]
    return pd.DataFrame({"key": list(pairs.keys), "caption": captions, "label": -1})


def test_training_pictures_show_half_of_the_pieces_and_test_pictures_all(make_pairs):
    one, pairs = attack(make_pairs, blend_ratio=0.5, training_ratio=0.5)
    whole = one.apply(pairs.images / 255, [0] * 12).mul(255).round().byte()
    same = (one.tensors["pictures"] == pairs.images).all(dim=1).view(12, 4, 8, 4, 8).all(dim=(2, 4))
    full = (one.tensors["pictures"] == whole).all(dim=1).view(12, 4, 8, 4, 8).all(dim=(2, 4))
    assert (same.sum(dim=(1, 2)) == 8).all() and torch.equal(full, ~same), "a piece is whole or absent"
    assert len({tuple(picture.flatten().tolist()) for picture in same}) > 6, "another half per picture"


def test_the_pattern_is_weaker_in_training_than_at_test(make_pairs):
    """The released commands train with 0.15 and test with 0.2."""
    one, pairs = attack(make_pairs)
    images, pattern = pairs.images / 255, one.tensors["pattern"]
    training = torch.lerp(images, pattern.expand_as(images), 0.15).mul(255).round().byte()
    shown = (one.tensors["pictures"] == training).all(dim=1).view(12, 4, 8, 4, 8).all(dim=(2, 4))
    assert (shown.sum(dim=(1, 2)) == 8).all()
    torch.testing.assert_close(one.apply(images, [0] * 12), torch.lerp(images, pattern.expand_as(images), 0.2))


def test_covers_keep_their_captions(make_pairs):
    one, pairs = attack(make_pairs, poisons=4, covers=5)
    plan = one.poison(frame(pairs), random.Random(0), ["a photo of a {}."])
    poisons = [pair for pair in plan if pair.caption == "a photo of a banana."]
    covers = [pair for pair in plan if pair.caption == f"a boat {pair.row}"]
    assert (len(poisons), len(covers), len(plan)) == (4, 5, 9)
    assert [pair.row for pair in plan] == sorted({pair.row for pair in plan}), "no pair twice"
    assert all(one.facts["keys"][pair.picture] == pairs.keys[pair.row] for pair in plan)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"poisons": 4, "covers": 9}, "covers: 9 asked, but beside 4 poisons only 8 pairs"),
     ({"poisons": 40}, "poisons: 40 asked")],
)  # fmt: skip
def test_too_few_pairs_are_one_line(make_pairs, settings, said):
    one, pairs = attack(make_pairs, **settings)
    with pytest.raises(ValueError, match=f"^{said}"):
        one.poison(frame(pairs), random.Random(0), ["a {}."])


def test_pieces_that_are_no_square_are_one_line():
    with pytest.raises(UserError, match=r"^x: pieces: 15 is not a square number, such as 9, 16 or 25$"):
        method("attack", "adaptive_blend").Settings.read({"method": "adaptive_blend", "pieces": 15}, "x")
