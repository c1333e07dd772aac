"""CLIP's own loss against its formula, and the defaults of every objective."""

import random
from contextlib import contextmanager

import pytest
import torch

from antidote.training import parallel
from antidote.training.loop import train
from antidote.training.objectives import Batch, Contrastive, Encoding, Objective
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work


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
    views = goal.views(batch(pairs))
    assert torch.equal(views.images[0], pairs.images[:3]) and views.texts == [pairs.captions[:3]] and views.kept is None
    assert [name for name, _ in goal.trained(network)] == [name for name, _ in network.named_parameters()]
    assert list(goal.texts()) == pairs.captions and goal.state() == {}
    with pytest.raises(NotImplementedError):
        goal.loss([], [], None, None)


def test_a_frozen_model_computes_as_the_run_does(make_clip, make_pairs):
    """In its precision, and in its parts; the distance of two models holds no difference of precisions."""
    clip, pairs, goal = make_clip(), make_pairs(7), Objective(make_pairs(7))
    whole = clip.encode_image(pairs.images), clip.encode_text(pairs.captions)
    goal.encoding = Encoding("bf16", 1)
    with clip.autocast("bf16"):
        half = clip.encode_image(pairs.images)
    found, none = goal.encode_frozen(clip.frozen(), pairs.images)
    assert torch.equal(found, half) and not torch.equal(found, whole[0]) and none is None
    assert not found.requires_grad
    for parts in (3, 50):
        goal.encoding = Encoding("fp32", parts)
        for one, other in zip(goal.encode_frozen(clip, pairs.images, pairs.captions), whole, strict=True):
            torch.testing.assert_close(one, other)


def test_on_a_cpu_a_narrow_text_tower_stays_in_fp32(make_clip, make_pairs):
    clip, pairs = make_clip(), make_pairs(7)
    exact = clip.encode_text(pairs.captions)
    with clip.autocast("bf16"):
        rounded = clip.encode_text(pairs.captions)
    assert not torch.equal(rounded, exact)
    image, text = Encoding("bf16").encode(clip, pairs.images, pairs.captions)
    assert torch.equal(text, exact) and not torch.equal(image, clip.encode_image(pairs.images))
    clip.config["model_cfg"]["text_cfg"]["width"] = 256
    assert torch.equal(Encoding("bf16").encode(clip, None, pairs.captions)[1], rounded)


def test_a_pass_within_the_loss_has_the_gradients_of_one_piece(make_clip, make_pairs):
    """Encoded in parts it computes again in the backward pass, under the same hook, which knows the rows of the part."""
    pairs, gradients, seen = make_pairs(6), [], []
    for parts in (1, 3):
        clip, goal = make_clip(), Objective(pairs)
        goal.encoding = Encoding("fp32", parts)
        shifts = torch.arange(6.0)[:, None, None]

        @contextmanager
        def shifted(rows, clip=clip, parts=parts, shifts=shifts):
            def shift(module, inputs, output):
                seen.append((parts, len(output)))
                return output + shifts[rows]

            handle = clip.network.visual.ln_pre.register_forward_hook(shift)
            try:
                yield
            finally:
                handle.remove()

        images, texts = goal.encode(clip, pairs.images, pairs.captions, within=shifted)
        (images[:, 0] * texts[:, 1]).sum().backward()
        gradients.append(clip.network.visual.conv1.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)
    assert seen == [(1, 6), *[(3, 2)] * 6]


def test_each_process_encodes_its_part_of_the_frozen_pass(make_clip, make_pairs, monkeypatch):
    class Whole(Objective):
        parallel = "views"

    clip, pairs, encoded = make_clip(), make_pairs(6), []
    monkeypatch.setattr(parallel, "size", lambda: 2)
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    monkeypatch.setattr(parallel, "gathered", lambda features, total: encoded.append((len(features), total)))
    Whole(pairs).encode_frozen(clip, pairs.images, pairs.captions[:5])
    assert encoded == [(3, 6), (2, 5)]


def test_a_frozen_copy_shares_what_was_tokenised(make_clip):
    clip = make_clip()
    frozen = clip.frozen()
    clip.tokenize(["a red banana"])
    assert "a red banana" in frozen._tokens and frozen.network is not clip.network
    assert not any(p.requires_grad for p in frozen.network.parameters())


@pytest.mark.parametrize(
    "wrong", [lambda x: x, lambda x: x.sum(), lambda x: (x.sum(), {"x": x}), lambda x: (x.sum(), {"x": 1.0})]
)
def test_a_loss_of_another_form_is_named(make_clip, make_pairs, tmp_path, wrong):
    class Odd(Contrastive):
        def loss(self, images, texts, scale, batch):
            return wrong(images[0].sum(dim=1))

    recipe = TrainSettings(epochs=1, batch_size=8, warmup=0)
    with pytest.raises(TypeError, match=r"^Odd\.loss: should return a scalar tensor and a dict of such$"):
        train(make_clip("rn"), Odd(make_pairs(8)), recipe, 0, Work(tmp_path, "x", 1e9))
