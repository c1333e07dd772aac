"""The training loop: its steps against plain references, its bounds, its errors, its log, its random draws."""

import copy
import json
import math

import pytest
import torch
from loop_parts import SEED, equal, settings, weights, work

from antidote.base.errors import UserError
from antidote.base.seeds import derive
from antidote.training.batches import read_batch
from antidote.training.loop import _Run, train
from antidote.training.objectives import Contrastive
from antidote.training.recipe import learning_rate
from antidote.training.session import Work

# --- one step against a float64 reference ----------------------------------------------------------------------------


def reference_loss(network, images, tokens, normalisation):
    """CLIP's loss in float64, row by row."""
    mean, std = (torch.tensor(values, dtype=torch.double).view(1, 3, 1, 1) for values in normalisation)
    image = network.encode_image((images.double() / 255 - mean) / std)
    text = network.encode_text(tokens)
    image = image / image.norm(dim=1, keepdim=True)
    text = text / text.norm(dim=1, keepdim=True)
    scale, loss = network.logit_scale.exp(), 0.0
    for i in range(len(image)):
        to_texts = torch.stack([scale * (image[i] * t).sum() for t in text])
        to_images = torch.stack([scale * (text[i] * v).sum() for v in image])
        loss = loss - to_texts[i] + to_texts.exp().sum().log() - to_images[i] + to_images.exp().sum().log()
    return loss / (2 * len(image))


def reference_gradients(network, clip, pairs):
    """Yield each of four steps, batches of 8 of 20 pairs, after its gradients are in the network."""
    tokens = clip.tokenize(pairs.captions)
    normalisation = [clip.config["preprocess_cfg"][key] for key in ("mean", "std")]
    for step in range(4):
        epoch, position = divmod(step, 2)
        generator = torch.Generator().manual_seed(derive(SEED, "order", epoch))
        rows = torch.randperm(20, generator=generator)[position * 8 : position * 8 + 8]
        network.zero_grad()
        reference_loss(network, pairs.images[rows], tokens[rows], normalisation).backward()
        yield step


def test_steps_of_adamw_equal_a_plain_reference(make_clip, make_pairs, tmp_path):
    recipe = settings(epochs=2, lr=0.02, warmup=3, weight_decay=0.2, beta1=0.8, beta2=0.95, eps=1e-3)
    pairs, clip = make_pairs(20), make_clip("vit")
    start = weights(clip)
    network = copy.deepcopy(clip.network).double()
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in network.named_parameters()}
    for step in reference_gradients(network, clip, pairs):
        rate = 0.02 * (step + 1) / 3 if step < 3 else 0.02
        with torch.no_grad():
            for name, p in network.named_parameters():
                first, second = moments[name]
                first.mul_(0.8).add_(0.2 * p.grad)
                second.mul_(0.95).add_(0.05 * p.grad**2)
                if p.ndim >= 2 and not any(part in name for part in ("bn", "ln", "bias", "logit_scale")):
                    p.mul_(1 - rate * 0.2)
                estimate = first / (1 - 0.8 ** (step + 1))
                p.sub_(rate * estimate / ((second / (1 - 0.95 ** (step + 1))).sqrt() + 1e-3))
            network.logit_scale.clamp_(0, math.log(100))
    report = train(clip, Contrastive(pairs), recipe, SEED, work(tmp_path))
    after = weights(clip)
    assert (report.steps, report.pairs) == (4, 20)
    assert report.trained_parameters == sum(value.numel() for value in start.values())
    for name, expected in network.state_dict().items():
        moved, should = after[name].double() - start[name].double(), expected - start[name].double()
        assert float(should.abs().max()) > 1e-4, name
        assert float((moved - should).norm() / should.norm()) < 2e-4, name
        torch.testing.assert_close(after[name].double(), expected, rtol=1e-5, atol=1e-5)


def test_steps_of_sgd_equal_a_plain_reference(make_clip, make_pairs, tmp_path):
    """v = m v + g + w p, p = p - rate v; also for words that no caption uses, which AdamW's short cut would miss."""
    recipe = settings(lr=0.05, warmup=0, schedule="constant", optimizer="sgd", momentum=0.8, weight_decay=0.3)
    pairs, clip = make_pairs(20), make_clip("vit")
    network = copy.deepcopy(clip.network).double()
    speed = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for _ in reference_gradients(network, clip, pairs):
        with torch.no_grad():
            for name, p in network.named_parameters():
                plain = p.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
                speed[name].mul_(0.8).add_(p.grad + (0 if plain else 0.3) * p)
                p.sub_(0.05 * speed[name])
            network.logit_scale.clamp_(0, math.log(100))
    train(clip, Contrastive(pairs), recipe, SEED, work(tmp_path))
    after = weights(clip)
    for name, expected in network.state_dict().items():
        torch.testing.assert_close(after[name].double(), expected, rtol=1e-4, atol=1e-6, msg=name)


def test_weights_and_names_are_those_of_the_network_again(make_clip, make_pairs, tmp_path):
    clip = make_clip("rn")
    before = weights(clip)
    train(clip, Contrastive(make_pairs()), settings(), SEED, work(tmp_path))
    after = weights(clip)
    assert after.keys() == before.keys() and not clip.network.training
    assert all(after[name].shape == before[name].shape for name in after)
    assert clip.encode_text(["words that no caption holds: xylophone"]).isfinite().all()


# --- logit scale, clipping, empty runs, errors -----------------------------------------------------------------------


@pytest.mark.parametrize(("start", "bound", "sign"), [(math.log(100), math.log(100), -1), (0.0, 0.0, 1)])
def test_logit_scale_stays_in_its_bounds(make_clip, make_pairs, tmp_path, start, bound, sign):
    """A loss that pushes the scale outwards leaves it at the bound."""
    clip = make_clip()
    with torch.no_grad():
        clip.network.logit_scale.fill_(start)
    pushing = Contrastive(make_pairs())
    pushing.loss = lambda images, texts, scale, batch: (sign * scale + 0 * images[0].sum() + 0 * texts[0].sum(), {})
    train(clip, pushing, settings(warmup=0, lr=0.5), SEED, work(tmp_path))
    assert float(clip.network.logit_scale.detach()) == pytest.approx(bound, abs=1e-6)


def test_gradient_clipping_bounds_the_step(make_clip, make_pairs):
    recipe = settings(max_grad_norm=1e-3)
    pairs, clip = make_pairs(), make_clip()
    run = _Run(clip, Contrastive(pairs), recipe, steps=2)
    run.begin_epoch(0, SEED)
    run.optimise(read_batch(clip, pairs, run.order[:8], 0, 0, SEED))
    total = math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in clip.network.parameters()))
    assert total == pytest.approx(1e-3, rel=1e-3)


def test_no_epoch_leaves_the_model_as_it_is(make_clip, make_pairs, tmp_path):
    clip = make_clip()
    before = weights(clip)
    report = train(clip, Contrastive(make_pairs(4)), settings(epochs=0), SEED, work(tmp_path))
    assert equal(before, weights(clip)) and report.steps == 0
    assert (tmp_path / "work" / "train.jsonl").read_text() == ""


def test_fewer_pairs_than_a_batch(make_clip, make_pairs, tmp_path):
    with pytest.raises(UserError, match=r"^batch_size: 8 is more than the 7 pairs there are to train on$"):
        train(make_clip(), Contrastive(make_pairs(7)), settings(), SEED, work(tmp_path))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_the_rate(make_clip, make_pairs, tmp_path, value):
    broken = Contrastive(make_pairs(8))
    original = broken.loss
    broken.loss = lambda *given: (original(*given)[0] * value, {})
    with pytest.raises(UserError, match=r"^lr: the loss is (nan|inf) at step 1; a lower rate or fp32 may help$"):
        train(make_clip(), broken, settings(epochs=1), SEED, work(tmp_path))


def test_a_rate_that_is_far_too_high_is_told(make_clip, make_pairs, tmp_path):
    with pytest.raises(UserError, match=r"^lr: the loss is"):
        train(make_clip(), Contrastive(make_pairs()), settings(lr=1e30, epochs=6), SEED, work(tmp_path))


# --- the log ---------------------------------------------------------------------------------------------------------


def test_the_log_tells_what_was_done(make_clip, make_pairs, tmp_path):
    recipe = settings(epochs=6)
    train(make_clip(), Contrastive(make_pairs()), recipe, SEED, work(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "work" / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 12] and [line["epoch"] for line in lines] == [4, 5]
    assert lines[0]["lr"] == pytest.approx(learning_rate(recipe, 9, 12))
    assert {"loss", "contrastive", "logit_scale", "pairs_per_second"} <= lines[0].keys()


def test_a_term_that_few_steps_have_is_in_the_log(make_clip, make_pairs, tmp_path):
    """As TA-Cleaner's, whose steps a line of every tenth would miss; with its last value since the line before."""

    class Rare(Contrastive):
        def loss(self, images, texts, scale, batch):
            loss, terms = super().loss(images, texts, scale, batch)
            return loss, terms if batch.step not in (3, 5) else {**terms, "rare": loss * 0 + batch.step}

    recipe = settings(batch_size=8, epochs=6)
    train(make_clip(), Rare(make_pairs(16)), recipe, SEED, Work(tmp_path, "x"))
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [line.get("rare") for line in lines] == [5.0, None]


# --- random draws ----------------------------------------------------------------------------------------------------


def test_every_step_draws_anew_and_a_step_always_the_same(make_clip, make_pairs):
    """Both from the batch's own generator and from torch's global one, which AutoAugment uses."""
    pairs, drawn = make_pairs(8), {}
    for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0), (0, 1)):
        batch = read_batch(make_clip(), pairs, torch.tensor([5, 2]), 0, step, seed)
        draws = batch.rng.random(), torch.rand(1).item()
        assert drawn.setdefault((seed, step), draws) == draws
        assert torch.equal(batch.images, pairs.images[[5, 2]]) and batch.captions == [
            pairs.captions[5], pairs.captions[2]
        ]  # fmt: skip
    assert len(set(drawn.values())) == 3


def test_another_seed_gives_other_weights(make_clip, make_pairs, tmp_path):
    ends = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        clip = make_clip()
        train(clip, Contrastive(make_pairs()), settings(), seed, work(tmp_path / folder))
        ends.append(weights(clip))
    assert equal(ends[0], ends[1]) and not equal(ends[0], ends[2])
