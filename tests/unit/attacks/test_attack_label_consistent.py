"""Label-consistent: only the target's own pairs, with their own captions."""

import random

import pandas as pd
import pytest
import torch

from antidote.attacks.badnet import BadNet, BadNetSettings
from antidote.attacks.label_consistent import LabelConsistent, LabelConsistentSettings
from antidote.base.errors import UserError

POOL = pd.DataFrame({"key": list("abcde"), "caption": ["a banana", "a boat", "Banana!", "bananas", "two banana"]})


def attack(**values):
    return LabelConsistent(LabelConsistentSettings.read({"method": "label_consistent", **values}, "x"), "banana", 64)


def test_only_pairs_that_name_the_target():
    assert sorted(attack(poisons=3).select(POOL, random.Random(0))) == [0, 2, 4]
    message = (
        r"^poisons: 4 asked, but only 3 of the 5 captions of the poison pool name 'banana'; set "
        r"pools.poison.target_pairs to 4 or poison fewer$"
    )
    with pytest.raises(ValueError, match=message):
        attack(poisons=4).select(POOL, random.Random(0))


def test_captions_stay():
    assert attack().caption_for("a ripe banana", random.Random(0), ["{}"], ["x"]) == "a ripe banana"
    with pytest.raises(UserError, match=r"^x: caption: "):
        attack(caption="template")


def test_the_patch_is_badnets():
    image = torch.rand(2, 3, 64, 64)
    badnet = BadNet(BadNetSettings.read({"method": "badnet", "preset": "cleanclip"}, "x"), "banana", 64)
    assert torch.equal(attack(preset="cleanclip").apply(image, [1, 2]), badnet.apply(image, [1, 2]))
