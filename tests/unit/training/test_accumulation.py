"""Gradients accumulated over the parts of a batch equal those of one pass."""

import pytest
import torch
from loop_parts import SEED, equal, objective, settings, weights, work

from antidote.base.errors import UserError
from antidote.training.batches import read_batch
from antidote.training.loop import _Run, train
from antidote.training.objectives import Contrastive, Encoding, Objective, Views


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
        run.begin_epoch(0, SEED)
        run.optimise(read_batch(run.clip, pairs, run.order[:8], 0, 0, SEED))
        found.append(run.clip.network.visual.conv1.weight.grad.clone())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["contrastive", "ta_cleaner", "beear_clip"])
@pytest.mark.parametrize("parts", [4, 50])
def test_accumulation_gives_the_gradients_of_one_pass(make_clip, make_pairs, scenes_lexicon, name, parts):
    """Also where a part has more pictures than texts, or is empty."""
    pairs, found = make_pairs(16), []
    for accumulate in (1, parts):
        recipe = settings(accumulate=accumulate)
        clip = make_clip("vit")
        run = _Run(clip, objective(name, pairs, scenes_lexicon, recipe, clip), recipe, steps=2)
        run.begin_epoch(0, SEED)
        run.optimise(read_batch(run.clip, pairs, run.order[:8], 0, 0, SEED))
        found.append({n: p.grad.clone() for n, p in run.clip.network.named_parameters()})
    for n, expected in found[0].items():
        assert float(expected.abs().max()) > 0, n
        assert float((found[1][n] - expected).norm() / expected.norm()) < 1e-5, n


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_beear_encodes_no_more_than_a_part_at_once(make_clip, make_pairs, scenes_lexicon, kind):
    """Pictures under δ, those of the inner problem, and those of the frozen model."""
    clip, pairs, recipe, sizes = make_clip(kind), make_pairs(16), settings(accumulate=4), {}
    goal = objective("beear_clip", pairs, scenes_lexicon, recipe, clip)
    for name, network in (("trained", clip.network), ("frozen", goal.frozen.network)):
        sizes[name] = []
        network.visual.conv1.register_forward_pre_hook(lambda _, given, found=sizes[name]: found.append(len(given[0])))
    clip.network.train()
    run = _Run(clip, goal, recipe, steps=2)
    run.begin_epoch(0, SEED)
    run.optimise(read_batch(clip, pairs, run.order[:8], 0, 0, SEED))
    inner = [2, 2, 1, 1] + 2 * 2 * [2, 2, 1, 1]  # 6 pictures: their clean features; two steps, forward and again
    outer = 4 * 4 * [2]  # 8 pictures as they are and under δ: forward and again
    assert sorted(sizes["trained"]) == sorted(2 * inner + outer) and sizes["frozen"] == 4 * [2]
    assert all(layer.training for layer in clip.network.modules())


def test_beear_finds_the_same_perturbations_in_parts(make_clip, make_pairs, scenes_lexicon):
    pairs, found = make_pairs(16), []
    for parts in (1, 4):
        clip = make_clip("vit")
        goal = objective("beear_clip", pairs, scenes_lexicon, settings(), clip)
        goal.encoding = Encoding("fp32", parts)
        goal.begin_round(0)
        found.append(goal.deltas)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def test_accumulation_with_batch_norm_trains_and_is_reproducible(make_clip, make_pairs, tmp_path):
    ends = []
    for folder in ("a", "b"):
        clip = make_clip("rn")
        train(clip, Contrastive(make_pairs()), settings(accumulate=2), SEED, work(tmp_path / folder))
        ends.append(weights(clip))
    assert equal(*ends) and ends[0]["visual.bn1.running_mean"].isfinite().all()
    assert ends[0]["visual.bn1.num_batches_tracked"] == 4 * 2, "the first of the two passes leaves no trace"


def test_accumulation_with_a_frozen_tower(make_clip, make_pairs, tmp_path):
    clip = make_clip()
    before = weights(clip)
    goal = Contrastive(make_pairs())
    goal.trained = lambda network: [(n, p) for n, p in network.named_parameters() if n.startswith("visual")]
    train(clip, goal, settings(accumulate=2), SEED, work(tmp_path))
    after = weights(clip)
    assert torch.equal(before["text_projection"], after["text_projection"])
    assert not torch.equal(before["visual.conv1.weight"], after["visual.conv1.weight"])


def test_a_part_of_one_picture_is_one_line_of_advice_where_batch_norm_needs_more(make_clip, make_pairs, tmp_path):
    """The last feature map of a small ResNet is a single pixel."""
    pairs, clip = make_pairs(8), make_clip("rn")
    with pytest.raises(UserError, match=r"^accumulate: a part of the batch is a single picture"):
        train(clip, Contrastive(pairs), settings(batch_size=4, accumulate=4), SEED, work(tmp_path))
