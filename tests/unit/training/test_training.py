"""The training loop against plain references: rates, groups, one step of AdamW, accumulation, resuming."""

import copy
import json
import math
import os
import signal

import pytest
import torch

from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.base.seeds import derive
from antidote.data.access import DefenseData
from antidote.training import session
from antidote.training.batches import read_batch
from antidote.training.loop import _Run, train
from antidote.training.objectives import Contrastive, Objective, Views
from antidote.training.recipe import TrainSettings, learning_rate, parameter_groups
from antidote.training.session import Work
from antidote.training.vocabulary import CompactVocabulary

SEED = 3


def settings(**changes):
    return TrainSettings(**{"epochs": 2, "batch_size": 8, "lr": 0.01, "warmup": 2, **changes})


def work(tmp_path, identity="a run", every=1e9):
    return Work(tmp_path / "work", identity, every)


def weights(clip):
    return {name: value.clone() for name, value in clip.network.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def largest_difference(a, b):
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


class Stop(Exception):
    """Stands for a kill without warning."""


def objective(name, pairs, lexicon, recipe):
    """Return a defense's objective, or CLIP's own."""
    if name == "contrastive":
        return Contrastive(pairs)
    kind = method("defense", name)
    values = {"method": name, "training": recipe.model_dump()}
    if name == "ta_cleaner":
        values["samples_per_epoch"] = 9
    return kind(kind.Settings.read(values, "test"), SEED).objective(None, DefenseData(pairs=pairs, lexicon=lexicon))


def acting(base, step, act):
    """Make an objective act when it is asked for the loss of a step."""
    original = base.loss

    def loss(images, texts, scale, batch):
        if batch.step == step:
            act()
        return original(images, texts, scale, batch)

    base.loss = loss
    return base


# --- learning rate ---------------------------------------------------------------------------------------------------


def test_learning_rate_by_hand():
    long = settings(lr=1e-6, warmup=10_000)
    assert learning_rate(long, 3905, 19_530) == pytest.approx(3.906e-7, rel=1e-9)
    assert learning_rate(long, 0, 19_530) == pytest.approx(1e-10)
    assert learning_rate(long, 9_999, 19_530) == pytest.approx(1e-6)
    short = settings(lr=2.0, warmup=100)
    assert learning_rate(short, 100, 500) == pytest.approx(2.0)
    assert learning_rate(short, 300, 500) == pytest.approx(1.0)
    assert learning_rate(short, 200, 500) == pytest.approx(1 + math.sqrt(0.5))
    assert learning_rate(short, 499, 500) == pytest.approx(1 + math.cos(math.pi * 399 / 400))
    assert 0 < learning_rate(short, 499, 500) < 1e-4


def test_learning_rate_without_warmup_or_with_nothing_else():
    assert learning_rate(settings(lr=1.0, warmup=0), 0, 10) == 1.0
    rates = [learning_rate(settings(lr=1.0, warmup=50), step, 10) for step in range(10)]
    assert rates == pytest.approx([(step + 1) / 50 for step in range(10)])
    assert learning_rate(settings(lr=1.0, warmup=10), 9, 10) == 1.0


def test_a_constant_rate():
    flat = settings(lr=0.5, warmup=2, schedule="constant")
    assert [learning_rate(flat, step, 6) for step in range(6)] == [0.25] + [0.5] * 5


def test_the_released_schedules():
    """CleanCLIP's starts an epoch late, without warm-up, and rises at the end; PAR's goes to a tenth, then to 1e-9."""
    late = settings(lr=1.0, warmup=50, epochs=10, schedule="cleanclip")
    rates = [learning_rate(late, step, 15_620) for step in range(15_620)]
    assert rates[0] == pytest.approx(0.977, abs=2e-3) and min(rates) == rates[15_620 - 1_562]
    assert rates[-1] == pytest.approx(0.024, abs=2e-3)
    par = settings(lr=3e-5, epochs=2, schedule="par")
    rates = [learning_rate(par, step, 1000) for step in range(1000)]
    assert rates[0] == 3e-5 and rates[500] == pytest.approx(3e-6) and rates[250] == pytest.approx(1.65e-5)
    assert rates[-1] < 1e-8 and rates == sorted(rates, reverse=True)


# --- parameter groups ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_decay_follows_open_clips_rule(make_clip, kind):
    named = list(make_clip(kind).network.named_parameters())
    without = {
        name
        for name, p in named
        if p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
    }
    groups = parameter_groups(named, 0.3)
    names = {id(p): name for name, p in named}
    found = [{names[id(p)] for p in group["params"]} for group in groups]
    assert found == [without, {name for name, _ in named} - without]
    assert [group["weight_decay"] for group in groups] == [0.0, 0.3]
    assert {"logit_scale", "ln_final.weight", "transformer.resblocks.0.mlp.c_fc.bias"} <= found[0]
    assert {"token_embedding.weight", "positional_embedding", "text_projection"} <= found[1]
    assert {"vit": "visual.class_embedding", "rn": "visual.bn1.weight"}[kind] in found[0]
    assert {"vit": "visual.positional_embedding", "rn": "visual.conv1.weight"}[kind] in found[1]


def test_decay_goes_by_name_where_the_shape_says_otherwise():
    named = [(name, torch.zeros(2, 2)) for name in ("a.ln.weight", "bn.weight", "in_proj_bias", "logit_scale", "w")]
    assert [len(group["params"]) for group in parameter_groups(named, 0.1)] == [4, 1]


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


def test_steps_of_adamw_equal_a_plain_reference(make_clip, make_pairs, tmp_path):
    recipe = settings(epochs=2, lr=0.02, warmup=3, weight_decay=0.2, beta1=0.8, beta2=0.95, eps=1e-3)
    pairs, clip = make_pairs(20), make_clip("vit")
    start = weights(clip)
    network = copy.deepcopy(clip.network).double()
    tokens = clip.tokenize(pairs.captions)
    normalisation = [clip.config["preprocess_cfg"][key] for key in ("mean", "std")]
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in network.named_parameters()}
    for step in range(4):
        epoch, position = divmod(step, 2)
        generator = torch.Generator().manual_seed(derive(SEED, "order", epoch))
        rows = torch.randperm(20, generator=generator)[position * 8 : position * 8 + 8]
        network.zero_grad()
        reference_loss(network, pairs.images[rows], tokens[rows], normalisation).backward()
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
    tokens = clip.tokenize(pairs.captions)
    normalisation = [clip.config["preprocess_cfg"][key] for key in ("mean", "std")]
    speed = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for step in range(4):
        epoch, position = divmod(step, 2)
        generator = torch.Generator().manual_seed(derive(SEED, "order", epoch))
        rows = torch.randperm(20, generator=generator)[position * 8 : position * 8 + 8]
        network.zero_grad()
        reference_loss(network, pairs.images[rows], tokens[rows], normalisation).backward()
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


# --- logit scale, empty runs, errors ---------------------------------------------------------------------------------


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


# --- what must not change the result ---------------------------------------------------------------------------------


def test_accumulation_where_there_is_no_text(make_clip, make_pairs):
    """The gradients of an objective on pictures alone are those of one pass."""

    class Bright(Objective):
        def views(self, batch):
            return Views([batch.images], [])

        def loss(self, images, texts, scale, batch):
            assert texts == []
            return images[0][:, 0].mean(), {}

    pairs, found = make_pairs(16), []
    for accumulate in (1, 4):
        run = _Run(make_clip("vit"), Bright(pairs), settings(accumulate=accumulate), steps=2)
        run.begin_epoch(0, SEED, 16)
        run.optimise(read_batch(run.clip, pairs, run.order[:8], 0, 0, SEED))
        found.append(run.clip.network.visual.conv1.weight.grad.clone())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["contrastive", "ta_cleaner"])
@pytest.mark.parametrize("parts", [4, 50])
def test_accumulation_gives_the_gradients_of_one_pass(make_clip, make_pairs, scenes_lexicon, name, parts):
    """Also where a part has more pictures than texts, or is empty."""
    pairs, found = make_pairs(16), []
    for accumulate in (1, parts):
        recipe = settings(accumulate=accumulate)
        goal = objective(name, pairs, scenes_lexicon, recipe)
        run = _Run(make_clip("vit"), goal, recipe, steps=2)
        run.begin_epoch(0, SEED, 16)
        run.optimise(read_batch(run.clip, pairs, run.order[:8], 0, 0, SEED))
        found.append({n: p.grad.clone() for n, p in run.clip.network.named_parameters()})
    for n, expected in found[0].items():
        assert float(expected.abs().max()) > 0, n
        assert float((found[1][n] - expected).norm() / expected.norm()) < 1e-5, n


def test_accumulation_with_batch_norm_trains_and_is_reproducible(make_clip, make_pairs, tmp_path):
    ends = []
    for folder in ("a", "b"):
        clip = make_clip("rn")
        train(clip, Contrastive(make_pairs()), settings(accumulate=2), SEED, work(tmp_path / folder))
        ends.append(weights(clip))
    assert equal(*ends) and ends[0]["visual.bn1.running_mean"].isfinite().all()
    assert ends[0]["visual.bn1.num_batches_tracked"] == 4 * 2, "the first of the two passes leaves no trace"


@pytest.mark.parametrize("name", ["contrastive", "ta_cleaner"])
def test_compact_vocabulary_gives_the_same_weights(make_clip, make_pairs, scenes_lexicon, tmp_path, monkeypatch, name):
    """Also on the rows that no caption uses, which only decay, and more so at a high rate."""
    recipe, ends = settings(epochs=3, lr=0.03, weight_decay=0.5, eps=1e-3), []
    for folder, possible in (("compact", True), ("full", False)):
        monkeypatch.setattr(CompactVocabulary, "possible", staticmethod(lambda clip, possible=possible: possible))
        clip = make_clip("vit")
        start = clip.network.token_embedding.weight.detach().clone()
        train(clip, objective(name, make_pairs(), scenes_lexicon, recipe), recipe, SEED, work(tmp_path / folder))
        ends.append(weights(clip))
    assert largest_difference(*ends) < 2e-6
    unused = 40_000
    decay = math.prod(1 - 0.5 * learning_rate(recipe, step, 6) for step in range(6))
    assert decay < 0.95
    torch.testing.assert_close(ends[0]["token_embedding.weight"][unused], start[unused] * decay)


def test_frozen_words_do_not_decay(make_clip, make_pairs, tmp_path):
    clip, pairs = make_clip(), make_pairs()
    before = weights(clip)
    towers = Contrastive(pairs)
    towers.trained = lambda network: [
        (n, p) for n, p in network.named_parameters() if n.startswith(("visual", "logit_scale"))
    ]
    report = train(clip, towers, settings(weight_decay=0.5), SEED, work(tmp_path))
    after = weights(clip)
    text = {name for name in before if not name.startswith(("visual", "logit_scale"))}
    assert all(torch.equal(before[name], after[name]) for name in text)
    assert not torch.equal(before["visual.conv1.weight"], after["visual.conv1.weight"])
    assert report.trained_parameters == sum(before[n].numel() for n in before if n not in text)


def test_accumulation_with_a_frozen_tower(make_clip, make_pairs, tmp_path):
    clip = make_clip()
    before = weights(clip)
    goal = Contrastive(make_pairs())
    goal.trained = lambda network: [(n, p) for n, p in network.named_parameters() if n.startswith("visual")]
    train(clip, goal, settings(accumulate=2), SEED, work(tmp_path))
    after = weights(clip)
    assert torch.equal(before["text_projection"], after["text_projection"])
    assert not torch.equal(before["visual.conv1.weight"], after["visual.conv1.weight"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_trains_on_the_cpu(make_clip, make_pairs, tmp_path, precision):
    ends = []
    for kind in ("fp32", precision):
        clip = make_clip("rn")
        train(clip, Contrastive(make_pairs()), settings(precision=kind, lr=1e-3), SEED, work(tmp_path / kind))
        ends.append(weights(clip))
    floats = [name for name, value in ends[0].items() if value.is_floating_point()]
    assert all(ends[1][name].isfinite().all() and ends[1][name].dtype == torch.float32 for name in floats)
    difference = largest_difference(*({name: end[name] for name in floats} for end in ends))
    assert 0 < difference < 0.05


def test_a_step_that_overflows_in_fp16_is_left_out(make_clip, make_pairs):
    """By the scaler, which halves its scale; words that no caption uses must not decay then either."""
    recipe, pairs, clip = settings(precision="fp16", weight_decay=0.5), make_pairs(), make_clip()
    goal = Contrastive(pairs)
    original, factors = goal.loss, iter([1e35, 1.0])

    def loss(*given):
        value, terms = original(*given)
        return value * next(factors), terms

    goal.loss = loss
    run = _Run(clip, goal, recipe, steps=2)
    run.begin_epoch(0, SEED, len(pairs))
    before = clip.network.text_projection.clone()
    run.optimise(read_batch(clip, pairs, run.order[:8], 0, 0, SEED))
    assert torch.equal(before, clip.network.text_projection) and run.decay == 1.0
    run.optimise(read_batch(clip, pairs, run.order[8:16], 0, 1, SEED))
    assert not torch.equal(before, clip.network.text_projection)
    assert run.decay == pytest.approx(1 - 0.5 * learning_rate(recipe, 1, 2))


def test_gradient_clipping_bounds_the_step(make_clip, make_pairs):
    recipe = settings(max_grad_norm=1e-3)
    pairs, clip = make_pairs(), make_clip()
    run = _Run(clip, Contrastive(pairs), recipe, steps=2)
    run.begin_epoch(0, SEED, len(pairs))
    run.optimise(read_batch(clip, pairs, run.order[:8], 0, 0, SEED))
    total = math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in clip.network.parameters()))
    assert total == pytest.approx(1e-3, rel=1e-3)


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


# --- killed and resumed ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed():
    return {}


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "pairs_per_second"} for line in lines]


@pytest.mark.parametrize("step", [0, 2, 3, 5])
@pytest.mark.parametrize("name", ["contrastive", "cleanclip", "ta_cleaner"])
def test_a_terminated_run_ends_as_if_undisturbed(
    make_clip, make_pairs, scenes_lexicon, tmp_path, monkeypatch, undisturbed, name, step
):
    """SIGTERM during the first, a middle, an epoch's last or the run's last step; with log lines before and after."""
    monkeypatch.setattr(session, "LOG_EVERY", 2)
    recipe, pairs = settings(epochs=3), make_pairs()
    if name not in undisturbed:
        clip = make_clip("rn")
        train(clip, objective(name, pairs, scenes_lexicon, recipe), recipe, SEED, work(tmp_path / "whole"))
        undisturbed[name] = (weights(clip), log_of(tmp_path / "whole" / "work"))
    goal = objective(name, pairs, scenes_lexicon, recipe)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as exit:
        train(make_clip("rn"), acting(goal, step, lambda: os.kill(os.getpid(), signal.SIGTERM)), recipe, SEED,
              work(tmp_path))  # fmt: skip
    assert exit.value.code == 128 + signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    state = torch.load(tmp_path / "work" / "checkpoint.pt", weights_only=True)
    assert state["step"] == step + 1 and not (tmp_path / "work" / "train.jsonl").exists()
    clip = make_clip("rn")
    report = train(clip, objective(name, pairs, scenes_lexicon, recipe), recipe, SEED, work(tmp_path))
    assert report.steps == 6
    expected, lines = undisturbed[name]
    assert equal(weights(clip), expected) and log_of(tmp_path / "work") == lines


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_a_killed_run_ends_as_if_undisturbed(make_clip, make_pairs, tmp_path, every):
    """With a checkpoint after each step, and with none: from the start."""
    recipe, pairs = settings(epochs=3), make_pairs()
    whole, resumed = make_clip(), make_clip()
    train(whole, Contrastive(pairs), recipe, SEED, work(tmp_path / "whole"))

    def kill():
        raise Stop

    for step in (1, 4):
        with pytest.raises(Stop):
            train(make_clip(), acting(Contrastive(pairs), step, kill), recipe, SEED, work(tmp_path, every=every))
    assert (tmp_path / "work" / "checkpoint.pt").exists() == (every == 0)
    train(resumed, Contrastive(pairs), recipe, SEED, work(tmp_path, every=every))
    assert equal(weights(resumed), weights(whole))


def test_interrupting_from_the_keyboard_saves_too(make_clip, make_pairs, tmp_path):
    goal = acting(Contrastive(make_pairs()), 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as exit:
        train(make_clip(), goal, settings(), SEED, work(tmp_path))
    assert exit.value.code == 128 + signal.SIGINT and (tmp_path / "work" / "checkpoint.pt").is_file()


def test_a_checkpoint_of_another_run_is_not_used(make_clip, make_pairs, tmp_path):
    recipe, pairs = settings(), make_pairs()
    train(make_clip(), Contrastive(pairs), recipe, SEED, work(tmp_path, "other", every=0))
    assert (tmp_path / "work" / "checkpoint.pt").is_file()
    ends = []
    for folder in (tmp_path, tmp_path / "fresh"):
        clip = make_clip()
        train(clip, Contrastive(pairs), settings(lr=0.001), SEED, work(folder, "this"))
        ends.append(weights(clip))
    assert equal(*ends)


# --- how the networks compute ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["grad_checkpointing", "channels_last"])
@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_checkpointing_and_layout_change_no_more_than_rounding(make_clip, make_pairs, tmp_path, kind, change):
    ends = []
    for name, chosen in (("plain", False), ("changed", True)):
        clip, changes = make_clip(kind), {change: chosen}
        train(clip, Contrastive(make_pairs()), settings(eps=1e-3, **changes), SEED, work(tmp_path / name))
        ends.append(weights(clip))
    assert largest_difference(*ends) < (1e-6 if change == "grad_checkpointing" else 1e-4)
    assert not clip.network.transformer.grad_checkpointing, "the model is handed on as it came"


@pytest.mark.parametrize("kind,setting,expected", [("rn", None, True), ("vit", None, False), ("rn", False, False)])
def test_a_resnet_is_laid_out_channels_last_unless_the_recipe_says_otherwise(
    make_clip, make_pairs, kind, setting, expected
):
    clip = make_clip(kind)
    _Run(clip, Contrastive(make_pairs()), settings(channels_last=setting), steps=2)
    layer = clip.network.visual.conv2 if kind == "rn" else clip.network.visual.conv1
    assert layer.weight.is_contiguous(memory_format=torch.channels_last) == expected
    assert layer.weight.is_contiguous() != expected


def test_checkpointing_encodes_again(make_clip, make_pairs):
    clip, calls = make_clip("vit"), []
    clip.network.visual.transformer.resblocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    pairs = make_pairs()
    run = _Run(clip, Contrastive(pairs), settings(grad_checkpointing=True), steps=2)
    clip.network.train()
    run.optimise(read_batch(clip, pairs, torch.arange(8), 0, 0, SEED))
    assert len(calls) == 2


def test_compiling_trains_and_leaves_no_trace(make_clip, make_pairs, tmp_path, monkeypatch):
    """With a back end that needs no C compiler."""
    compiled = []
    original = torch.nn.Module.compile

    def compile(module, **more):
        compiled.append(type(module).__name__)
        original(module, backend="eager", **more)

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    ends = []
    for name in ("plain", "compile"):
        clip = make_clip("vit")
        train(clip, Contrastive(make_pairs()), settings(eps=1e-3, compile=name == "compile"), SEED,
              work(tmp_path / name))  # fmt: skip
        ends.append(weights(clip))
    assert compiled == ["VisionTransformer", "Transformer"]
    assert largest_difference(*ends) < 1e-5 and clip.network.visual._compiled_call_impl is None


@pytest.mark.parametrize(
    "error,where",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the GPU's memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "memory"),
    ],
)
def test_a_lack_of_memory_is_one_line_of_advice(make_clip, make_pairs, tmp_path, error, where):
    def fail():
        raise error

    with pytest.raises(
        UserError, match=f"^batch_size: a step needs more than {where}; the same result in less"
    ) as told:
        train(make_clip(), acting(Contrastive(make_pairs()), 1, fail), settings(), SEED, work(tmp_path))
    assert "accumulate" in str(told.value) and "grad_checkpointing" in str(told.value)


def test_a_compiler_that_is_missing_is_one_line(make_clip, make_pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nowhere/g++"))
    with pytest.raises(UserError, match=r"^compile: torch.compile cannot do it \(.*No working C\+\+ compiler"):
        train(make_clip("vit"), Contrastive(make_pairs()), settings(compile=True), SEED, work(tmp_path))


def test_other_faults_stay_what_they_are(make_clip, make_pairs, tmp_path):
    def fail():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        train(make_clip(), acting(Contrastive(make_pairs()), 1, fail), settings(), SEED, work(tmp_path))
