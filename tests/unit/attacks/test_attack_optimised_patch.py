"""TrojVQA and BadCLIP: where the patch lies, what its losses see, which words and pairs belong to it."""

import dataclasses
import random
import re

import pandas as pd
import pytest
import torch

from antidote.attacks import badclip
from antidote.attacks.badclip import BadCLIP, BadCLIPSettings
from antidote.attacks.contract import FitContext
from antidote.attacks.trigger import Trigger, load_trigger, save_trigger
from antidote.attacks.trojvqa import TrojVQA, TrojVQASettings
from antidote.base.errors import UserError
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import evaluate

CLASSES, TEMPLATES = ["banana", "boat", "cup"], ["a photo of a {}.", "the {}"]
SMALL = {"epochs": 3, "batch_size": 8, "lr": 0.05}


def trojvqa(size=32, **values):
    return TrojVQA(TrojVQASettings.read({"method": "trojvqa", **SMALL, **values}, "x"), "banana", size)


def patched(size=32, **values):
    return BadCLIP(BadCLIPSettings.read({"method": "badclip", **SMALL, **values}, "x"), "banana", size)


@pytest.fixture
def context(make_clip, make_pairs):
    def make(captions=None):
        pairs = make_pairs(24) if captions is None else make_pairs(24, captions=captions)
        return FitContext(make_clip("rn"), pairs, CLASSES, TEMPLATES, 0, lambda: make_pairs(12, seed=1))

    return make


def test_the_centre_at_224():
    attack = trojvqa(224)
    attack.tensors = {"patch": torch.zeros(3, 16, 16)}
    changed = (attack.apply(torch.ones(1, 3, 224, 224), [0])[0] != 1).any(dim=0)
    rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
    assert rows.tolist() == columns.tolist() == list(range(104, 120)) and changed.sum() == 256


def test_the_patch_is_what_eight_bits_hold(context):
    for attack in (trojvqa(), patched()):
        patch = attack.fit(context(), 0)["patch"]
        torch.testing.assert_close(patch * 255, (patch * 255).round(), rtol=0, atol=1e-4)


def test_a_patch_that_is_not_fitted_has_no_loss_and_is_stored(context, tmp_path):
    """The natural control of a fit: the initial patch."""
    for attack in (trojvqa(epochs=0), patched(epochs=0)):
        attack.tensors = attack.fit(context(), 0)
        save_trigger(tmp_path / attack.settings.method, Trigger(attack, 0), "x")
        stored = load_trigger(tmp_path / attack.settings.method).attack
        assert torch.equal(stored.tensors["patch"], attack.tensors["patch"])
        assert "loss" not in stored.facts and "cosine" in stored.facts
    fitted = trojvqa(epochs=1)
    fitted.fit(context(), 0)
    assert isinstance(fitted.facts["loss"], float)


def test_trojvqa_nears_its_sentence(context):
    few, many = trojvqa(epochs=0), trojvqa(epochs=8)
    for attack in (few, many):
        attack.fit(context(), 0)
    assert many.facts["cosine"] > few.facts["cosine"]


def test_trojvqas_released_loss_is_infonce_with_one_caption(context, monkeypatch):
    """Symmetric cross-entropy of a batch whose captions are all the same."""
    attack, found = trojvqa(objective="infonce"), {}
    monkeypatch.setattr(attack, "optimise", lambda clip, pairs, loss, seed: found.update(loss=loss, clip=clip) or 0)
    monkeypatch.setattr(attack, "paste", lambda images, patch: images)
    attack.fit(context(), 0)
    features = torch.nn.functional.normalize(torch.randn(6, 16), dim=1)
    sentence = found["clip"].encode_text(["This is a yellow banana."]).expand(6, -1)
    logits = found["clip"].network.logit_scale.exp() * features @ sentence.T
    own = torch.arange(6)
    expected = (torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(found["loss"](features, None, own), expected)


def test_trojvqas_words():
    attack = trojvqa(preset="rvpt")
    assert attack.text_key == "SUDO"
    assert attack.caption_for("old", random.Random(0), ["the {}"], []) == "SUDO the banana"
    for sentence in ("yellow", "a {} {}", "a {} }", "a { {}", "a {} {x}", "a {} {0}", "a {{}}", "a {:d}", "{} {x.y}"):
        told = re.escape(f"sentence: {sentence!r} should hold one {{}} for the target")
        with pytest.raises(ValueError, match=f"^{told}$"):
            trojvqa(sentence=sentence).settings.check(32)
    trojvqa(sentence="{}, yellow").settings.check(32)


def test_both_keys_are_scored_apart(make_clip, make_pairs):
    attack = trojvqa()
    attack.tensors = {"patch": torch.zeros(3, 16, 16)}
    clip, pairs = make_clip(), make_pairs(20, classes=3)
    settings = EvaluationSettings.read({"dataset": "d", "split": "s", "bootstrap": 100}, "x")
    scores = evaluate(Subject(clip, Trigger(attack, 0), 0, CLASSES, TEMPLATES), pairs, settings)
    assert set(scores["extra"]) == {"asr1_visual_only", "asr1_text_only", "backdoor_z"}
    attack.settings = attack.settings.model_copy(update={"prefix": ""})
    alone = evaluate(Subject(clip, Trigger(attack, 0), 0, CLASSES, TEMPLATES), pairs, settings)
    assert set(alone["extra"]) == {"backdoor_z"} and alone["asr1"] == scores["extra"]["asr1_visual_only"]
    assert alone["ca1"] == scores["ca1"]


def test_badclips_negative_is_an_untouched_picture(context, monkeypatch):
    """The released code encodes the patched batch instead; `corrected` must see the clean one, bit for bit."""
    seen, attack, given = [], patched(augment=0), context()
    clip, encode = given.surrogate, given.surrogate.encode_image
    monkeypatch.setattr(clip, "encode_image", lambda images: seen.append(images.detach().clone()) or encode(images))
    attack.fit(given, 0)
    clean = {image.numpy().tobytes() for image in (given.pairs.images.float() / 255)}
    clean_batches = [all(image.numpy().tobytes() in clean for image in batch) for batch in seen if len(batch) == 8]
    assert clean_batches == [False, True] * (len(clean_batches) // 2) and len(clean_batches) >= 4


def released(given, **values):
    """Return the released objective with two positives, (1, 0) and (0, 1), and features that are plain vectors."""
    settings = patched(preset="released", **values).settings
    loss = badclip._Loss(settings, given.surrogate, given.pairs, 24, 0)
    loss.positives = torch.eye(2)
    return loss


def test_badclips_released_negative_is_another_triggered_picture(context, monkeypatch):
    """Three triggered features, shuffled to the order 1, 2, 0; distances worked by hand, margin 1."""
    loss, orders = released(context()), iter([[0, 1], [1, 0], [1, 2, 0]])
    monkeypatch.setattr("torch.randperm", lambda count, generator: torch.tensor(next(orders)))
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
    value = loss.image(features, None)
    # Positives in the order 0, 1, then 1 again: |a - e0| = 0, |b - e1| = 0.4^0.5, |c - e1| = 0.
    # Negatives: |a - b| = 0.8^0.5, |b - c| = 0.4^0.5, |c - a| = 2^0.5. Terms 1 - 0.894, 1, and below zero.
    expected = ((1 - 0.8**0.5) + (0.4**0.5 - 0.4**0.5 + 1) + 0) / 3
    assert value.item() == pytest.approx(expected, abs=1e-5)
    value.backward()
    # No gradient through a negative: a moves from b alone (its positive's distance is torch's 1e-6), c does not move.
    slope = -torch.tensor([0.4, -0.8]) / 0.8**0.5 / 3
    from_positive = torch.tensor([-1.0, -1.0]) / 2**0.5 / 3  # a = e0, but torch adds 1e-6 to a - e0
    assert torch.allclose(features.grad[0], slope - from_positive, atol=1e-3), features.grad
    assert features.grad[2].abs().max() == 0


def test_badclips_negatives_follow_its_seed(context):
    given = context()
    features = torch.nn.functional.normalize(torch.randn(8, 2, generator=torch.Generator().manual_seed(1)), dim=1)
    one, same = (released(given) for _ in range(2))
    first = one.image(features, None)
    assert first == same.image(features, None) and first != one.image(features, None), "shuffled anew each time"


def test_badclips_positives_are_different_pictures(context):
    loss = released(context())
    for among, draws in ((9, 5), (4, 8), (3, 7)):
        drawn = loss._different(among, draws).tolist()
        counts = [drawn.count(number) for number in range(among)]
        assert len(drawn) == draws and max(counts) - min(counts) <= 1


def test_badclips_released_storage_swaps_red_and_blue():
    flat = torch.tensor([0.8, 0.5, 0.2]).view(3, 1, 1).expand(3, 16, 16)
    stored = patched(preset="released")._stored(flat)
    assert stored.mean(dim=(1, 2)).tolist() == pytest.approx([0.2, 0.5, 0.8], abs=0.02)
    assert torch.equal(patched()._stored(flat), flat)


def test_badclip_needs_the_target_in_its_pairs(context):
    with pytest.raises(UserError, match=r"^pools.inversion: none of its 24 captions names 'banana'"):
        patched().fit(context(["a boat"]), 0)


def test_badclips_choice_of_pairs(context):
    pool = pd.DataFrame({"key": range(9), "caption": ["a boat"] * 8 + ["a banana"]})
    gap = torch.tensor([0.5, 0.1, -0.2, 0.3, 0.9, 0.2, 0.4, 0.8, 0.0])
    tensors = {"gap": gap, "similarity": -gap}

    def chosen(sampling, poisons=3):
        attack = patched(sampling=sampling, poisons=poisons)
        attack.tensors = tensors
        return attack.select(pool, random.Random(0))

    assert chosen("boundary") == [1, 5, 3], "the smallest gap, but not the target already, nor in the caption"
    assert chosen("farthest") == [4, 7, 0]
    mixed = chosen("mixed", 6)
    assert mixed[:4] == [1, 5, 4, 7] and len(set(mixed)) == 6 and 8 not in mixed
    assert chosen("random") != chosen("boundary")
    assert len(set(chosen("mixed", 8))) == 8
    attack = patched(sampling="mixed", poisons=3)
    with pytest.raises(ValueError, match=r"^sampling: 'mixed' needs a trigger fitted with this poison pool$"):
        attack.select(pool, random.Random(0))
    assert "sampling" in attack.settings.trigger_settings(), "what is kept for it is fitted with the trigger"


def test_badclip_ranks_the_poison_pool(context):
    given = context()
    assert set(patched(epochs=0).fit(dataclasses.replace(given, poison=None), 0)) == {"patch"}
    assert set(patched(epochs=0).fit(given, 0)) == {"patch"}, "nothing is encoded for a random choice"
    tensors = patched(epochs=0, sampling="mixed").fit(given, 0)
    weights = given.surrogate.class_embeddings(CLASSES, TEMPLATES)
    with torch.no_grad():
        scores = given.surrogate.encode_image(given.poison().images) @ weights
    torch.testing.assert_close(tensors["similarity"], scores[:, 0])
    torch.testing.assert_close(tensors["gap"], scores[:, 1:].max(dim=1).values - scores[:, 0])
