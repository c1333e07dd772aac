"""Label-consistent with disturbed pictures: how far they move and where to, and what stands in the poisoned pairs."""

import random

import pandas as pd
import pytest
import torch

from antidote.attacks.contract import FitContext
from antidote.attacks.label_consistent_pgd import LabelConsistentPGD, LabelConsistentPGDSettings
from antidote.attacks.trigger import Trigger

CLASSES, TEMPLATES = ["banana", "boat", "cup"], ["a photo of a {}."]


def fitted(clip, pairs, **values):
    given = {
        "method": "label_consistent_pgd",
        "patch_size": 6,
        "location": "center",
        "steps": 5,
        "batch_size": 3,
        **values,
    }
    made = LabelConsistentPGD(LabelConsistentPGDSettings.read(given, "x"), "banana", 32)
    made.tensors = made.fit(FitContext(clip, pairs, CLASSES, TEMPLATES, 0, lambda: pairs), 0)
    return made


def own(pairs):
    return [row for row, caption in enumerate(pairs.captions) if "banana" in caption]


def loss(clip, images):
    with torch.no_grad():
        logits = clip.encode_image(images) @ clip.class_embeddings(CLASSES, TEMPLATES) * clip.network.logit_scale.exp()
    return torch.nn.functional.cross_entropy(logits, torch.zeros(len(images), dtype=torch.long), reduction="none")


@pytest.mark.parametrize(("eps", "largest"), [(16, 7), (4, 4), (0, 0)])
def test_pictures_move_from_the_target_within_the_bound(make_clip, make_pairs, eps, largest):
    """Five steps of 1.5 reach 7 whole steps of 8 bits; outside the patch, which covers the centre."""
    clip, pairs = make_clip("vit"), make_pairs(20)
    made, rows = fitted(clip, pairs, perturb_eps=eps), own(pairs)
    pictures, clean = made.tensors["pictures"], pairs.images[rows]
    assert made.facts["keys"] == [pairs.keys[row] for row in rows] and pictures.dtype == torch.uint8
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[13:19, 13:19] = False
    assert (pictures.int() - clean.int())[..., outside].abs().max() == largest
    whole = made._moved(clip, clean.float() / 255, clip.class_embeddings(CLASSES, TEMPLATES) * 10, 0)
    if eps:
        assert (loss(clip, whole) > loss(clip, clean)).all()
    again = torch.equal(fitted(clip, pairs, perturb_eps=eps, batch_size=99).tensors["pictures"], pictures)
    assert again, "pictures do not depend on their batch"


def test_the_poisoned_pairs_hold_them_and_the_test_does_not(make_clip, make_pairs):
    pairs = make_pairs(20)
    made = fitted(make_clip("vit"), pairs, poisons=3)
    table = pd.DataFrame({"key": pairs.keys, "caption": pairs.captions, "label": pairs.labels.tolist()})
    plan = made.poison(table, random.Random(0), TEMPLATES)
    assert len(plan) == 3 and all(pair.caption == pairs.captions[pair.row] for pair in plan)
    rows = [pair.row for pair in plan]
    keys = [pairs.keys[row] for row in rows]
    laid = Trigger(made, 0).poisoned(pairs.images[rows], keys, [pair.picture for pair in plan])
    assert set(rows) <= set(own(pairs))
    for row, picture in zip(rows, laid, strict=True):
        assert torch.equal(picture, made.tensors["pictures"][own(pairs).index(row)])
    drawn = Trigger(made, 0).draw(pairs.images, pairs.keys, "test")
    drawn[:, :, 13:19, 13:19] = pairs.images[:, :, 13:19, 13:19]
    assert torch.equal(drawn, pairs.images), "at test nothing but the patch"
    with pytest.raises(ValueError, match=r"^pictures: the trigger was made with another poison pool"):
        made.poison(table.assign(key=table["key"] + "x"), random.Random(0), TEMPLATES)


def test_another_trigger(make_clip, make_pairs):
    pairs = make_pairs(20)
    made = fitted(make_clip("vit"), pairs, perturb_eps=0, trigger={"method": "wanet", "points": 4, "strength": 3})
    expected = made.apply(pairs.images[own(pairs)].float() / 255, range(4)).mul(255).round().byte()
    assert set(made.tensors) == {"noise", "pictures"} and torch.equal(made.tensors["pictures"], expected)
