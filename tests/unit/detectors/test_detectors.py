"""The contract of detectors: scores over their subject's items, nothing changed, no way to the truth."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from antidote.base.errors import UserError
from antidote.base.fingerprint import reachable
from antidote.base.registry import DETECTORS, method, module
from antidote.clip.model import Clip
from antidote.clip.patch_masking import PatchMasking
from antidote.clip.visual_prompts import VisualPrompts
from antidote.data.access import GRANTS, DefenseData
from antidote.detectors.base import MODEL, Detector, items_of
from antidote.training.session import Work

SUBJECTS = ("model", "pairs", "pictures")
CLASSES = ["banana", "boat", "cactus", "kite", "ladder", "cup", "drum", "fish", "key", "lamp"]
TEMPLATES = ["a photo of a {}."]


def entries():
    """Return every method with each subject that it can have."""
    kinds = {name: method("detector", name) for name in DETECTORS}
    return [(name, subject) for name, kind in kinds.items() for subject in SUBJECTS
            if kind.control or kind.subject == subject]  # fmt: skip


def settings_of(name, subject):
    kind = method("detector", name)
    recipe = {"epochs": 1, "batch_size": 4, "warmup": 0}
    of_ten = {
        "pictures": 10,
        "captions": 10,
        "k": 3,
        "overfit": recipe,
        "suspicious_share": 0.3,
        "forget_share": 0.2,
        "normal_pairs": 4,
        "steps": 4,
        "starts": 2,
        "clusters": 3,
        "grid": 3,
        "training": recipe,
        "overlays": 2,
        "first_steps": 2,
        "kept": 2,
        "side": 0.5,
        "width": 12,
        "epochs": 1,
        "hit_rate": 0.01,
    }
    small = {key: value for key, value in of_ten.items() if key in kind.Settings.model_fields}
    return kind.Settings.read({"method": name, **small, **({"subject": subject} if kind.control else {})}, "x")


@pytest.fixture
def data(make_pairs):
    pairs = make_pairs(10)
    named = dataclasses.replace(pairs, keys=[f"d/train/{key}" for key in pairs.keys])
    shown = dataclasses.replace(make_pairs(6, seed=3), keys=[str(place) for place in range(6)])
    return DefenseData(training_set=named, pictures=shown, pairs=pairs, classes=CLASSES, templates=TEMPLATES,
                       shots=make_pairs(15, classes=5))  # fmt: skip


@pytest.mark.parametrize(("name", "subject"), entries())
def test_scores_cover_the_subject(make_clip, data, tmp_path, name, subject):
    settings, kind = settings_of(name, subject), method("detector", name)
    clip, given = make_clip("vit"), data
    if kind.control == "truth":
        given = dataclasses.replace(data, poisoned=frozenset(items_of(subject, data)[:1]))
    if name == "clean_clip_score":
        given = dataclasses.replace(data, scorer=make_clip("vit"))
    if name == "neural_cleanse":  # no picture gets most of ten classes of a random model
        given = dataclasses.replace(data, classes=CLASSES[:5])
        settings = settings.model_copy(update={"steps": 30, "lr": 0.5})
    before = copy.deepcopy(clip.network.state_dict())
    found = kind(settings, 0).score(clip, given, Work(tmp_path / "work", "x"))
    assert list(found.items) == items_of(subject, data)
    assert found.values.shape == (len(found.items),) and np.isfinite(found.values).all()
    assert all(torch.equal(value, before[key]) for key, value in clip.network.state_dict().items()), "left as it was"
    again = kind(settings, 0).score(clip, given, Work(tmp_path / "again", "x"))
    assert np.array_equal(found.values, again.values), "the same seed gives the same scores"


DESCENDS = {"decree", "seer", "neural_cleanse", "ssl_cleanse", "patch_places", "max_margin", "cognitive_distillation",
            "imbert_salience"}  # fmt: skip


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_says_whether_it_needs_gradients_of_pictures(make_clip, data, tmp_path, name):
    """Others score a model without such gradients, and are not refused."""
    clip, kind = make_clip("vit"), method("detector", name)
    reason = f"needs gradients with respect to pictures, and the adapter {PatchMasking.name} has none"
    assert kind.suits(PatchMasking) == (reason if name in DESCENDS else None)
    assert kind.suits(Clip) is None and kind.suits(VisualPrompts) is None
    if name not in DESCENDS and not kind.control:
        weights = torch.nn.functional.normalize(torch.randn(10, 16, generator=torch.Generator().manual_seed(3)), dim=1)
        masking = PatchMasking(clip.network, clip.config, {"weights": weights}, {"cell": 8, "masked": 2})
        given = dataclasses.replace(data, scorer=clip) if name == "clean_clip_score" else data
        found = kind(settings_of(name, kind.subject), 0).score(masking, given, Work(tmp_path / "work", "x"))
        assert np.isfinite(found.values).all()


@pytest.mark.parametrize("name", DETECTORS)
def test_statements(name):
    kind = method("detector", name)
    assert issubclass(kind, Detector) and kind.__doc__ and kind.access in GRANTS
    assert kind.control or kind.subject in SUBJECTS
    owns = GRANTS[kind.access].training_set
    assert not (owns and getattr(kind, "subject", "") == "model"), "the clean references have no poisoned training set"
    assert not [key for key, field in kind.Settings.model_fields.items() if not field.description and key != "method"]
    with pytest.raises(UserError, match=r"^x: lable: unknown key; did you mean 'label'\?$"):
        kind.Settings.read({"method": name, "lable": "A"}, "x")


@pytest.mark.parametrize("name", DETECTORS)
def test_no_detector_can_reach_an_attack_or_the_truth(name):
    code = reachable(module("detector", name))
    assert not [part for part in code if part.startswith(("antidote.attacks", "antidote.evaluation", "antidote.study"))]
    assert method("detector", name).access != "oracle"


def test_controls():
    """Random scores depend on seed and item alone; the oracle repeats the truth."""
    data = DefenseData(poisoned=frozenset({MODEL}))
    oracle = method("detector", "oracle")(settings_of("oracle", "model"), 0)
    assert oracle.score(None, data, None).values.tolist() == [1.0]
    one, other = (method("detector", "random")(settings_of("random", "model"), seed).score(None, data, None)
                  for seed in (0, 1))  # fmt: skip
    assert 0 <= one.values[0] < 1 and one.values[0] != other.values[0]
