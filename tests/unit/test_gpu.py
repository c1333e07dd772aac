"""A GPU computes what the CPU computes, within rounding. Skipped without a GPU; `benchmarks/gpu_check.py` runs them."""

import copy
import json

import pytest
import torch

from antidote.attacks.contract import FitContext
from antidote.attacks.trigger import Trigger, full_precision
from antidote.base.registry import ATTACKS, method
from antidote.clip.model import Clip
from antidote.data.access import DefenseData
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import evaluate
from antidote.training.inversion import InversionSettings, Together, TowardClass, invert
from antidote.training.loop import train
from antidote.training.objectives import Contrastive
from antidote.training.patches import SearchSettings, search, toward
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
GPU = torch.device("cuda")
CLASSES, TEMPLATES = ["banana", "boat", "cup", "key", "moon"], ["a photo of a {}.", "the {}"]


@pytest.fixture(autouse=True)
def _full_precision():
    """The shorter products that a GPU may compute with are far from the CPU's."""
    with full_precision():
        yield


def twice(clip):
    """Return the model on the CPU, and its copy on the GPU."""
    return clip, Clip(copy.deepcopy(clip.network).to(GPU), clip.config)


def trained(clip, pairs, folder, **changes):
    """Train; return the losses of the log, and features of the pairs."""
    recipe = {"epochs": 5, "batch_size": 8, "warmup": 0, "lr": 1e-4, "crop_scale": (0.5, 1.0), "flip": 0.5, **changes}
    train(clip, Contrastive(pairs), TrainSettings(**recipe), 0, Work(folder, "x"))
    losses = [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    clip.network.eval()
    with torch.no_grad():
        return losses, clip.encode_image(pairs.images).cpu()


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_a_training(make_clip, make_pairs, tmp_path, kind):
    here, there = twice(make_clip(kind))
    pairs = make_pairs(32)
    losses, features = trained(here, pairs, tmp_path / "cpu")
    found, moved = trained(there, pairs, tmp_path / "gpu")
    assert there.device.type == GPU.type and found == pytest.approx(losses, rel=1e-3)
    assert (features * moved).sum(dim=1).min() > 0.999


def test_a_training_in_bf16(make_clip, make_pairs, tmp_path):
    here, there = twice(make_clip())
    pairs = make_pairs(32)
    losses, features = trained(here, pairs, tmp_path / "cpu")
    found, moved = trained(there, pairs, tmp_path / "gpu", precision="bf16")
    assert found == pytest.approx(losses, rel=0.05)
    assert (features * moved).sum(dim=1).min() > 0.95


@pytest.mark.parametrize("name", [name for name in ATTACKS if method("attack", name).triggered])
def test_a_trigger(make_clip, make_pairs, small, name):
    kind, clip, pairs = method("attack", name), make_clip(), make_pairs(8)
    values = small(kind.Settings) if kind.learned else {}
    attack = kind(kind.Settings.read({"method": name, **values}, name), "banana", clip.size)
    context = FitContext(clip, pairs, CLASSES, TEMPLATES, 0, lambda: pairs) if kind.learned else None
    attack.tensors, attack.facts = attack.fit(context, 0), attack.facts
    trigger = Trigger(attack, 0)
    drawn = trigger.draw(pairs.images, pairs.keys, "test")
    there = trigger.draw(pairs.images.to(GPU), pairs.keys, "test")
    assert there.device.type == GPU.type and there.dtype == drawn.dtype
    apart = (there.cpu().int() - drawn.int()).abs()
    assert apart.max() <= 1 and (apart > 0).double().mean() < 0.01, "one level, where a value is rounded the other way"


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_an_evaluation(make_clip, make_pairs, kind):
    here, there = twice(make_clip(kind))
    pictures, attack = make_pairs(60, seed=3), method("attack", "badnet")
    trigger = Trigger(attack(attack.Settings(), "banana", here.size), 0)
    settings = EvaluationSettings(dataset="tiny", split="test", bootstrap=100, batch_size=16)
    scores, found = (
        evaluate(Subject(clip, trigger, 0, CLASSES, TEMPLATES), pictures, settings) for clip in (here, there)
    )
    with torch.no_grad():
        features = here.encode_image(pictures.images)
        assert torch.allclose(there.encode_image(pictures.images).cpu(), features, atol=1e-4)
    assert found.keys() == scores.keys() and found["pictures_asr"] == scores["pictures_asr"]
    for name in ("ca1", "asr1"):
        assert found[name] == pytest.approx(scores[name], abs=2.5 / 60), "two pictures may lie between two classes"


@pytest.mark.parametrize("goal", ["a class", "no class"])
def test_an_inversion(make_clip, make_pairs, tmp_path, goal):
    found, pairs = [], make_pairs(16)
    texts = torch.nn.functional.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    settings = InversionSettings(inversion={"optimizer": "adam", "lr": 0.1, "schedule": "constant", "batch_size": 8})
    for number, clip in enumerate(twice(make_clip())):
        clip.network.eval().requires_grad_(False)
        with torch.no_grad():
            features = clip.encode_image(pairs.images)
        aim = (
            TowardClass(texts.to(clip.device), 2, 0.07, 0.5)
            if goal == "a class"
            else Together(features[None], 0.07, 0.1)
        )
        found.append(invert(clip, pairs.images, aim, settings, 20, 3, Work(tmp_path / str(number), "x")))
    here, there = found
    assert there.mask.device.type == GPU.type and there.works == here.works
    assert there.goal == pytest.approx(here.goal, rel=1e-3) and there.area == pytest.approx(here.area, rel=1e-3)


def test_a_search_of_many_triggers(make_clip, make_pairs, tmp_path):
    found, pairs = [], make_pairs(16)
    texts = torch.nn.functional.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    for number, clip in enumerate(twice(make_clip())):
        goals = toward(texts.to(clip.device), 0.07)
        settings = SearchSettings(steps=20, batch_size=8)
        found.append(search(clip, pairs.images, goals, 0.5, 5, settings, 0, Work(tmp_path / str(number), "x")))
    here, there = found
    assert torch.equal(there.works, here.works) and torch.allclose(there.areas, here.areas, rtol=1e-3)


@pytest.mark.parametrize("name", ["cleanclip", "cbpt", "rvpt"])
def test_a_defense(make_clip, make_pairs, scenes_lexicon, small, tmp_path, name):
    kind, pairs, found = method("defense", name), make_pairs(10), []
    data = DefenseData(pairs=pairs, lexicon=scenes_lexicon, shots=pairs, classes=CLASSES, templates=TEMPLATES)
    settings = kind.Settings.read({"method": name, **small(kind.Settings)}, name)
    for number, clip in enumerate(twice(make_clip())):
        defended = kind(settings, 0).run(clip, data, Work(tmp_path / str(number), "x")).clip or clip
        assert defended.device == clip.device
        with torch.no_grad():
            found.append((defended.encode_image(pairs.images) @ defended.class_embeddings(CLASSES, TEMPLATES)).cpu())
    assert torch.allclose(found[1], found[0], atol=1e-2)
