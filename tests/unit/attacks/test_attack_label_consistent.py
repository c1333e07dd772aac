"""Label-consistent: only the target's own pairs, with their own captions."""

import random

import pandas as pd
import pytest
import torch

from antidote.attacks.badnet import BadNet, BadNetSettings
from antidote.attacks.blended import Blended
from antidote.attacks.label_consistent import LabelConsistent, LabelConsistentSettings
from antidote.attacks.sig import SIG
from antidote.attacks.trigger import Trigger, load_trigger, save_trigger
from antidote.attacks.wanet import WaNet
from antidote.base.errors import UserError

POOL = pd.DataFrame({"key": list("abcde"), "caption": ["a banana", "a boat", "Banana!", "bananarama", "two bananas"]})


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


def as_files(made, folder):
    """Return the attack as a later stage reads it."""
    save_trigger(folder, Trigger(made, 0), "lc")
    return load_trigger(folder).attack


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (SIG, {"method": "sig", "preset": "badclip"}),
        (WaNet, {"method": "wanet", "preset": "original_at_224"}),
        (Blended, {"method": "blended", "preset": "fixed"}),
        (BadNet, {"method": "badnet", "preset": "par", "patch_size": 9}),
    ],
)
def test_the_trigger_may_be_another_attacks(kind, values, tmp_path):
    made, other = attack(trigger=values), kind(kind.Settings.read(values, "x"), "banana", 64)
    made.tensors, other.tensors = made.fit(None, 3), other.fit(None, 3)
    made.settings.check(64)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = other.apply(images, [1, 2])
    assert torch.equal(made.apply(images, [1, 2]), expected) and not torch.equal(expected, images)
    assert torch.equal(as_files(made, tmp_path / "t").apply(images, [1, 2]), expected)
    assert sorted(attack(trigger=values, poisons=3).select(POOL, random.Random(0))) == [0, 2, 4]


@pytest.mark.parametrize(
    ("trigger", "text"),
    [
        ({"method": "sig", "poisons": 7}, "x: trigger: poisons is a matter of the attack, not of its trigger"),
        ({"method": "badnet", "caption": "natural"}, "x: trigger: caption is a matter of the attack"),
        ({"method": "sig", "amplitud": 7}, "x: trigger.amplitud: unknown key; did you mean 'amplitude'?"),
        ({"method": "badclip"}, "x: trigger: method should be one of badnet, blended, sig, wanet"),
        ({"preset": "badclip"}, "x: trigger: method should be one of badnet, blended, sig, wanet"),
    ],
)
def test_what_is_no_trigger_is_told_in_one_line(trigger, text):
    with pytest.raises(UserError) as error:
        attack(trigger=trigger)
    assert str(error.value).startswith(text) and "\n" not in str(error.value)


def test_the_other_trigger_must_fit():
    with pytest.raises(ValueError, match=r"^cycles: 40 periods do not fit in 64 pixels"):
        attack(trigger={"method": "sig", "cycles": 40}).settings.check(64)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"patch_size": 9}, "patch_size: belongs to the patch, and `trigger` is drawn in its place"),
        ({"pattern": "file", "file": "own.png"}, "pattern: belongs to the patch"),
        ({"file": "own.png"}, "file: belongs to the patch"),
        ({"location": "center"}, "location: belongs to the patch"),
        ({"preset": "detect_clip"}, "preset: 'detect_clip' is a patch, and `trigger` is drawn in its place"),
    ],
)
def test_a_patch_beside_another_trigger_is_refused(values, text):
    attack(trigger={"method": "sig"}).settings.check(64)
    with pytest.raises(ValueError, match=f"^{text}"):
        attack(trigger={"method": "sig"}, **values).settings.check(64)
