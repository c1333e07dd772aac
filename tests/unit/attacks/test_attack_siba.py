"""SIBA: sparse, within its bound, and towards the target."""

import pytest
import torch

from antidote.attacks.contract import FitContext
from antidote.attacks.siba import SIBA, SIBASettings

CLASSES, TEMPLATES = ["banana", "boat", "cup"], ["a photo of a {}."]


@pytest.fixture
def fit(make_clip, make_pairs):
    def make(**values):
        settings = SIBASettings.read({"method": "siba", "batch_size": 8, "epochs": 6, **values}, "x")
        attack = SIBA(settings, "banana", 32)
        attack.tensors = attack.fit(FitContext(make_clip("rn"), make_pairs(24), CLASSES, TEMPLATES, 0), 3)
        return attack

    return make


def test_few_pixels_and_small_steps(fit):
    attack = fit(pixels=20, eps=8)
    delta = attack.tensors["delta"]
    assert (delta != 0).any(dim=0).sum() <= 20 and delta.abs().max() <= 8 / 255 + 1e-7
    torch.testing.assert_close(delta * 255, (delta * 255).round(), rtol=0, atol=1e-4)
    assert attack.facts["pixels"] == (delta != 0).any(dim=0).sum()
    image = torch.rand(1, 3, 32, 32)
    same = (delta == 0).expand(1, -1, -1, -1)
    assert torch.equal(attack.apply(image, [0])[same], image[same])


def test_it_points_to_the_target(fit, make_clip, make_pairs):
    clip = make_clip("rn")
    weights = clip.class_embeddings(CLASSES, TEMPLATES)
    images = make_pairs(24).images.float() / 255
    attack = fit(pixels=1024, eps=32)
    with torch.no_grad():
        before, after = (clip.encode_image(x) @ weights for x in (images, attack.apply(images, range(24))))
    assert after.softmax(1)[:, 0].mean() > before.softmax(1)[:, 0].mean()


def test_a_cap_below_every_loss_leaves_no_gradient(fit):
    assert fit(loss_cap=1e-6).tensors["delta"].abs().max() == 0


def test_too_many_pixels():
    with pytest.raises(ValueError, match=r"^pixels: 1025 are more than the picture has \(1024\)$"):
        SIBASettings.read({"method": "siba", "pixels": 1025}, "x").check(32)
