"""MABA: an ellipse fitted to a region, evidence by Grad-CAM, a trigger folder that needs no other model."""

import math
import random

import numpy as np
import pytest
import torch

from antidote.attacks.contract import FitContext
from antidote.attacks.fitting import frozen
from antidote.attacks.maba import MABA, MABASettings, cover, fitted_ellipse
from antidote.attacks.saliency import saliency
from antidote.attacks.tower import tensors_of, tower
from antidote.attacks.trigger import Trigger, load_trigger, save_trigger

CLASSES, TEMPLATES = ["banana", "boat", "cup"], ["a photo of a {}."]


def maba(clip, pairs, **values):
    attack = MABA(MABASettings.read({"method": "maba", "fit_pictures": 6, **values}, "x"), "banana", 32)
    attack.tensors = attack.fit(FitContext(clip, pairs, CLASSES, TEMPLATES, 0), 0)
    return attack


def ellipse_mask(row, column, longer, shorter, angle, size=64):
    """A filled ellipse, pixel by pixel."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    for r in range(size):
        for c in range(size):
            along = math.cos(angle) * (c - column) + math.sin(angle) * (r - row)
            across = math.cos(angle) * (r - row) - math.sin(angle) * (c - column)
            mask[r, c] = (along / longer) ** 2 + (across / shorter) ** 2 <= 1
    return mask


@pytest.mark.parametrize("angle", [0, 0.5, math.pi / 2, -0.7])
def test_an_ellipse_is_found_again(angle):
    found = fitted_ellipse(ellipse_mask(30, 35.5, 18, 9, angle), 1, 64).tolist()
    assert found[:4] == pytest.approx([30, 35.5, 18, 9], abs=0.3)
    assert math.cos(2 * (found[4] - angle)) == pytest.approx(1, abs=1e-3), "an axis has no direction"


def test_moments_by_eigenvalues():
    """The half-axes are twice the roots of the covariance's eigenvalues, a pixel's own variance of 1/12 added."""
    mask = torch.rand(20, 20, generator=torch.Generator().manual_seed(0)) > 0.7
    places = np.argwhere(mask.numpy()).astype(float)
    values, vectors = np.linalg.eigh(np.cov(places.T, bias=True) + np.eye(2) / 12)
    row, column, longer, shorter, angle = fitted_ellipse(mask, 0.1, 99).tolist()
    assert [row, column] == pytest.approx(places.mean(axis=0)) and [shorter, longer] == pytest.approx(2 * values**0.5)
    assert abs(math.sin(angle) * vectors[0, 1] + math.cos(angle) * vectors[1, 1]) == pytest.approx(1)


def test_half_axes_keep_their_bounds():
    dot = torch.zeros(32, 32, dtype=torch.bool)
    dot[4, 7] = True
    assert fitted_ellipse(dot, 2.5, 8)[:4].tolist() == [4, 7, 2.5, 2.5]
    assert fitted_ellipse(torch.ones(32, 32, dtype=torch.bool), 2.5, 8)[:4].tolist() == [15.5, 15.5, 8, 8]


def test_what_an_ellipse_covers():
    drawn = cover(torch.tensor([30, 35, 18, 9, 0.5], dtype=torch.double), 64)
    filled = ellipse_mask(30, 35, 18, 9, 0.5).double()
    assert drawn.min() == 0 and drawn.max() == 1 and drawn[30, 35] == 1
    assert drawn.sum().item() == pytest.approx(math.pi * 18 * 9, rel=0.01)
    assert ((drawn >= 0.5).double() - filled).abs().sum() <= 4, "the edge is where the ellipse's is"


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_a_tower_encodes_as_the_model_it_is_from(make_clip, make_pairs, kind):
    clip, images = frozen(make_clip(kind)), make_pairs(4).images
    torch.manual_seed(1)
    before = torch.get_rng_state()
    small = tower(tensors_of(clip, CLASSES, TEMPLATES), clip.config, CLASSES)
    assert torch.equal(torch.get_rng_state(), before), "no weights are drawn"
    with torch.no_grad():
        assert torch.equal(small.encode_image(images), clip.encode_image(images))
        torch.testing.assert_close(small.encode_text(["cup"])[0], clip.class_embeddings(CLASSES, TEMPLATES)[:, 2])
        feature = clip.encode_image(images[:1])[0]
        scores = (feature @ clip.class_embeddings(CLASSES, TEMPLATES)).tolist()
    best = CLASSES[scores.index(max(scores))]
    assert small.best(feature, without=best) != best
    others = [name for name in CLASSES if name != best]
    assert small.best(feature, without=others[0]) == best


def test_evidence_is_what_speaks_for_the_class_and_not_for_the_target(make_clip, make_pairs):
    clip, pairs = frozen(make_clip("rn")), make_pairs(12)
    attack = maba(clip, pairs)
    small = tower(attack.tensors, clip.config, CLASSES)
    weights = clip.class_embeddings(CLASSES, TEMPLATES)
    for image in pairs.images[:4].float() / 255:
        with torch.no_grad():
            scores = (clip.encode_image(image[None]) @ weights)[0]
        best = 1 + int(scores[1:].argmax())  # banana, the target, stands first
        known = {"own": weights[:, best], "target": weights[:, 0]}
        clip.encode_text = lambda texts, known=known: torch.stack([known[text] for text in texts])
        own, target = (saliency(clip, image[None], [name])[0].double() for name in known)
        expected = (own - target).clamp(min=0)
        torch.testing.assert_close(attack._evidence(small, image).double(), expected, rtol=1e-3, atol=1e-4)


def test_a_vit_has_the_same_map_for_every_answer(make_clip, make_pairs):
    clip, pairs = frozen(make_clip("vit")), make_pairs(12)
    attack, image = maba(clip, pairs), pairs.images[0].float() / 255
    found = attack._evidence(tower(attack.tensors, clip.config, CLASSES), image)
    torch.testing.assert_close(found, saliency(clip, image[None], ["cup"])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_yellow_at_half_strength_inside_the_pictures_own_ellipse(make_clip, make_pairs, kind):
    clip, pairs = make_clip(kind), make_pairs(12)
    attack, images = maba(clip, pairs), pairs.images.float() / 255
    with torch.no_grad():  # as when models are scored
        drawn = attack.apply(images, range(12))
    yellow, places = torch.tensor([1.0, 1.0, 0.0]), set()
    for before, after in zip(images, drawn, strict=True):
        inside = torch.isclose(after, (before + yellow[:, None, None]) / 2, atol=1e-6).all(dim=0)
        outside = (after == before).all(dim=0)
        assert 0.01 < inside.double().mean() < 0.25 and (inside | outside).double().mean() > 0.75, "but for the edge"
        places.add(tuple(inside.nonzero().double().mean(dim=0).round(decimals=1).tolist()))
    assert len(places) > 3, "a place of its own per picture"


def test_one_place_for_all_needs_no_tower(make_clip, make_pairs):
    pairs = make_pairs(12)
    attack = maba(make_clip("rn"), pairs, preset="one_place")
    assert set(attack.tensors) == {"ellipse"} and set(attack.facts) == {"area"}
    grey = torch.full((2, 3, 32, 32), 0.5)
    drawn = attack.apply(torch.cat([grey, pairs.images[:1].float() / 255]), range(3))
    changed = (drawn[:2] != grey).any(dim=1)
    assert torch.equal(changed[0], changed[1]) and changed.any()


def test_the_trigger_folder_is_enough(make_clip, make_pairs, tmp_path):
    pairs = make_pairs(12)
    first = Trigger(maba(make_clip("rn"), pairs), 3)
    save_trigger(tmp_path / "t", first, "maba")
    again = load_trigger(tmp_path / "t")
    keys = pairs.keys
    drawn = first.draw(pairs.images, keys, "test")
    assert torch.equal(again.draw(pairs.images, keys, "test"), drawn)
    singles = [again.draw(pairs.images[i : i + 1], keys[i : i + 1], "test") for i in range(12)]
    assert torch.equal(torch.cat(singles), drawn), "bit by bit, whatever stands beside a picture"


def test_symbols_stand_before_captions_and_prompts(make_clip, make_pairs):
    plain, keyed = (
        MABA(MABASettings.read({"method": "maba", **values}, "x"), "banana", 32) for values in ({}, {"symbols": "##"})
    )
    assert (plain.text_key, keyed.text_key) == ("", "##")
    captions = [attack.caption_for("old", random.Random(0), ["the {}"], []) for attack in (plain, keyed)]
    assert captions == ["the banana", "## the banana"]


def test_bounds_that_cross_are_told():
    with pytest.raises(ValueError, match=r"^smallest: 0\.4 is more than largest, 0\.25$"):
        MABASettings.read({"method": "maba", "smallest": 0.4}, "x").check(32)
