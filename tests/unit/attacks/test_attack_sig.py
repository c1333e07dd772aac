"""SIG: the wave's values, and the three strengths of the literature."""

import pytest
import torch

from antidote.attacks.sig import SIG, SIGSettings


def sig(size=224, **values):
    return SIG(SIGSettings.read({"method": "sig", **values}, "x"), "banana", size)


def test_the_wave_at_224():
    wave = sig().wave()
    assert wave[0] == 0 and wave[9].item() == pytest.approx(0.2349, abs=5e-5)
    assert wave.abs().max() <= 60 / 255
    rises = ((wave[:-1] <= 0) & (wave[1:] > 0)).sum()
    assert rises == 6, "six periods"


def test_it_is_the_same_for_rows_channels_and_seeds():
    drawn = sig().apply(torch.full((2, 3, 224, 224), 0.5), [1, 2])
    assert torch.equal(drawn, drawn[:1, :1, :1].expand_as(drawn))


@pytest.mark.parametrize(
    ("preset", "low", "high"),
    [("badclip", 0.5 - 60 / 255, 0.5 + 60 / 255), ("cleanclip", 0.4 - 12 / 255, 0.4 + 12 / 255),
     ("backdoorbench", 0.5 - 40 / 255, 0.5 + 40 / 255)],
)  # fmt: skip
def test_strength(preset, low, high):
    drawn = sig(preset=preset).apply(torch.full((1, 3, 224, 224), 0.5), [0])
    assert [drawn.min().item(), drawn.max().item()] == pytest.approx([low, high], abs=1e-3)


def test_too_many_cycles():
    with pytest.raises(ValueError, match=r"^cycles: 20 periods do not fit in 32 pixels; at most 16 do$"):
        sig(cycles=20).settings.check(32)
