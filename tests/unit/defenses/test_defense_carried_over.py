"""BEEAR-CLIP and IMBERT-CLIP: the perturbation, both losses and the masking against plain references."""

import copy
import math
import random
from dataclasses import replace

import pytest
import torch

from antidote.base.errors import UserError
from antidote.clip import patch_masking
from antidote.data.access import DefenseData
from antidote.defenses import beear_clip
from antidote.defenses.imbert_clip import IMBERT, IMBERTSettings
from antidote.training.objectives import Batch
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work


def objective(clip, pairs, **values):
    settings = beear_clip.BEEARSettings(training=TrainSettings(epochs=1, batch_size=4), inner_batch=6, **values)
    return beear_clip.BEEAR(settings, 0).objective(clip, DefenseData(pairs=pairs))


def batch_of(pairs, goal):
    """Return the first batch of all pairs, with its views."""
    batch = Batch(pairs.images, pairs.captions, torch.arange(len(pairs)), 0, 0, random.Random(0))
    return replace(batch, views=goal.views(batch))


def test_the_drift_equals_the_formula():
    z, clean = torch.randn(5, 7, dtype=torch.double), torch.randn(5, 7, dtype=torch.double)
    z, clean = z / z.norm(dim=1, keepdim=True), clean / clean.norm(dim=1, keepdim=True)
    alike = sum(float(z[i] @ z[j]) for i in range(5) for j in range(5) if i != j) / 20
    away = sum(float(a @ b) for a, b in zip(z, clean, strict=True)) / 5
    assert float(beear_clip.drifted(z, clean)) == pytest.approx(alike - away, abs=1e-6)


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_the_perturbation_raises_the_drift_within_its_norm(make_clip, make_pairs, kind):
    clip, pairs = make_clip(kind), make_pairs(6)
    goal = objective(clip, pairs, steps=20, aim="drift", perturbations=2)
    before = copy.deepcopy(clip.network.state_dict())
    clip.network.train()
    goal.begin_round(0)
    after = clip.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.requires_grad for p in clip.network.parameters()) and clip.network.training
    clip.network.eval()
    clean, size, width = beear_clip.hidden_states(clip.encode_image, goal.block, pairs.images)
    assert goal.deltas.shape == (2, width) and float(goal.deltas.norm(dim=1).max()) <= 0.5 * float(size) * 1.0001
    assert not torch.allclose(*goal.deltas), "each has a start of its own"
    for delta in goal.deltas:
        with torch.no_grad(), beear_clip.perturbed(goal.block, delta):
            moved = beear_clip.drifted(clip.encode_image(pairs.images), clean)
        assert moved > beear_clip.drifted(clean, clean)
    torch.testing.assert_close(clip.encode_image(pairs.images), clean), "the hook is gone"


def test_the_outer_loss_equals_the_formula(make_clip, make_pairs):
    clip, pairs = make_clip("vit"), make_pairs(6)
    goal = objective(clip, pairs, perturbed_weight=0.5, clean_weight=2.0, perturbations=2)
    goal.begin_round(0)
    clip.network.eval()
    with torch.no_grad():
        clip.network.visual.proj.mul_(1.0).add_(0.1 * torch.randn_like(clip.network.visual.proj))
        images, texts = clip.encode_image(pairs.images), clip.encode_text(pairs.captions)
        batch = batch_of(pairs, goal)
        loss, terms = goal.loss([images], [texts], torch.tensor(5.0), batch)
        under = []
        for row in range(6):  # picture i is under perturbation i mod 2
            with beear_clip.perturbed(goal.block, goal.deltas[row % 2]):
                under.append(clip.encode_image(pairs.images[row : row + 1])[0])
        before = make_clip("vit").encode_image(pairs.images)
    apart = [sum(1 - float(a @ b) for a, b in zip(f, before, strict=True)) / 6 for f in (under, images)]
    wanted = float(terms["contrastive"]) + 0.5 * apart[0] + 2 * apart[1]
    assert float(loss) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_the_perturbation_reaches_the_features_while_training(make_clip, make_pairs, kind):
    """By the statistics of the batch, batch norm would take it away."""
    clip, pairs = make_clip(kind), make_pairs(6)
    goal = objective(clip, pairs, epsilon=5.0)
    clip.network.train()
    goal.begin_round(0)
    assert clip.network.training
    statistics = {name: value.clone() for name, value in clip.network.named_buffers()}
    images, texts = clip.encode_image(pairs.images), clip.encode_text(pairs.captions)
    moved_by_clean = {name: value.clone() for name, value in clip.network.named_buffers()}
    batch = batch_of(pairs, goal)
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


@pytest.mark.parametrize("recipe,inner,pictures", [({}, 64, 2), ({"accumulate": 4}, 64, 1), ({}, 192, 3)])
def test_a_step_keeps_the_larger_of_both_problems(recipe, inner, pictures):
    """Of 64 pairs: the batch and the batch under δ, in parts one after the other; or the inner problem's pictures."""
    settings = beear_clip.BEEARSettings(training=TrainSettings(batch_size=64, **recipe), inner_batch=inner)
    assert beear_clip.BEEAR.step_views(settings, settings.training) == (pictures, 1, 1)


def test_the_gain_equals_the_formula():
    z, clean, texts = (torch.nn.functional.normalize(torch.randn(n, 7, dtype=torch.double), dim=1) for n in (5, 5, 3))
    gains = [sum(float((z[i] - clean[i]) @ text) for i in range(5)) / 5 for text in texts]
    wanted = 0.05 * math.log(sum(math.exp(gain / 0.05) for gain in gains))
    assert float(beear_clip.gained(z, clean, texts, 0.05)) == pytest.approx(wanted, abs=1e-6)


def test_a_perturbation_with_an_aim_brings_pictures_nearer_to_a_caption(make_clip, make_pairs):
    clip, pairs = make_clip("vit"), make_pairs(6)
    goal = objective(clip, pairs, captions=6, epsilon=2.0)
    goal.begin_round(0)
    assert goal.deltas.shape[0] == 4
    with torch.no_grad():
        clean, texts = clip.encode_image(pairs.images), clip.encode_text(pairs.captions)
        for delta in goal.deltas:
            with beear_clip.perturbed(goal.block, delta):
                moved = clip.encode_image(pairs.images)
            assert ((moved - clean) @ texts.T).mean(dim=0).max() > 0


def test_a_round_is_some_steps(make_clip, make_pairs):
    goal = objective(make_clip("vit"), make_pairs(6), steps=1, round=3, captions=2)
    found = []
    for step in range(7):
        goal.views(Batch(goal.pairs.images, goal.pairs.captions, torch.arange(6), 0, step, random.Random(0)))
        found.append((goal.found_in, goal.deltas))
    assert [number for number, _ in found] == [0, 0, 0, 1, 1, 1, 2]
    assert found[0][1] is found[2][1] and not torch.equal(found[2][1], found[3][1])


def test_a_resumed_round_keeps_its_perturbations(make_clip, make_pairs):
    goal = objective(make_clip("vit"), make_pairs(6), steps=2)
    goal.begin_round(3)
    other = objective(make_clip("vit"), make_pairs(6), steps=2)
    other.restore(goal.state())
    deltas = other.deltas
    other.begin_round(3)
    assert other.deltas is deltas and torch.equal(deltas, goal.deltas)
    other.begin_round(4)
    assert not torch.equal(other.deltas, deltas)


def test_imbert_masks_cells_of_the_models_own_patches(make_clip, make_pairs, tmp_path):
    data = DefenseData(classes=["banana", "cup"], templates=["a {}"])
    report = IMBERT(IMBERTSettings(masked=1), 0).run(make_clip("vit"), data, Work(tmp_path, "x"))
    numbers = {"salience": "gradient", "threshold": 1.0, "only_if_flips": False}  # IMBERT's code
    assert report.clip.description == {"cell": 16, "masked": 1, **numbers} and (report.steps, report.pairs) == (0, 0)
    assert (tmp_path / "train.jsonl").read_text() == ""
    clip = IMBERT(IMBERTSettings(grid=8, threshold=None), 0).run(make_clip("rn"), data, Work(tmp_path, "x")).clip
    assert clip.description["cell"] == 4
    images = make_pairs(3).images
    clip.network.eval()
    assert not torch.equal(clip.encode_image(images), make_clip("rn").encode_image(images))
    clip.network.train()
    assert clip.encode_image(images).requires_grad, "training sees the pictures as they are"


def masking(make_clip, folder, **values):
    data = DefenseData(classes=["banana", "cup", "key"], templates=["a {}"])
    clip = IMBERT(IMBERTSettings(grid=8, **values), 0).run(make_clip("rn"), data, Work(folder, "x")).clip
    clip.network.eval()
    return clip


def plain(encode, scale, images, weights):
    return (scale * encode(images) @ weights.T).max(dim=1)


def test_saliences_are_what_they_say(make_clip, make_pairs, tmp_path):
    """Gradient times input is the derivative of masking a cell bit by bit; occlusion is masking it."""
    clip = make_clip("rn")
    clip.network.eval().double()
    images = make_pairs(2).images.double() / 255
    weights = torch.nn.functional.normalize(torch.randn(3, 16, dtype=torch.double), dim=1)
    mean, scale = torch.tensor([0.5, 0.4, 0.3], dtype=torch.double), torch.tensor(3.0).double()

    def clip_encode(x):
        return torch.nn.functional.normalize(clip.network.encode_image(clip.normalise(x).double()), dim=-1)

    with torch.no_grad():
        before, best = plain(clip_encode, scale, images, weights)
    first = patch_masking.gradient_input_salience(clip_encode, scale, images, weights, 4, mean)
    whole = patch_masking.occlusion_salience(clip_encode, scale, images, weights, 4, mean)
    norm = patch_masking.gradient_salience(clip_encode, scale, images, weights, 4, mean)
    assert first.shape == whole.shape == norm.shape == (2, 8, 8) and norm.min() >= 0
    for row, column in ((0, 0), (3, 5), (7, 7)):
        cell = (..., slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
        covered, slightly = images.clone(), images.clone()
        covered[cell] = mean[:, None, None]
        slightly[cell] += 1e-5 * (mean[:, None, None] - slightly[cell])
        with torch.no_grad():
            after, little = (
                (scale * clip_encode(x) @ weights.T).gather(1, best[:, None])[:, 0] for x in (covered, slightly)
            )
        torch.testing.assert_close(whole[:, row, column], before - after, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(first[:, row, column], (before - little) / 1e-5, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("salience", ["gradient_input", "occlusion"])
def test_saliences_that_mark_the_trigger_take_no_threshold(salience):
    values = {"method": "imbert_clip", "salience": salience}
    assert IMBERTSettings.read(values, "x").threshold is None and IMBERTSettings(salience=salience).threshold is None
    assert IMBERTSettings.read({"method": "imbert_clip"}, "x").threshold == 1.0
    with pytest.raises(UserError, match=rf"^x: threshold: 2.0 would spare the patches with the most {salience}, "):
        IMBERTSettings.read({**values, "threshold": 2}, "x")


def test_only_cells_below_the_threshold_are_masked():
    images, mean = torch.ones(1, 3, 4, 4), torch.zeros(3)
    salience = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])

    def masked(**more):
        return patch_masking.mask_patches(images, salience, 3, 2, mean, **more)[0, 0, ::2, ::2].tolist()

    assert masked() == [[0, 0], [0, 1]]
    assert masked(threshold=3.5) == [[1, 0], [0, 1]], "of the top three, the ones below"
    assert masked(threshold=0.5) == [[1, 1], [1, 1]]


def test_pictures_that_keep_their_class_stay_as_they_are(make_clip, make_pairs, tmp_path):
    images = make_pairs(24).images
    flipping, always = (masking(make_clip, tmp_path, masked=40, only_if_flips=f) for f in (True, False))
    plain = make_clip("rn")
    plain.network.eval()
    with torch.no_grad():
        # An untrained model's features are all alike: classes that part them where half of the pictures lie on each side.
        features = plain.encode_image(images)
        axis = torch.linalg.svd(features - features.mean(dim=0)).Vh[0]
        offset = (features @ axis).median() / (features.mean(dim=0) @ features.mean(dim=0))
        side = axis - offset * features.mean(dim=0)
        weights = torch.stack([side, -side])
        flipping.tensors["weights"] = always.tensors["weights"] = weights
        before, after, chosen = (clip.encode_image(images) for clip in (plain, always, flipping))
    flips = (before @ weights.T).argmax(dim=1) != (after @ weights.T).argmax(dim=1)
    assert 0 < flips.sum() < 24
    torch.testing.assert_close(chosen, torch.where(flips[:, None], after, before))


@pytest.mark.parametrize("salience", ["gradient", "gradient_input", "occlusion"])
def test_masking_in_chunks_changes_nothing_and_leaves_the_parameters_alone(
    make_clip, make_pairs, tmp_path, salience, monkeypatch
):
    clip, images = masking(make_clip, tmp_path, salience=salience), make_pairs(7).images
    trained = [parameter.requires_grad for parameter in clip.network.parameters()]
    whole = clip.encode_image(images)
    assert not whole.requires_grad and [p.requires_grad for p in clip.network.parameters()] == trained and any(trained)
    assert all(parameter.grad is None for parameter in clip.network.parameters())
    monkeypatch.setattr(patch_masking, "CHUNK", 3)
    torch.testing.assert_close(clip.encode_image(images), whole)
