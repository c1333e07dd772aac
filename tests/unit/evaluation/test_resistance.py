"""Perturbation resistance: cosines before and after, worked out picture by picture; what a study may ask for."""

import math

import pytest
import torch

from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.registry import method
from antidote.base.settings import read_mapping
from antidote.clip.visual_prompts import VisualPrompts, prompted
from antidote.evaluation.base import as_floor
from antidote.evaluation.resistance import Resistance, perturbed, resistance
from antidote.evaluation.subject import Subject
from antidote.study.slices import adaptation_slice
from antidote.study.study import Study

PERTURBATIONS = ["trigger", "noise", "blur", "jitter", "flip"]
CLASSES = ["banana", "cup"]


def settings(**own):
    return Resistance(**{"pictures": None, **own})


def measured(clip, pictures, attack, asked=None, batch_size=256):
    subject = Subject(clip, attack, 1, CLASSES, ["a photo of a {}."])
    return resistance(subject, pictures, asked or settings(), batch_size)


def trigger():
    kind = method("attack", "badnet")
    return Trigger(kind(kind.Settings.read({"method": "badnet", "preset": "cleanclip"}, "x"), "cup", 32), 5)


def with_prompts(clip):
    prompts = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(4))
    return VisualPrompts(clip.network, clip.config, {"prompts": prompts}, {"depth": 1})


def cosine(a, b):
    a, b = a.double().tolist(), b.double().tolist()
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


@pytest.mark.parametrize("adapted", [False, True])
def test_it_is_the_mean_cosine_of_features_and_class_tokens(make_clip, make_pairs, adapted):
    """In a model with visual prompts it is what the model with its prompts does."""
    clip, pairs = make_clip("vit"), make_pairs(7)
    clip = with_prompts(clip) if adapted else clip
    prompts = clip.tensors["prompts"] if adapted else None
    found = measured(clip, pairs, trigger(), batch_size=3)
    assert list(found) == PERTURBATIONS
    for name, images in perturbed(pairs, trigger(), settings()):
        with torch.no_grad():
            (before, tokens), (after, moved) = (
                prompted(clip.network.visual, clip.normalise(shown), prompts) for shown in (pairs.images, images)
            )
        whole, layers = found[name]
        levels = zip([before, *tokens], [after, *moved], strict=True)
        wanted = [sum(map(cosine, a, b)) / 7 for a, b in levels]
        assert [whole, *layers] == pytest.approx(wanted, abs=1e-6) and len(layers) == 2
        assert name == "noise" or whole < 0.9999


def test_perturbations_are_the_papers(make_pairs):
    pairs, images = make_pairs(4), make_pairs(4).images.double() / 255
    shown = dict(perturbed(pairs, None, settings()))
    assert list(shown) == PERTURBATIONS[1:]
    assert all(part.min() >= 0 and part.max() <= 1 for part in shown.values())
    inner = (images > 0.01) & (images < 0.99)  # where nothing is clipped
    noise = (shown["noise"].double() - images)[inner]
    assert float(noise.std()) == pytest.approx(0.001, rel=0.05) and abs(float(noise.mean())) < 1e-4
    assert torch.equal(shown["flip"], images.float().flip(3))
    line = [math.exp(-((x / 5) ** 2) / 2) for x in (-1, 0, 1)]
    weights = [[a * b / sum(line) ** 2 for b in line] for a in line]
    middle = sum(weights[y][x] * images[:, :, 9 + y, 4 + x] for y in range(3) for x in range(3))
    torch.testing.assert_close(shown["blur"][:, :, 10, 5].double(), middle, rtol=0, atol=1e-6)


def test_jitter_draws_brightness_from_its_range(make_pairs):
    pairs = make_pairs(40)
    only = dict(perturbed(pairs, None, settings(hue=0)))["jitter"]
    images = pairs.images.float() / 255
    inner = (only > 0.05) & (only < 0.95) & (images > 0.05)
    factors = [float((a / b)[kept].median()) for a, b, kept in zip(only, images, inner, strict=True)]
    assert 0.5 <= min(factors) < 0.65 and 1.35 < max(factors) <= 1.5


def test_what_changes_nothing_has_resistance_one(make_clip, make_pairs):
    pairs = make_pairs(5)
    symmetric = pairs.images.clone()
    symmetric[..., 16:] = symmetric[..., :16].flip(3)
    pairs = type(pairs)(pairs.keys, symmetric, pairs.captions, pairs.labels)
    found = measured(make_clip("vit"), pairs, None, settings(noise=0, blur_kernel=1, brightness=0, hue=0))
    for whole, layers in found.values():
        assert [whole, *layers] == pytest.approx([1, 1, 1], abs=1e-12)


def test_draws_hang_on_seed_and_key_alone(make_clip, make_pairs):
    clip, pairs = make_clip("vit"), make_pairs(9)
    torch.manual_seed(1)
    first = measured(clip, pairs, trigger(), settings())
    state = torch.get_rng_state()
    assert measured(clip, pairs, trigger(), settings()) == first
    assert torch.equal(torch.get_rng_state(), state), "it draws from nobody else's stream"
    for size in (1, 4):
        other = measured(clip, pairs, trigger(), batch_size=size)
        for name, (whole, layers) in other.items():
            assert [whole, *layers] == pytest.approx([first[name][0], *first[name][1]], abs=1e-6)
    again = measured(clip, pairs, trigger(), settings(seed=1))
    changed = {name for name in first if again[name] != first[name]}
    assert changed == {"noise", "jitter"}


def test_a_part_of_the_pictures_evenly(make_clip, make_pairs):
    clip, pairs = make_clip("vit"), make_pairs(9)
    assert measured(clip, pairs, None, settings(pictures=3)) == measured(clip, pairs.take([0, 4, 8]), None, settings())
    assert measured(clip, pairs, None, settings(pictures=99)) == measured(clip, pairs, None, settings())


def test_layers_are_those_of_vision_transformers(make_clip, make_pairs):
    pairs = make_pairs(3)
    assert all(layers == [] for _, layers in measured(make_clip("rn"), pairs, None, settings()).values())
    plain, clip = measured(make_clip("vit"), pairs, None, settings(layers=False)), make_clip("vit")
    assert all(layers == [] for _, layers in plain.values())
    found = measured(clip, pairs, None, settings())
    assert {name: whole for name, (whole, _) in found.items()} == {name: whole for name, (whole, _) in plain.items()}
    assert not any(block._forward_hooks for block in clip.network.visual.transformer.resblocks)


def test_an_adapter_that_looks_twice_counts_by_its_second_look(make_clip, make_pairs):
    clip, pairs = make_clip("vit"), make_pairs(3)
    kind = method("adapter", "patch_masking")
    weights = torch.nn.functional.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    masked = kind(clip.network, clip.config, {"weights": weights}, {"cell": 8, "masked": 16})  # all of the picture
    found = measured(masked, pairs, None, settings())
    for whole, layers in found.values():
        assert [whole, *layers] == pytest.approx([1, 1, 1], abs=1e-12)


def test_a_model_that_diverged_is_told(make_clip, make_pairs):
    clip = make_clip("vit")
    clip.network.visual.proj.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"^model: its features are not finite numbers"):
        measured(clip, make_pairs(2), None, settings())


def test_the_triggers_floor():
    scores = {"asr1_dark": 0.1, "resistance_trigger": 0.9, "resistance_noise": 0.99}
    assert as_floor(scores, Resistance.floors) == {"floor_resistance": 0.9}


# --- in a study ------------------------------------------------------------------------------------------------------

STUDY = "tests/studies/tiny.yaml"


def study(**evaluation):
    values = {**read_mapping(str(ROOT / STUDY)), "persistence": {"adaptations": {"a": {"kind": "full"}}}}
    values["evaluation"] |= evaluation
    return Study(values, STUDY)


def test_a_study_asks_for_it():
    plain, asked = study(), study(resistance={"pictures": 50})
    assert asked.evaluated.resistance.noise == 0.001 and '"resistance":{' in asked.evaluated.slice()
    assert "resistance" not in plain.evaluated.slice()
    assert adaptation_slice(asked, "a") == adaptation_slice(plain, "a")
    assert asked.splits() == plain.splits() and len(asked.scored()) == 1


@pytest.mark.parametrize(
    ("evaluation", "text"),
    [
        ({"resistance": {"picture": 5}}, "evaluation.resistance.picture: unknown key; did you mean 'pictures'?"),
        ({"resistance": {"pictures": 0}}, "evaluation.resistance.pictures: "),
        ({"resistance": {"noise": -1}}, "evaluation.resistance.noise: "),
        ({"resistance": {"hue": 0.6}}, "evaluation.resistance.hue: "),
        ({"resistance": {"blur_sigma": 0}}, "evaluation.resistance.blur_sigma: "),
        ({"resistance": {"blur_kernel": 4}}, "evaluation.resistance.blur_kernel: should be odd, not 4"),
        ({"resistance": {"blur_kernel": 65}},
         "evaluation.resistance.blur_kernel: 65 is too large for pictures of 32 pixels, which allow 63"),
        ({"resistance": True}, "evaluation.resistance: "),
        ({"shifts": {"resistance": {"dataset": "tiny", "split": "defense"}}},
         "evaluation.shifts: the name 'resistance' is taken by columns of other figures"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_it_is_told_in_one_line(evaluation, text):
    with pytest.raises(UserError) as error:
        study(**evaluation)
    assert str(error.value).startswith(f"{STUDY}: {text}") and "\n" not in str(error.value)
