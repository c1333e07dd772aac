"""ISSBA: a residual of each picture's own, within its bound, from which a decoder reads the bits."""

import pytest
import torch

from antidote.attacks.contract import FitContext
from antidote.attacks.issba import ISSBA, ISSBASettings, _secret


def issba(**values):
    return ISSBA(ISSBASettings.read({"method": "issba", **values}, "x"), "banana", 32)


@pytest.fixture(scope="module")
def trained():
    """A short training with few bits, on smooth pictures."""
    from antidote.data.pairs import Pairs

    shades = torch.rand(96, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
    images = torch.nn.functional.interpolate(shades, size=32, mode="bilinear").to(torch.uint8)
    pairs = Pairs([str(i) for i in range(96)], images, ["a boat"] * 96, torch.zeros(96).long())
    attack = issba(bits=8, width=8, epochs=25, batch_size=16, lr=5e-3, limit=16)
    attack.tensors = attack.fit(FitContext(None, pairs, [], [], 0), 1)
    return attack, images


def test_the_bits_are_read(trained):
    attack, _ = trained
    assert attack.facts["bit_accuracy"] > 0.9 and attack.facts["psnr"] > 20


def test_each_picture_has_a_residual_of_its_own_within_the_bound(trained):
    attack, images = trained
    clean = images[:2].float() / 255
    residual = attack.apply(clean, [0, 0]) - clean
    assert residual.abs().max() <= 16 / 255 + 1e-6 and not torch.equal(residual[0], residual[1])


def test_batches_draw_what_single_pictures_do(trained):
    attack, images = trained
    clean = images[:5].float() / 255
    assert torch.equal(attack.apply(clean, range(5))[3:4], attack.apply(clean[3:4], [3]))


def test_the_secret_is_the_text_then_the_seeds_filling():
    written = _secret(issba(secret="Stega!!").settings, 0)
    assert len(written) == 100 and set(written.tolist()) == {0, 1}
    text = "".join(str(int(bit)) for bit in written[:56])
    assert bytes(int(text[i : i + 8], 2) for i in range(0, 56, 8)) == b"Stega!!"
    other = _secret(issba(secret="Stega!!").settings, 1)
    assert torch.equal(written[:56], other[:56]) and not torch.equal(written, other)
    assert len(_secret(issba(bits=5).settings, 0)) == 5


def test_it_needs_no_surrogate_but_some_size():
    assert ISSBA.learned and not ISSBA.on_surrogate
    with pytest.raises(ValueError, match=r"^method: issba needs pictures of at least 16 pixels, not 8$"):
        issba().settings.check(8)
