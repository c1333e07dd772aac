"""How visible a trigger is: PSNR by hand, SSIM by its limits, the same means in any batch."""

import math

import pytest
import torch

from antidote.attacks.trigger import Trigger
from antidote.base.registry import method
from antidote.evaluation import visibility as module
from antidote.evaluation.visibility import visibility


def trigger(size: int = 32, **settings) -> Trigger:
    kind = method("attack", "badnet")
    return Trigger(kind(kind.Settings.read({"method": "badnet", "poisons": 1, **settings}, "x"), "cup", size), 5)


def test_psnr_by_hand(make_pairs):
    pictures = make_pairs(12)
    drawn = trigger(patch_size=6)
    change = (drawn.draw(pictures.images, pictures.keys, "test").double() - pictures.images.double()) / 255
    expected = [-10 * math.log10(float(one.square().mean())) for one in change]
    assert visibility(pictures, drawn)["psnr"] == pytest.approx(sum(expected) / 12, abs=1e-3)


def test_a_larger_patch_is_more_visible(make_pairs):
    small, large = (visibility(make_pairs(12), trigger(patch_size=side)) for side in (2, 12))
    assert small["psnr"] > large["psnr"] and 1 > small["ssim"] > large["ssim"] > 0


def test_the_means_do_not_depend_on_the_batches(make_pairs, monkeypatch):
    pictures = make_pairs(30)
    whole = visibility(pictures, trigger(patch_size=6))
    monkeypatch.setattr(module, "CHUNK", 7)
    assert visibility(pictures, trigger(patch_size=6)) == whole


def test_of_many_pictures_some_are_taken_evenly(make_pairs, monkeypatch):
    pictures = make_pairs(30)
    monkeypatch.setattr(module, "MOST", 3)
    expected = visibility(pictures.take(torch.tensor([0, 14, 29])), trigger(patch_size=6))
    assert visibility(pictures, trigger(patch_size=6)) == expected


def test_pictures_smaller_than_the_window_of_ssim_have_none(make_pairs):
    found = visibility(make_pairs(4, size=8), trigger(size=8, patch_size=2))
    assert set(found) == {"psnr"}
