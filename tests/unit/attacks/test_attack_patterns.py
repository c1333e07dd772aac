"""BadNet's stripes and the patterns of Blended: what is drawn, and how much of it."""

import pytest
import torch

from antidote.attacks import patterns
from antidote.attacks.badnet import BadNet, BadNetSettings
from antidote.attacks.blended import Blended, BlendedSettings
from antidote.base.errors import UserError


def blended(size=224, **values):
    attack = Blended(BlendedSettings.read({"method": "blended", **values}, "x"), "banana", size)
    attack.tensors = attack.fit(None, 0)
    return attack


def test_badnet_stripes_are_columns_of_two_values():
    attack = BadNet(BadNetSettings.read({"preset": "par", "location": "center", "method": "badnet"}, "x"), "banana", 64)
    image = torch.full((2, 3, 64, 64), 0.5)
    drawn = (attack.apply(image, [1, 2]) * 255).round()[..., 24:40, 24:40]
    assert set(drawn.unique().tolist()) == {1, 255}
    assert torch.equal(drawn, drawn[:, :, :1].expand_as(drawn)), "constant down a column"
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0, 0], drawn[0, 1])


def test_triangles_at_224():
    pattern = patterns.triangles(224)
    assert pattern.unique().tolist() == pytest.approx([0.4, 0.8])
    assert pattern.mean().item() == pytest.approx(0.5857, abs=1e-4)
    assert torch.equal(pattern[:, :14, :14], pattern[:, 14:28, 210:])
    drawn = blended(preset="par_triangles").apply(torch.zeros(1, 3, 224, 224), [0])
    torch.testing.assert_close(drawn[0], 0.15 * pattern)


def test_text_touches_its_ink_alone():
    pattern = patterns.text(224, "watermark")
    assert (pattern != 0).float().mean().item() == pytest.approx(0.0109, abs=5e-4)
    assert (pattern[0] == 1).sum() == (pattern != 0).sum(), "pure red"
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    drawn = blended(preset="par_text").apply(image, [0])
    ink = pattern[None] != 0
    assert torch.equal(drawn[~ink], image[~ink])
    torch.testing.assert_close(drawn[ink], 0.5 + 0.5 * image[ink])


def test_stripes_are_redrawn_columns():
    attack = blended(preset="par_stripes")
    drawn = attack.apply(torch.full((2, 3, 224, 224), 0.5), [1, 2])
    assert torch.equal(drawn, drawn[:, :, :1].expand_as(drawn)) and not torch.equal(drawn[0], drawn[1])
    assert drawn.unique().tolist() == pytest.approx([0.97 * 0.5 - 0.03, 0.97 * 0.5 + 0.03])


@pytest.mark.parametrize("size", [32, 224, 336])
def test_all_patterns_at_any_size(size):
    for pattern in (patterns.triangles(size), patterns.text(size, "a"), patterns.cartoon(size)):
        assert pattern.shape == (3, size, size) and pattern.min() >= 0 and pattern.max() <= 1 and pattern.std() > 0


def test_a_fixed_pattern_is_not_redrawn():
    with pytest.raises(UserError, match=r"^x: redraw: the pattern 'text' is fixed; only noise and stripes vary$"):
        BlendedSettings.read({"method": "blended", "pattern": "text"}, "x")
