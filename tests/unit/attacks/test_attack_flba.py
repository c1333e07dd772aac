"""FLBA: the patch with the largest feature gap, bounded perturbations of the support set, and who trains on it."""

import dataclasses

import pytest
import torch

from antidote.attacks.contract import FitContext
from antidote.attacks.fitting import frozen
from antidote.attacks.flba import FLBA, FLBASettings
from antidote.attacks.trigger import Trigger, load_trigger, save_trigger
from antidote.attacks.victim import Victim
from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.clip.folder import load_model, save_model
from antidote.data.access import DefenseData
from antidote.defenses.linear_probe import LinearProbe, LinearProbeSettings
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import evaluate
from antidote.study.study import Study
from antidote.training.session import Work
from antidote.training.victim import recipe, train_victim

CLASSES, TEMPLATES = ["banana", "boat", "cup", "key", "moon"], ["a photo of a {}."]
TINY = "tests/studies/tiny.yaml"


def flba(clip, pairs, **values):
    small = {"epochs": 2, "batch_size": 4, "lr": 0.05, "patch_size": 8, "patch_iterations": 6}
    settings = {"method": "flba", "preset": "adam_patch", **small, **values}
    attack = FLBA(FLBASettings.read(settings, "x"), "banana", 32)
    attack.tensors = attack.fit(FitContext(frozen(clip), pairs, CLASSES, TEMPLATES, 0), 0)
    return attack


def distances(clip, one, other):
    with torch.no_grad():
        return 1 - (clip.encode_image(one) * clip.encode_image(other)).sum(dim=1)


# --- the trigger -----------------------------------------------------------------------------------------------------


def test_the_patch_moves_features_as_far_as_it_can(make_clip, make_pairs):
    clip, pairs = make_clip("vit"), make_pairs(16)
    gaps = []
    for epochs in (0, 12):
        attack = flba(clip, pairs, epochs=epochs)
        images = pairs.images.float() / 255
        gaps.append(distances(clip, attack.apply(images, range(16)), images).mean().item())
        assert attack.facts["feature_gap"] == pytest.approx(gaps[-1], abs=1e-5)
    assert gaps[1] > gaps[0] + 0.01


@pytest.mark.parametrize("steps", [{"patch_steps": "signed", "patch_iterations": 0}, {"epochs": 0}])
def test_a_patch_that_is_not_fitted_has_no_loss_and_is_stored(make_clip, make_pairs, tmp_path, steps):
    attack = flba(make_clip("vit"), make_pairs(16), **steps)
    save_trigger(tmp_path / "trigger", Trigger(attack, 0), "x")
    assert set(load_trigger(tmp_path / "trigger").attack.facts) == {"feature_gap"}


# --- the support set -------------------------------------------------------------------------------------------------


def test_a_released_model_has_no_place():
    with pytest.raises(UserError, match=r"^it: checkpoint: "):
        FLBASettings.read({"method": "flba", "checkpoint": "model.pt"}, "it")


@pytest.mark.parametrize(("eps", "largest"), [(8, 8), (2.6, 2), (1, 1)])
def test_no_value_moves_further_than_eps(make_clip, make_pairs, eps, largest):
    """In whole 8-bit steps: a bound between two of them is that of the lower."""
    clip, pairs = make_clip("vit"), make_pairs(10)
    images = pairs.images.clone()
    images[0], images[1] = 0, 255  # where the range of values is the bound
    attack = flba(clip, pairs, eps=eps, steps=12)
    before = images.clone()
    attacked, _ = attack.perturb(clip, images, pairs.labels == 0)
    assert attacked.dtype == torch.uint8 and torch.equal(images, before)
    assert (attacked.int() - images.int()).abs().amax(dim=(1, 2, 3)).tolist() == [largest] * 10


def test_the_others_may_have_a_bound_of_their_own(make_clip, make_pairs):
    clip, pairs = make_clip("vit"), make_pairs(10)
    own = pairs.labels == 0
    attacked, _ = flba(clip, pairs, eps=5, repulsive_eps=2, steps=8).perturb(clip, pairs.images, own)
    largest = (attacked.int() - pairs.images.int()).abs().amax(dim=(1, 2, 3))
    assert torch.equal(largest, torch.where(own, 5, 2).int())
    attacked, _ = flba(clip, pairs, repulsive_eps=0, steps=2).perturb(clip, pairs.images, own)
    assert torch.equal(attacked[~own], pairs.images[~own]) and not torch.equal(attacked[own], pairs.images[own])


def test_the_target_is_drawn_near_and_the_others_are_driven_away(make_clip, make_pairs):
    clip, pairs = make_clip("vit"), make_pairs(10)
    attack, own = flba(clip, pairs, own_weight=0, goal="own"), pairs.labels == 0
    goal = attack.apply(pairs.images.float() / 255, range(10))
    attacked, facts = attack.perturb(clip, pairs.images, own)
    before, after = distances(clip, pairs.images, goal), distances(clip, attacked, goal)
    assert (after < before)[own].all() and (after > before)[~own].all()
    assert facts == pytest.approx(
        {
            "target_before": before[own].mean().item(),
            "target_after": after[own].mean().item(),
            "others_before": before[~own].mean().item(),
            "others_after": after[~own].mean().item(),
        },
        abs=1e-5,
    )
    assert torch.equal(attack.perturb(clip, pairs.images, own)[0], attacked), "nothing is random"


@pytest.mark.parametrize(("goal", "own_weight"), [("own", 0), ("centroid", 0), ("centroid", 1.5)])
def test_two_steps_go_along_the_gradients_sign(make_clip, make_pairs, goal, own_weight):
    """By the formula in float64: near c for the target, away from c for the others, and near the own feature for both.

    At the first step the own term is at its maximum and has no slope, so that the second step is the test of it.
    """
    clip, pairs = make_clip("vit"), make_pairs(6)
    attack, own = flba(clip, pairs, steps=2, step_size=1, goal=goal, own_weight=own_weight), pairs.labels == 0
    attacked, _ = attack.perturb(clip, pairs.images, own)
    moved = (attacked.int() - pairs.images.int()).double()
    mean, std = (torch.tensor(v, dtype=torch.double).view(1, 3, 1, 1) for v in ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28]))
    network = clip.network.visual.double()

    def encode(x):
        z = network((x - mean) / std)
        return z / z.norm(dim=1, keepdim=True)

    x = pairs.images.double() / 255
    clean, c = encode(x).detach(), encode(attack.apply(x, range(6))).detach()
    c = torch.nn.functional.normalize(c.mean(dim=0, keepdim=True)) if goal == "centroid" else c
    sign, p, sure = torch.where(own, 1.0, -1.0), torch.zeros_like(x), torch.ones_like(x, dtype=torch.bool)
    for _ in range(2):
        p.requires_grad_()
        z = encode(x + p)
        value = (sign * (z * c).sum(dim=1)).sum() + own_weight * (z * clean).sum()
        (slope,) = torch.autograd.grad(value, p)
        sure &= slope.abs() > 1e-5 * slope.abs().max()
        p = ((x + p.detach() + slope.sign() / 255).clamp(0, 1) - x).detach()
    assert sure.double().mean() > 0.9 and torch.equal(moved[sure], (p * 255).round()[sure])
    if own_weight:
        plain = flba(clip.__class__(clip.network.float(), clip.config), pairs, steps=2, step_size=1, own_weight=0)
        assert not torch.equal(plain.perturb(clip, pairs.images, own)[0], attacked), "the term tells"


def test_the_released_recipe(make_clip, make_pairs):
    """32 pixels of 224 at the bottom right; every step of the patch moves each value by 0.04 of its channel."""
    settings = FLBASettings.read({"method": "flba", "preset": "released"}, "x")
    assert (settings.patch_size, settings.location, settings.own_weight, settings.goal) == (
        32, "bottom-right", 1.5, "centroid"
    )  # fmt: skip
    assert (settings.steps, settings.step_size, settings.eps, settings.repulsive_eps) == (20, 2, 8, None)
    assert (settings.patch_iterations, settings.patch_step) == (80, 0.04)
    clip, pairs = make_clip("vit"), make_pairs(16)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28]))
    changed = {"preset": "released", "patch_size": 8, "batch_size": 8}
    none, one, many = (flba(clip, pairs, **changed, patch_iterations=count) for count in (0, 1, 20))
    assert ((none.tensors["patch"] - mean).abs() <= 0.5 / 255 + 1e-6).all()
    steps = (one.tensors["patch"] - mean).abs() / (0.04 * std)
    assert ((steps - 1).abs() <= 0.5 / 255 / (0.04 * std) + 1e-4).all(), "all values moved by one step, but for 8 bits"
    assert many.facts["feature_gap"] > none.facts["feature_gap"]
    assert torch.equal(many.apply(torch.zeros(1, 3, 32, 32), [0])[0, :, 24:, 24:], many.tensors["patch"])


# --- the user --------------------------------------------------------------------------------------------------------


def test_recipes():
    probe, prompts = (recipe(Victim(victim=victim)) for victim in ("linear_probe", "prompts"))
    assert (probe.epochs, probe.lr, prompts.epochs, prompts.lr) == (40, 0.01, 50, 0.002)
    adam = recipe(Victim.read({"victim_training": {"optimizer": "adam", "lr": 0.001}}, "x"))
    assert (adam.optimizer, adam.lr, adam.epochs) == ("adam", 0.001, 40)
    own = recipe(Victim.read({"victim": "prompts", "victim_training": {"epochs": 3, "lr": 0.5, "momentum": 0}}, "x"))
    assert (own.epochs, own.lr, own.momentum, own.batch_size, own.optimizer) == (3, 0.5, 0, 32, "sgd")


def test_the_user_trains_a_linear_probe_on_each_support_set(make_clip, make_pairs, tmp_path):
    clean, attacked = make_pairs(10), make_pairs(10, seed=1)
    settings = Victim.read({"victim_training": {"epochs": 3, "batch_size": 5, "lr": 0.1}}, "x")
    clip = make_clip("vit")
    state = {name: value.clone() for name, value in clip.network.state_dict().items()}
    report = train_victim(clip, attacked, clean, CLASSES, settings, 0, Work(tmp_path / "w", "x"))
    head = report.clip
    for shots, found in ((attacked, head), (clean, head.control)):
        probe = LinearProbe(LinearProbeSettings(tuning=recipe(settings)), 0)
        data = DefenseData(shots=shots, classes=CLASSES)
        alone = probe.run(make_clip("vit"), data, Work(tmp_path / str(id(shots)), "x")).clip
        assert torch.equal(found.tensors["weights"], alone.tensors["weights"])
    assert (report.steps, report.pairs) == (12, 10) and (tmp_path / "w" / "train.jsonl").is_file()
    assert all(torch.equal(value, state[name]) for name, value in head.network.state_dict().items())
    save_model(tmp_path / "m", head, {})
    again = load_model(tmp_path / "m")
    assert torch.equal(again.control.tensors["weights"], head.control.tensors["weights"])
    values = EvaluationSettings(dataset="d", split="s", bootstrap=100)
    scores = [evaluate(Subject(model, None, 0, CLASSES, TEMPLATES), clean, values)["ca1"] for model in (again, head)]
    assert scores[0] == scores[1]


def test_the_user_learns_one_context_for_all_classes(make_clip, make_pairs, tmp_path):
    pairs = make_pairs(10)
    settings = {"victim": "prompts", "victim_training": {"epochs": 1, "batch_size": 10, "lr": 1e-9}}

    def weights(**changes):
        values = {**settings, "victim_training": {**settings["victim_training"], **changes}}
        clip, work = make_clip("vit"), Work(tmp_path / str(changes), "x")
        head = train_victim(clip, pairs, pairs, CLASSES, Victim.read(values, "x"), 0, work).clip
        assert head.description["cosine"]
        return head.tensors["weights"]

    start = make_clip("vit").encode_text([f"a photo of a {name}." for name in CLASSES])
    torch.testing.assert_close(weights(), start, rtol=0, atol=1e-5)
    learned = weights(epochs=60, lr=0.5)
    clip = make_clip("vit")
    with torch.no_grad():
        features, scale = clip.encode_image(pairs.images), clip.network.logit_scale.exp()
        losses = [torch.nn.functional.cross_entropy(scale * features @ w.T, pairs.labels) for w in (start, learned)]
    assert losses[1] < losses[0] and not torch.allclose(learned, start, atol=1e-3)


def test_a_class_without_a_picture_is_told(make_clip, make_pairs, tmp_path):
    pairs = dataclasses.replace(make_pairs(10), labels=torch.zeros(10, dtype=torch.long))
    for victim in ("linear_probe", "prompts"):
        with pytest.raises(UserError, match=r"pools\.shots: holds no picture of class 'boat'"):
            train_victim(make_clip(), pairs, pairs, CLASSES, Victim(victim=victim), 0, Work(tmp_path / victim, "x"))


# --- in a study ------------------------------------------------------------------------------------------------------


def study(pools=None, **entry):
    values = read_mapping(str(ROOT / TINY))
    values["pools"] |= {
        "inversion": {"split": "defense", "pairs": 40}, "shots": {"split": "train", "per_class": 2},
        "defense": {"split": "defense", "pairs": 100}, **(pools or {})
    }  # fmt: skip
    values["pools"] = {name: pool for name, pool in values["pools"].items() if pool}
    values["attacks"] = {"few": {"method": "flba", "patch_size": 6, **entry}}
    return Study(values, TINY)


def test_its_other_cells_are_blank_and_no_poison_pool_is_needed():
    found = study({"poison": None})
    assert found.few_shot("few") and found.cells == [("few", "none")]
    reasons = {(attack, defense): reason for attack, defense, reason in found.blank}
    assert reasons["few", "finetune"] == "flba: the backdoor is in a few-shot classifier, not in the CLIP"


@pytest.mark.parametrize(
    ("pools", "entry", "text"),
    [
        ({"shots": None}, {}, "pools.shots: is missing; the attack 'few' needs labelled pictures"),
        ({"inversion": None}, {}, "pools.inversion: is missing, and the trigger of 'few' is fitted on its pairs"),
        ({}, {"training": {"lr": 1}}, "attacks.few.training: nothing is trained on poisoned pairs here"),
        ({}, {"victim": "probe"}, "attacks.few: victim: input should be 'linear_probe' or 'prompts', not 'probe'"),
        ({}, {"caption": "template"}, "attacks.few: caption: input should be 'original', not 'template'"),
        ({}, {"patch_size": 33}, "attacks.few.patch_size: 33 is larger than the picture (32 pixels)"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(pools, entry, text):
    with pytest.raises(UserError) as error:
        study(pools, **entry)
    assert str(error.value).startswith(f"{TINY}: {text}") and "\n" not in str(error.value)
