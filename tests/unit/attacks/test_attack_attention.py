"""The attention attack: where models look, how alike pictures stay, and what changes."""

import dataclasses
import random

import pytest
import torch

from antidote.attacks.attention import Attention, AttentionSettings
from antidote.attacks.contract import FitContext
from antidote.attacks.fitting import frozen
from antidote.attacks.saliency import saliency
from antidote.attacks.similarity import psnr, ssim
from antidote.attacks.trigger import Trigger, load_trigger, save_trigger
from antidote.training.alternating import Alternating
from antidote.training.loop import train
from antidote.training.objectives import Batch
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work

CLASSES, TEMPLATES = ["banana", "boat", "cup"], ["a photo of a {}."]


def attention(**values):
    settings = {"method": "attention", "epochs": 4, "batch_size": 8, "lr": 0.05, "pixels": 40, **values}
    return Attention(AttentionSettings.read(settings, "x"), "banana", 32)


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_maps_of_both_kinds_of_model(make_clip, make_pairs, kind):
    clip, pairs = frozen(make_clip(kind)), make_pairs(4)
    images = pairs.images.float() / 255
    maps = saliency(clip, images, pairs.captions)
    assert maps.shape == (4, 32, 32) and maps.min() >= 0 and maps.max() <= 1 and maps.isfinite().all()
    torch.testing.assert_close(saliency(clip, images[1:2], pairs.captions[1:2]), maps[1:2], rtol=1e-3, atol=1e-4)
    assert not any(module._forward_hooks for module in clip.network.modules()), "nothing stays hooked"


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_only_the_mask_changes_and_the_target_nears(make_clip, make_pairs, kind):
    clip, pairs = make_clip(kind), make_pairs(24)
    few, many = attention(epochs=0), attention(epochs=8)
    for attack in (few, many):
        attack.tensors = attack.fit(FitContext(clip, pairs, CLASSES, TEMPLATES, 0), 0)
    mask = many.tensors["mask"]
    assert mask.sum() == 40 and torch.equal(mask, few.tensors["mask"])
    images = pairs.images.float() / 255
    drawn = many.apply(images, range(24))
    outside = (mask == 0).expand_as(images)
    assert torch.equal(drawn[outside], images[outside])
    assert (drawn - images).abs().max() <= 0.2 + 1e-6
    goal = clip.class_embeddings(["banana"], TEMPLATES)
    with torch.no_grad():
        reached = [(clip.encode_image(attack.apply(images, range(24))) @ goal).mean() for attack in (few, many)]
    assert reached[1] > reached[0]
    assert 0 < many.facts["ssim"] < 1


def test_a_pattern_that_is_not_fitted_has_no_loss_and_is_stored(make_clip, make_pairs, tmp_path):
    attack = attention(epochs=0)
    attack.tensors = attack.fit(FitContext(make_clip("rn"), make_pairs(24), CLASSES, TEMPLATES, 0), 0)
    save_trigger(tmp_path / "trigger", Trigger(attack, 0), "x")
    assert set(load_trigger(tmp_path / "trigger").attack.facts) == {"ssim", "psnr"}


def test_it_says_that_it_controls_training():
    assert Attention.threat_model == "training-control"


def test_training_in_turns(make_pairs):
    """Even epochs see the poison, odd ones the originals; pairs that were never poisoned stay."""
    pairs, originals = make_pairs(10), make_pairs(10, seed=1).take(range(6, 10))
    objective = Alternating(pairs, dataclasses.replace(originals, captions=["old"] * 4))
    rows = torch.tensor([7, 0, 9])
    for epoch in range(4):
        batch = Batch(pairs.images[rows], [pairs.captions[row] for row in rows], rows, epoch, 0, random.Random(0))
        views = objective.views(objective.shown(batch))
        [images], [captions] = views.images, views.texts
        assert torch.equal(images[1], pairs.images[0]) and captions[1] == pairs.captions[0]
        poisoned = epoch % 2 == 0
        expected = pairs.images[[7, 9]] if poisoned else originals.images[[1, 3]]
        assert torch.equal(images[[0, 2]], expected) and (captions[0] == "old") is not poisoned
        assert torch.equal(batch.images, pairs.images[rows]), "the batch is left alone"
    assert "old" in set(objective.texts()) and pairs.captions[0] in set(objective.texts())
    with pytest.raises(ValueError, match="not those of the last pairs"):
        Alternating(pairs, originals.take([1, 0, 2, 3]))


def test_in_turns_originals_are_mirrored_as_all_pictures_are(make_clip, make_pairs, tmp_path):
    """What replaces a poisoned picture goes through the recipe's crops and mirror images."""
    seen = []

    class Watched(Alternating):
        def views(self, batch):
            seen.append((batch.epoch, batch.indices, batch.images))
            return super().views(batch)

    pairs, originals = make_pairs(8), make_pairs(8, seed=1).take(range(5, 8))
    recipe = TrainSettings(epochs=2, batch_size=8, warmup=0, flip=1.0)
    train(make_clip("rn"), Watched(pairs, originals), recipe, 0, Work(tmp_path, "x", 1e9))
    expected = torch.cat([pairs.images[:5], originals.images]).flip(3)
    (_, _, poisoned), (_, rows, clean) = seen
    assert torch.equal(clean, expected[rows]) and not torch.equal(poisoned.sum(), clean.sum())


def test_ssim_and_psnr():
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ssim(image, image), torch.ones(2))
    assert psnr(image, image).tolist() == [100, 100]
    flat = torch.full((1, 3, 32, 32), 0.5)
    assert psnr(flat, flat + 0.1).item() == pytest.approx(20, abs=1e-3)
    # Two flat pictures: only the comparison of their means is left.
    expected = (2 * 0.5 * 0.6 + 1e-4) / (0.5**2 + 0.6**2 + 1e-4)
    assert ssim(flat, flat + 0.1).item() == pytest.approx(expected, abs=1e-3)
    assert ssim(image, image.flip(3))[0] < 0.5
