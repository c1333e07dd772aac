"""Every attack, defense, detector and measure with model and pictures on a GPU that is pretended."""

import copy
import dataclasses
import warnings

import pytest
import torch
from pretended_gpu import GPU, moved, pretended_gpu

from antidote.attacks.contract import FitContext
from antidote.attacks.trigger import Trigger
from antidote.base.registry import ATTACKS, DEFENSES, DETECTORS, method
from antidote.data.access import DefenseData
from antidote.detectors import cascade
from antidote.detectors.base import items_of
from antidote.evaluation.cell import Cell, score
from antidote.evaluation.persistence import Adaptation, persistence
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import evaluate
from antidote.training.loop import train
from antidote.training.objectives import Contrastive
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work
from antidote.training.tuning import frozen_features
from tests.unit.evaluation.test_measures import Sets

CLASSES, TEMPLATES = ["banana", "boat", "cup", "key", "moon"], ["a photo of a {}.", "the {}"]
MANY = [*CLASSES, "cat", "dog", "fish", "lamp", "tree"]
RECIPE = {"epochs": 1, "batch_size": 4, "warmup": 0}
OF_TEN = {
    "k": 3, "overfit": RECIPE, "training": RECIPE, "overlays": 2, "suspicious_share": 0.3, "forget_share": 0.2,
    "normal_pairs": 4, "steps": 4, "starts": 2, "clusters": 3, "grid": 3,
    "first_steps": 2, "epochs": 1,
}  # fmt: skip
FITTED = {}


@pytest.fixture
def gpu(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pretended_gpu(monkeypatch) as mode:
            yield mode


# --- the device that is pretended ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: torch.stack([here[0], there[0]]),
        lambda here, there: there[here.long()],
        lambda here, there: here.clone().__setitem__([0, 1], there[:2]),
        lambda here, there: here.numpy(),
        lambda here, there: torch.nn.functional.embedding(there.long(), here[:, None]),
        lambda here, there: torch.rand(3, device=GPU, generator=torch.Generator()),
    ],
)
def test_two_devices_do_not_mix(gpu, act):
    with pytest.raises((RuntimeError, TypeError)):
        act(torch.ones(3, device=GPU), torch.ones(3))


def test_what_cuda_allows(gpu):
    here, there = torch.ones(3, device=GPU), torch.ones(3)
    assert here[torch.tensor([0, 1])].device == (here * there[0]).device == there.to(here).device == GPU
    assert here.cpu().device.type == "cpu" and here.cpu().numpy().sum() == 3
    moved_there = there.to(GPU)
    moved_there += 1
    assert there.sum() == 3, "a copy"


def test_a_layer_trains(gpu):
    layer = copy.deepcopy(torch.nn.Linear(3, 2).to(GPU))
    before = layer.weight.detach().clone()
    layer(torch.ones(4, 3, device=GPU)).square().sum().backward()
    torch.optim.AdamW(layer.parameters(), fused=True).step()
    assert layer.weight.grad.device == GPU and not (layer.weight == before).all()


@pytest.mark.parametrize(
    ("act", "waits"),
    [
        (lambda here, there, rows: there[rows], 1),
        (lambda here, there, rows: there[[0, 1]], 1),
        (lambda here, there, rows: there[rows.to(GPU, non_blocking=True)], 0),
        (lambda here, there, rows: here.to(GPU), 1),
        (lambda here, there, rows: there.to(GPU), 0),
        (lambda here, there, rows: torch.tensor([1.0], device=GPU), 1),
        (lambda here, there, rows: torch.zeros(2, device=GPU), 0),
        (lambda here, there, rows: there[:2].copy_(here), 1),
        (lambda here, there, rows: there[:2], 0),
    ],
)
def test_copies_to_the_gpu_that_are_waited_for_are_counted(gpu, act, waits):
    here, there, rows = torch.ones(2), torch.ones(4, device=GPU), torch.tensor([0, 1])
    gpu.copies.clear()
    frozen_features(lambda _: act(here, there, rows), torch.ones(1))  # lines of the project are counted
    assert gpu.copies.total() == waits and not gpu.reads


# --- methods ---------------------------------------------------------------------------------------------------------


def attack_of(name, make_clip, make_pairs, small):
    """Return the attack with its trigger fitted on the pretended device, once for all tests."""
    kind, clip, pairs = method("attack", name), moved(make_clip()), make_pairs(16)
    attack = kind(kind.Settings.read({"method": name, **(small(kind.Settings) if kind.learned else {})}, name),
                  "banana", clip.size)  # fmt: skip
    if name not in FITTED:
        context = FitContext(clip, pairs, CLASSES, TEMPLATES, 0, lambda: pairs)
        FITTED[name] = attack.fit(context if kind.learned else None, 0), attack.facts
    attack.tensors, attack.facts = FITTED[name]
    return attack


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack(gpu, make_clip, make_pairs, small, name):
    """It is fitted, drawn and scored; what it stores is on the CPU."""
    attack = attack_of(name, make_clip, make_pairs, small)
    assert all(value.device.type == "cpu" for value in attack.tensors.values())
    trigger, pictures = Trigger(attack, 0), make_pairs(10, seed=3)
    if attack.triggered:
        images = pictures.images.to(GPU)
        drawn = trigger.draw(images, pictures.keys, "test")
        assert drawn.device == GPU and drawn.dtype == torch.uint8 and (drawn != images).any()
    settings = EvaluationSettings(dataset="tiny", split="test", bootstrap=100, batch_size=4)
    scores = evaluate(Subject(moved(make_clip()), trigger, 0, CLASSES, TEMPLATES), pictures, settings)
    assert scores["pictures"] == 10


@pytest.mark.parametrize("tower", ["rn", "vit"])
def test_every_measure(gpu, make_clip, make_pairs, small, tower):
    sets = {"dataset": "tiny", "split": "train"}
    asked = {"shifts": {"own": sets, "few": {**sets, "among": "own"}}, "retrieval": sets, "probe": sets}
    asked["resistance"] = {"pictures": 3}
    settings = EvaluationSettings(dataset="tiny", split="test", bootstrap=100, batch_size=4, **asked)
    assert set(settings.measures()) == set(settings.measure_classes()), "every measure there is"
    trigger = Trigger(attack_of("badnet", make_clip, make_pairs, small), 0)
    subject = Subject(moved(make_clip(tower)), trigger, 0, CLASSES, TEMPLATES)
    inputs = Sets(None, subject.clip.size, settings, make_pairs(12))
    extra = score(subject, inputs, settings, Cell(visible=True))["extra"]
    assert {"psnr", "ca1_own", "ca1_probe", "resistance_trigger"} <= set(extra)


@pytest.mark.parametrize("kind", ["full", "projection", "lora"])
def test_an_adaptation(gpu, make_clip, make_pairs, tmp_path, kind):
    clip, pairs = moved(make_clip()), make_pairs(8)
    settings = Adaptation.read({"kind": kind, "training": RECIPE, "every": 1}, "adaptation")
    rates = lambda clip: {"ca1": float(clip.encode_text(TEMPLATES).mean()), "score": 0.0}
    curve, _ = persistence(clip, pairs, TEMPLATES, rates, settings, 0, Work(tmp_path, "x"))
    assert [point["step"] for point in curve] == [0, 1, 2]


@pytest.mark.parametrize("name", [name for name in ATTACKS if method("attack", name).trains])
def test_an_attacks_own_training(gpu, make_clip, make_pairs, small, tmp_path, name):
    clip, pairs = moved(make_clip()), make_pairs(16)
    attack = attack_of(name, make_clip, make_pairs, small)
    objective = attack.objective(clip, pairs, pairs, [0, 1, 2, 3])
    train(clip, objective, TrainSettings(epochs=1, batch_size=4, warmup=0), 0, Work(tmp_path, "x"))


@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense(gpu, make_clip, make_pairs, scenes_lexicon, small, tmp_path, name):
    kind, clip, pairs = method("defense", name), moved(make_clip()), make_pairs(10)
    settings = kind.Settings.read({"method": name, **small(kind.Settings)}, name)
    data = DefenseData(pairs=pairs, lexicon=scenes_lexicon, shots=pairs, training_set=pairs,
                       poisoned=frozenset(pairs.keys[:3]), classes=CLASSES, templates=TEMPLATES)  # fmt: skip
    defended = kind(settings, 0).run(clip, data, Work(tmp_path, "x")).clip or clip
    assert defended.device == GPU
    with torch.no_grad():
        features = defended.encode_image(pairs.images)
        assert features.device == GPU and features.isfinite().all()
        assert (features @ defended.class_embeddings(CLASSES, TEMPLATES)).device == GPU


def named(detector):
    """Return class names, as many as the detector needs."""
    return MANY if detector.fewest_classes > len(CLASSES) else CLASSES


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector(gpu, make_clip, make_pairs, tmp_path, name):
    kind, pairs = (
        method("detector", name),
        make_pairs(20, captions=[f"a thing of kind {number}" for number in range(20)]),
    )
    few = {key: value for key, value in OF_TEN.items() if key in kind.Settings.model_fields}
    settings = kind.Settings.read({"method": name, **few, **({"subject": "model"} if kind.control else {})}, "x")
    keyed = dataclasses.replace(pairs, keys=[f"d/train/{key}" for key in pairs.keys])
    data = DefenseData(training_set=keyed, pictures=make_pairs(6, seed=3), pairs=pairs, classes=named(kind),
                       templates=TEMPLATES, shots=make_pairs(15))  # fmt: skip
    if kind.control == "truth":
        data = dataclasses.replace(data, poisoned=frozenset(items_of("model", data)))
    if name == "clean_clip_score":
        data = dataclasses.replace(data, scorer=moved(make_clip()))
    found = kind(settings, 0).score(moved(make_clip()), data, Work(tmp_path, "x"))
    assert len(found.values) == len(found.items)


def test_pairs_are_compared_on_the_gpu(gpu):
    """The products of all pairs with all others are most of the time of CASCADE; the rest is on the CPU."""
    pictures, texts = (torch.nn.functional.normalize(torch.randn(40, 8), dim=1) for _ in range(2))
    expected = cascade.consistency(pictures, texts, 4, torch.device("cpu"))
    assert not gpu.reads
    torch.testing.assert_close(cascade.consistency(pictures, texts, 4, GPU), expected)
    assert {line.partition(":")[0] for line in gpu.reads} == {"detectors/cascade.py"}


# --- what a step waits for -------------------------------------------------------------------------------------------


def test_a_plain_step_waits_for_nothing(gpu, make_clip, make_pairs, tmp_path):
    """Values are read back for the log alone, every tenth step."""
    reads = []
    for epochs in (5, 9):
        gpu.reads.clear()
        gpu.copies.clear()
        settings = TrainSettings(epochs=epochs, batch_size=4, warmup=0, crop_scale=(0.5, 1.0), flip=0.5)
        train(moved(make_clip("rn")), Contrastive(make_pairs(4)), settings, 0, Work(tmp_path / str(epochs), "x"))
        reads.append(gpu.reads + gpu.copies)
    assert reads[0] == reads[1]


@pytest.mark.parametrize("name", [name for name in ATTACKS if "epochs" in method("attack", name).Settings.model_fields])
def test_a_step_of_a_fit_waits_for_nothing(gpu, make_clip, make_pairs, small, name):
    """Values are read back once per epoch at most, whatever the number of its steps."""
    kind, reads = method("attack", name), []
    for count in (8, 16):
        gpu.reads.clear()
        gpu.copies.clear()
        values = {"method": name, **small(kind.Settings), "batch_size": 2}
        attack, pairs = kind(kind.Settings.read(values, name), "banana", 32), make_pairs(count)
        attack.fit(FitContext(moved(make_clip()), pairs, CLASSES, TEMPLATES, 0, lambda pairs=pairs: pairs), 0)
        reads.append(gpu.reads + gpu.copies)
    assert not reads[1] - reads[0]


# All pictures in every step, and hardly a change: further steps do not change which triggers work, and those are read.
STILL = {"inversion": {"optimizer": "adam", "lr": 1e-9, "batch_size": 10}, "screening_batch": 10}


def with_steps(values, count):
    """Return settings in which each number of epochs or steps is `count`, in groups of settings as well."""
    counts = {"epochs", "steps", "first_steps", "inversion_steps", "screening_steps"}
    return {
        key: with_steps(value, count) if isinstance(value, dict) else count if key in counts else value
        for key, value in values.items()
    }


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *(
            (name, STILL if name == "cbpt" else {})
            for name in DEFENSES
            if {"training", "tuning"} & method("defense", name).Settings.model_fields.keys()
        ),
        ("cbpt", {**STILL, "candidates": 3, "screening_steps": 1}),
        ("cbpt", {**STILL, "positives": "pictures", "dummy_triggers": 2}),
    ],
)
def test_a_step_of_a_defense_waits_for_nothing(
    gpu, make_clip, make_pairs, scenes_lexicon, small, tmp_path, name, changes
):
    """A step of training, and of the loops that a defense has of its own, as in the inversion of a trigger."""
    kind, pairs, reads, copies = method("defense", name), make_pairs(10), [], []
    data = DefenseData(pairs=pairs, lexicon=scenes_lexicon, shots=pairs, training_set=pairs,
                       poisoned=frozenset(pairs.keys[:3]), classes=CLASSES, templates=TEMPLATES)  # fmt: skip
    for count in (1, 3):
        gpu.reads.clear()
        gpu.copies.clear()
        values = {"method": name, **with_steps({**small(kind.Settings), **changes}, count)}
        kind(kind.Settings.read(values, name), 0).run(moved(make_clip()), data, Work(tmp_path / str(count), "x"))
        reads.append(gpu.reads.copy())
        copies.append(gpu.copies.copy())
    assert not reads[1] - reads[0]
    # torchvision's operations of AutoAugment build their matrices on the device.
    assert not [line for line in copies[1] - copies[0] if not line.startswith("training/augmentation.py")]


@pytest.mark.parametrize(
    "name", [name for name in DETECTORS if "steps" in method("detector", name).Settings.model_fields]
)
def test_a_step_of_a_detector_waits_for_nothing(gpu, make_clip, make_pairs, tmp_path, name):
    kind, pairs, reads = (
        method("detector", name),
        make_pairs(20, captions=[f"a thing of kind {row}" for row in range(20)]),
        [],
    )
    data = DefenseData(training_set=pairs, pictures=make_pairs(6, seed=3), pairs=pairs, classes=named(kind),
                       templates=TEMPLATES, shots=pairs)  # fmt: skip
    few = {**OF_TEN, "pictures": 8, "captions": 8, "batch_size": 8}  # one step per pass
    for count in (4, 8):
        gpu.reads.clear()
        gpu.copies.clear()
        values = {key: value for key, value in few.items() if key in kind.Settings.model_fields}
        settings = kind.Settings.read({"method": name, **with_steps(values, count)}, name)
        kind(settings, 0).score(moved(make_clip()), data, Work(tmp_path / str(count), "x"))
        reads.append(gpu.reads + gpu.copies)
    assert not reads[1] - reads[0]
