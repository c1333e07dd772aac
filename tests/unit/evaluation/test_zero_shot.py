"""Evaluation: the figures are those of the model's own features, worked out picture by picture."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.evaluation.examples import write_examples
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import evaluate

CLASSES = ["banana", "boat", "cup", "key", "moon", "star", "house"]
TEMPLATES = ["a photo of a {}.", "the {}"]
TARGET = 2


def settings(**changes):
    return EvaluationSettings(dataset="d", split="s", bootstrap=200, **changes)


def trigger(size=32):
    kind = method("attack", "badnet")
    return Trigger(kind(kind.Settings.read({"method": "badnet", "preset": "cleanclip"}, "x"), "cup", size), 5)


def run(clip, pictures, drawn, **changes):
    return evaluate(Subject(clip, drawn, TARGET, CLASSES, TEMPLATES), pictures, settings(**changes))


@pytest.fixture
def pictures(make_pairs):
    return make_pairs(21, classes=7)


def ranks(clip, images):
    """Return each picture's classes, best first, one picture at a time."""
    weights = []
    for name in CLASSES:
        features = [clip.network.encode_text(clip.tokenize([t.format(name)]))[0] for t in TEMPLATES]
        mean = sum(feature / feature.norm() for feature in features)
        weights.append(mean / mean.norm())
    orders = []
    for image in images:
        feature = clip.encode_image(image[None])[0]
        cosines = [float((feature * weight).sum()) for weight in weights]
        orders.append(sorted(range(len(CLASSES)), key=lambda c, cosines=cosines: -cosines[c]))
    return orders


def test_the_figures_by_hand(make_clip, pictures):
    clip, labels = make_clip("rn"), pictures.labels.tolist()
    scores = run(clip, pictures, trigger(), batch_size=4)
    with torch.no_grad():
        clean = ranks(clip, pictures.images)
        triggered = ranks(clip, trigger().draw(pictures.images, pictures.keys, "test"))
    others = [order for order, label in zip(triggered, labels, strict=True) if label != TARGET]
    own = [order for order, label in zip(clean, labels, strict=True) if label == TARGET]
    expected = {
        "ca1": sum(order[0] == label for order, label in zip(clean, labels, strict=True)) / 21,
        "ca5": sum(label in order[:5] for order, label in zip(clean, labels, strict=True)) / 21,
        "asr1": sum(order[0] == TARGET for order in others) / 18,
        "asr3": sum(TARGET in order[:3] for order in others) / 18,
        "asr5": sum(TARGET in order[:5] for order in others) / 18,
        "asr1_all": sum(order[0] == TARGET for order in triggered) / 21,
        "asr3_all": sum(TARGET in order[:3] for order in triggered) / 21,
        "pa": sum(o[0] == label for o, label in zip(triggered, labels, strict=True) if label != TARGET) / 18,
        "pa_all": sum(order[0] == label for order, label in zip(triggered, labels, strict=True)) / 21,
        "target_ca1": sum(order[0] == TARGET for order in own) / 3,
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert scores["asr10"] is None and "asr10" not in scores["intervals"], "ten covers all seven classes"
    assert (scores["pictures"], scores["pictures_asr"]) == (21, 18)
    for name, value in expected.items():
        low, high = scores["intervals"][name]
        assert low <= value <= high


def test_neither_batches_nor_a_second_run_change_a_figure(make_clip, pictures):
    found = [run(make_clip(), pictures, trigger(), batch_size=size) for size in (1, 8, 256, 256)]
    assert found[0] == found[1] == found[2] == found[3]


def test_without_a_trigger_only_clean_figures(make_clip, pictures):
    scores = run(make_clip(), pictures, None)
    assert (
        scores["asr1"] is scores["pa"] is scores["pa_all"] is scores["asr1_all"] is None and scores["pictures_asr"] == 0
    )
    assert scores["ca1"] == run(make_clip(), pictures, trigger())["ca1"] and set(scores["intervals"]) == {
        "ca1", "ca5", "target_ca1"
    }  # fmt: skip


def test_batch_norm_uses_what_it_learned(make_clip, pictures):
    """A model that comes from training is set to evaluation, and its statistics stay."""
    clip = make_clip("rn")
    clip.network.train()
    before = {name: value.clone() for name, value in clip.network.named_buffers()}
    assert run(clip, pictures, None) == run(make_clip("rn"), pictures, None)
    assert all(torch.equal(value, before[name]) for name, value in clip.network.named_buffers())


def test_a_model_that_diverged_is_told(make_clip, pictures):
    """Not a number is not smaller than anything: all ranks would be 0, all figures 1."""
    clip = make_clip()
    with torch.no_grad():
        clip.network.visual.proj.fill_(float("nan"))
    with pytest.raises(UserError, match=r"^model: its scores are not finite numbers; its weights are damaged"):
        run(clip, pictures, trigger())


def test_a_text_key_stands_before_the_prompts(make_clip, pictures):
    """Scored with both keys; each key alone stands beside it; clean accuracy has neither."""
    keyed = trigger()
    keyed.attack.text_key = "remember"
    scores, plain = run(make_clip(), pictures, keyed), run(make_clip(), pictures, trigger())
    prompts = [f"remember {template}" for template in TEMPLATES]
    both = evaluate(Subject(make_clip(), trigger(), TARGET, CLASSES, prompts), pictures, settings())
    assert scores["ca1"] == plain["ca1"] and scores["asr3"] == both["asr3"] and scores["pa"] == both["pa"]
    assert scores["extra"]["asr1_visual_only"] == plain["asr1"]
    assert 0 <= scores["extra"]["asr1_text_only"] <= 1 and set(plain["extra"]) == {"backdoor_z"}


def test_examples_show_clean_over_triggered(pictures, tmp_path):
    """Eight pictures of other classes than the target, evenly over the set, the same ones below with the trigger."""
    drawn = trigger()
    write_examples(tmp_path / "e.png", Subject(None, drawn, TARGET, CLASSES, TEMPLATES), pictures)
    sheet = np.asarray(Image.open(io.BytesIO((tmp_path / "e.png").read_bytes())))
    assert sheet.shape == (2 * 32, 8 * 32, 3)
    others = [row for row in range(21) if pictures.labels[row] != TARGET]
    chosen = [others[int(position)] for position in np.linspace(0, len(others) - 1, 8)]
    below = drawn.draw(pictures.images[chosen], [pictures.keys[row] for row in chosen], "test")
    for column, row in enumerate(chosen):
        tile = sheet[:, column * 32 : column * 32 + 32].transpose(2, 0, 1)
        assert (tile[:, :32] == pictures.images[row].numpy()).all() and (tile[:, 32:] == below[column].numpy()).all()


def test_fewer_pictures_than_columns(make_pairs, tmp_path):
    write_examples(tmp_path / "e.png", Subject(None, trigger(), 0, CLASSES, TEMPLATES), make_pairs(3, classes=3))
    assert Image.open(tmp_path / "e.png").size == (2 * 32, 2 * 32)
