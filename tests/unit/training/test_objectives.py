"""CLIP's own loss against its formula, and the defaults of every objective."""

import random

import pytest
import torch

from antidote.training.objectives import Batch, Contrastive, Objective


def features(count, width=6, seed=0, dtype=torch.double):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, width, generator=generator, dtype=torch.double)
    return (values / values.norm(dim=1, keepdim=True)).to(dtype)


def slow_cross_entropy(rows, columns, scale):
    """Return the mean over i of -log e^{s r_i c_i} / sum_j e^{s r_i c_j}."""
    total = 0.0
    for i, row in enumerate(rows):
        exponents = [float(scale) * float((row * column).sum()) for column in columns]
        total -= exponents[i] - torch.tensor(exponents, dtype=torch.double).exp().sum().log().item()
    return total / len(rows)


def batch(pairs, rows=(0, 1, 2)):
    rows = torch.tensor(rows)
    captions = [pairs.captions[row] for row in rows]
    return Batch(pairs.images[rows], captions, rows, epoch=0, step=0, rng=random.Random(0))


def test_contrastive_loss_equals_the_formula(make_pairs):
    image, text, scale = features(7), features(7, seed=1), torch.tensor(14.3, dtype=torch.double)
    loss, terms = Contrastive(make_pairs()).loss([image], [text], scale, None)
    expected = (slow_cross_entropy(image, text, scale) + slow_cross_entropy(text, image, scale)) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-9) and set(terms) == {"contrastive"}


def test_contrastive_loss_is_symmetric_and_has_no_smoothing(make_pairs):
    """At a large scale, matching pairs cost nothing."""
    image, loss = features(5), Contrastive(make_pairs()).loss
    text = features(5, seed=3)
    scale = torch.tensor(10.0, dtype=torch.double)
    assert loss([image], [text], scale, None)[0] == pytest.approx(loss([text], [image], scale, None)[0].item())
    assert loss([image], [image], torch.tensor(1e4, dtype=torch.double), None)[0].item() == pytest.approx(0, abs=1e-9)


def test_the_scale_is_learned(make_pairs):
    scale = torch.tensor(5.0, dtype=torch.double, requires_grad=True)
    Contrastive(make_pairs()).loss([features(4)], [features(4, seed=1)], scale, None)[0].backward()
    assert scale.grad.abs() > 0


def test_defaults(make_clip, make_pairs):
    """One view of each side, every parameter, all captions announced, nothing to keep for a resumed run."""
    pairs, network = make_pairs(5), make_clip().network
    goal = Objective(pairs)
    images, texts = goal.views(batch(pairs))
    assert torch.equal(images[0], pairs.images[:3]) and texts == [pairs.captions[:3]]
    assert [name for name, _ in goal.trained(network)] == [name for name, _ in network.named_parameters()]
    assert list(goal.texts()) == pairs.captions and goal.state() == {}
    with pytest.raises(NotImplementedError):
        goal.loss([], [], None, None)
