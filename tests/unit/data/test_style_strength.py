"""The strength of a style: how much of every pixel is the styled picture's."""

import numpy as np
import pytest

from antidote.base.errors import UserError
from antidote.data.scenes.draw import generate
from antidote.data.sources.shifted_scenes import ShiftedScenes
from antidote.data.styles import FACTOR, STYLES, styled

SIZE = 16


@pytest.fixture(scope="module")
def pictures():
    return generate(5, 0, 6, SIZE * FACTOR)[0]


@pytest.mark.parametrize("style", STYLES)
def test_full_strength_is_the_style(pictures, style):
    assert np.array_equal(styled(pictures, style), STYLES[style](pictures))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9])
def test_less_is_a_mean_of_the_style_and_the_plain_picture(pictures, style, strength):
    """The plain picture is the mean over FACTOR x FACTOR pixels; a sum in 8 bits would overflow."""
    plain = pictures.reshape(6, SIZE, FACTOR, SIZE, FACTOR, 3).mean(axis=(2, 4))
    wanted = strength * STYLES[style](pictures) + (1 - strength) * plain
    assert np.abs(styled(pictures, style, strength) - wanted).max() <= 2


def test_a_split_has_a_strength():
    splits = {name: {"pairs": 3, "seed": 5, "style": "sketch", **more} for name, more in
              (("full", {}), ("half", {"strength": 0.5}))}  # fmt: skip
    source = ShiftedScenes(size=SIZE, splits=splits)
    full, half = (np.stack([pair.image for pair in source.iterate(name)]) for name in splits)
    assert not np.array_equal(full, half) and half.dtype == np.uint8


@pytest.mark.parametrize("strength", [0, 1.5])
def test_a_strength_out_of_range(strength):
    split = {"pairs": 3, "seed": 5, "style": "sketch", "strength": strength}
    with pytest.raises(UserError, match=r"splits\.train\.strength"):
        ShiftedScenes.read({"source": "shifted_scenes", "splits": {"train": split}}, "mine")
