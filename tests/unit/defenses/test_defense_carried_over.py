"""BEEAR-CLIP and IMBERT-CLIP: the perturbation, both losses and the masking against plain references."""

import copy
import random

import pytest
import torch

from antidote.base.errors import UserError
from antidote.data.access import DefenseData
from antidote.defenses import beear_clip
from antidote.defenses.imbert_clip import IMBERT, IMBERTSettings
from antidote.training.objectives import Batch
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work


def objective(clip, pairs, **values):
    settings = beear_clip.BEEARSettings(training=TrainSettings(epochs=1, batch_size=4), inner_batch=6, **values)
    return beear_clip.BEEAR(settings, 0).objective(clip, DefenseData(pairs=pairs))


def test_the_drift_equals_the_formula():
    z, clean = torch.randn(5, 7, dtype=torch.double), torch.randn(5, 7, dtype=torch.double)
    z, clean = z / z.norm(dim=1, keepdim=True), clean / clean.norm(dim=1, keepdim=True)
    alike = sum(float(z[i] @ z[j]) for i in range(5) for j in range(5) if i != j) / 20
    away = sum(float(a @ b) for a, b in zip(z, clean, strict=True)) / 5
    assert float(beear_clip.drifted(z, clean)) == pytest.approx(alike - away, abs=1e-6)


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_the_perturbation_raises_the_drift_within_its_norm(make_clip, make_pairs, kind):
    clip, pairs = make_clip(kind), make_pairs(6)
    goal = objective(clip, pairs, steps=20)
    before = copy.deepcopy(clip.network.state_dict())
    goal.begin_epoch(0)
    after = clip.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.requires_grad for p in clip.network.parameters()) and clip.network.training
    clip.network.eval()
    clean, size, width = beear_clip.hidden_states(clip, goal.block, pairs.images)
    assert goal.delta.shape == (width,) and float(goal.delta.norm()) <= 0.5 * float(size) * 1.0001
    with torch.no_grad(), beear_clip.perturbed(goal.block, goal.delta):
        moved = beear_clip.drifted(clip.encode_image(pairs.images), clean)
    assert moved > beear_clip.drifted(clean, clean)
    torch.testing.assert_close(clip.encode_image(pairs.images), clean), "the hook is gone"


def test_the_outer_loss_equals_the_formula(make_clip, make_pairs):
    clip, pairs = make_clip("vit"), make_pairs(6)
    goal = objective(clip, pairs, perturbed_weight=0.5, clean_weight=2.0)
    goal.begin_epoch(0)
    clip.network.eval()
    with torch.no_grad():
        clip.network.visual.proj.mul_(1.0).add_(0.1 * torch.randn_like(clip.network.visual.proj))
        images, texts = clip.encode_image(pairs.images), clip.encode_text(pairs.captions)
        batch = Batch(pairs.images, pairs.captions, torch.arange(6), 0, 0, random.Random(0))
        loss, terms = goal.loss([images], [texts], torch.tensor(5.0), batch)
        with beear_clip.perturbed(goal.block, goal.delta):
            under = clip.encode_image(pairs.images)
        before = make_clip("vit").encode_image(pairs.images)
    apart = [sum(1 - float(a @ b) for a, b in zip(f, before, strict=True)) / 6 for f in (under, images)]
    wanted = float(terms["contrastive"]) + 0.5 * apart[0] + 2 * apart[1]
    assert float(loss) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_the_perturbation_reaches_the_features_while_training(make_clip, make_pairs, kind):
    """By the statistics of the batch, batch norm would take it away."""
    clip, pairs = make_clip(kind), make_pairs(6)
    goal = objective(clip, pairs, epsilon=5.0)
    goal.begin_epoch(0)
    assert clip.network.training
    statistics = {name: value.clone() for name, value in clip.network.named_buffers()}
    images, texts = clip.encode_image(pairs.images), clip.encode_text(pairs.captions)
    moved_by_clean = {name: value.clone() for name, value in clip.network.named_buffers()}
    batch = Batch(pairs.images, pairs.captions, torch.arange(6), 0, 0, random.Random(0))
    terms = [goal.loss([images.detach()], [texts], torch.tensor(5.0), batch)[1] for _ in range(2)]
    assert abs((terms[0]["perturbed"] - terms[0]["clean"]).item()) > 1e-3
    assert torch.equal(terms[0]["perturbed"], terms[1]["perturbed"])
    after = dict(clip.network.named_buffers())
    assert all(torch.equal(value, after[name]) for name, value in moved_by_clean.items())
    if kind == "rn":
        assert any(not torch.equal(value, after[name]) for name, value in statistics.items())
        assert all(layer.training for layer in clip.network.modules())


def test_a_network_that_would_leave_the_perturbation_out_is_one_line():
    with pytest.raises(UserError, match=r"^beear: training: compile: a compiled network leaves out"):
        beear_clip.BEEARSettings.read({"training": {"compile": True}}, "beear")


def test_a_resumed_epoch_keeps_its_perturbation(make_clip, make_pairs):
    goal = objective(make_clip("vit"), make_pairs(6), steps=2)
    goal.begin_epoch(3)
    other = objective(make_clip("vit"), make_pairs(6), steps=2)
    other.restore(goal.state())
    delta = other.delta
    other.begin_epoch(3)
    assert other.delta is delta and torch.equal(delta, goal.delta)
    other.begin_epoch(4)
    assert not torch.equal(other.delta, delta)


def test_imbert_masks_cells_of_the_models_own_patches(make_clip, make_pairs, tmp_path):
    data = DefenseData(classes=["banana", "cup"], templates=["a {}"])
    report = IMBERT(IMBERTSettings(masked=1), 0).run(make_clip("vit"), data, Work(tmp_path, "x"))
    assert report.clip.description == {"cell": 16, "masked": 1} and (report.steps, report.pairs) == (0, 0)
    assert (tmp_path / "train.jsonl").read_text() == ""
    clip = IMBERT(IMBERTSettings(grid=8), 0).run(make_clip("rn"), data, Work(tmp_path, "x")).clip
    assert clip.description["cell"] == 4
    images = make_pairs(3).images
    clip.network.eval()
    assert not torch.equal(clip.encode_image(images), make_clip("rn").encode_image(images))
    clip.network.train()
    assert clip.encode_image(images).requires_grad, "training sees the pictures as they are"
