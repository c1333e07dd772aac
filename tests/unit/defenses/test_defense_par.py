"""PAR's loss and augmentation against plain references; the two schedules that other codes use."""

import random
import re

import pytest
import torch
import yaml
from references import clip_loss

from antidote.data.access import DefenseData
from antidote.defenses import par
from antidote.defenses.par import PAR, PARSettings, light_augmentation
from antidote.training.objectives import Batch, Views
from antidote.training.recipe import TrainSettings, learning_rate


def features(count, seed, near=None, step=0.3):
    drawn = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    values = drawn if near is None else near + step * drawn
    return values / values.norm(dim=1, keepdim=True)


def seen(images, texts):
    """Return a batch of which the frozen model has these features."""
    return Batch(None, [], None, 0, 0, random.Random(0), Views([], [], kept=(images, texts)))


def moved(now, before):
    return sum(float(((a - b) ** 2).sum()) for a, b in zip(now, before, strict=True)) / len(now)


@pytest.mark.parametrize(("step", "threshold"), [(0.3, 2.15), (0.3, 1e-4), (0.3, 0.4)])
def test_the_loss_equals_the_formula(make_clip, make_pairs, step, threshold):
    goal = PAR(PARSettings(threshold=threshold), 0).objective(make_clip("vit"), DefenseData(pairs=make_pairs(8)))
    old_images, old_texts = features(5, 0), features(5, 1)
    images, texts = features(5, 2, old_images, step), features(5, 3, old_texts, 2 * step)
    batch = seen(old_images, old_texts)
    loss, _ = goal.loss([images], [texts], torch.tensor(7.0, dtype=torch.double), batch)
    distances = moved(images, old_images), moved(texts, old_texts)
    wanted = clip_loss(images, texts, 7.0) - sum(d for d in distances if d <= threshold) / 2
    assert loss.item() == pytest.approx(wanted, abs=1e-6)


def test_above_the_threshold_a_term_has_no_gradient(make_clip, make_pairs):
    goal = PAR(PARSettings(threshold=0.0), 0).objective(make_clip("vit"), DefenseData(pairs=make_pairs(8)))
    images, texts = features(4, 0).requires_grad_(), features(4, 1).requires_grad_()
    batch = seen(features(4, 2), features(4, 3))
    found = torch.autograd.grad(goal.loss([images], [texts], torch.tensor(2.0), batch)[0], [images, texts])
    plain = torch.autograd.grad(goal._clip_loss(images, texts, torch.tensor(2.0)), [images, texts])
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_both_models_see_the_same_pictures_and_the_scale_is_not_trained(make_clip, make_pairs):
    clip, pairs = make_clip("vit"), make_pairs(6)
    goal = PAR(PARSettings(), 0).objective(clip, DefenseData(pairs=pairs))
    rows = torch.arange(6)
    views = goal.views(Batch(pairs.images, pairs.captions, rows, 0, 0, random.Random(0)))
    torch.testing.assert_close(views.kept[0], clip.encode_image(*views.images))
    names = {name for name, _ in goal.trained(clip.network)}
    assert {name for name, _ in clip.network.named_parameters()} - names == {"logit_scale"}


def test_the_light_augmentation():
    """Noise only brightens, on about half of the pictures; so with a square of 0.5 to 1 % in the mean colour."""
    torch.manual_seed(0)
    images, mean = torch.full((400, 3, 64, 64), 0.5), torch.tensor([0.1, 0.2, 0.3])
    found = light_augmentation(images, mean, PARSettings())
    squares = (found == mean.view(1, 3, 1, 1)).all(dim=1).sum(dim=(1, 2))
    with_square = squares > 0
    assert 160 < with_square.sum() < 240
    assert ((squares[with_square] >= 16) & (squares[with_square] <= 49)).all()  # 20 to 41 pixels, whole sides
    outside = found.masked_fill((found == mean.view(1, 3, 1, 1)).all(dim=1, keepdim=True), 0.5)
    assert outside.min() >= 0.5 and outside.max() <= 1
    noisy = (outside > 0.5).flatten(1).any(dim=1)
    assert 160 < noisy.sum() < 240


def test_pars_schedule():
    """Linear from the rate to a tenth of it over the first half, then a cosine to 1e-9."""
    settings = TrainSettings(lr=3e-5, schedule="par", warmup=50)
    assert learning_rate(settings, 0, 100) == pytest.approx(3e-5)
    assert learning_rate(settings, 25, 100) == pytest.approx(3e-5 - 0.5 * 2.7e-5)
    assert learning_rate(settings, 50, 100) == pytest.approx(3e-6)
    assert learning_rate(settings, 75, 100) == pytest.approx((3e-6 + 1e-9) / 2)
    assert learning_rate(settings, 100, 100) == pytest.approx(1e-9)


def test_cleanclips_released_schedule():
    """100K pairs, batch 64, 10 epochs: starts at 0.976 of the rate and rises from 0 to 0.024 in the last epoch."""
    settings = TrainSettings(lr=1.0, schedule="cleanclip", warmup=50, epochs=10)
    rates = [learning_rate(settings, step, 15_620) for step in range(15_620)]
    assert rates[0] == pytest.approx(0.976, abs=1e-3)
    assert min(rates) == pytest.approx(0, abs=1e-6) and rates.index(min(rates)) == pytest.approx(14_058, abs=1)
    assert rates[-1] == pytest.approx(0.024, abs=1e-3)


def test_the_documented_settings_are_the_released_scripts_training():
    (text,) = re.findall(r"`(training: .*?)`", par.__doc__)
    recipe = PARSettings.read({"method": "par", **yaml.safe_load(text)}, "the docstring").training
    assert recipe.batch_size == 4 * 512 and 250_000 // recipe.batch_size * recipe.epochs == 244
    assert recipe.schedule == "par" and recipe.lr == PARSettings().training.lr
