"""The linear probe: its weights minimise what they should, and it is scored as zero-shot classification is."""

import pytest
import torch

from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.registry import method
from antidote.base.settings import read_mapping
from antidote.evaluation.base import as_floor
from antidote.evaluation.metrics import hits, ranks
from antidote.evaluation.probe import Probe, fit_probe, logistic_regression
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import evaluate
from antidote.study.study import Study

CLASSES = ["banana", "boat", "cup", "key", "moon"]
TARGET = 2


def settings(**probe):
    return EvaluationSettings(dataset="d", split="s", bootstrap=100, probe={"dataset": "d", "split": "t", **probe})


def trigger():
    kind = method("attack", "badnet")
    return Trigger(kind(kind.Settings.read({"method": "badnet", "preset": "cleanclip"}, "x"), "cup", 32), 5)


def test_its_weights_are_where_the_gradient_vanishes():
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(60, 8, generator=generator), dim=1)
    labels = torch.randint(0, 3, (60,), generator=generator)
    weights = logistic_regression(features, labels, 3, 5.0, 500).requires_grad_()
    loss = torch.nn.functional.cross_entropy(features @ weights, labels) + weights.square().sum() / (2 * 5.0 * 60)
    loss.backward()
    assert weights.grad.abs().max() < 1e-4 and weights.detach().abs().max() > 0.1
    stronger = logistic_regression(features, labels, 3, 0.01, 500)
    assert stronger.norm() < weights.detach().norm() / 5


def test_parts_of_the_pictures_change_nothing(monkeypatch):
    features = torch.nn.functional.normalize(torch.randn(30, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    whole = logistic_regression(features, torch.arange(30) % 4, 4, 10.0, 200)
    monkeypatch.setattr("antidote.evaluation.probe.BLOCK", 7)
    parts = logistic_regression(features, torch.arange(30) % 4, 4, 10.0, 200)
    torch.testing.assert_close(parts, whole, rtol=1e-2, atol=1e-3)


def test_attack_success_is_counted_as_in_zero_shot_use(make_clip, make_pairs):
    clip, pairs = make_clip("rn"), make_pairs(30)
    attacked, unharmed = (Subject(clip, attack, TARGET, CLASSES, ["a {}"]) for attack in (trigger(), None))
    weights = fit_probe(attacked, make_pairs(40, seed=1), settings().probe, settings())
    found = evaluate(attacked, pairs, settings(), {"probe": weights})
    with torch.no_grad():
        scores = clip.encode_image(pairs.images) @ weights
        drawn = clip.encode_image(trigger().draw(pairs.images, pairs.keys, "test")) @ weights
    counted = hits(*(ranks(part, pairs.labels, TARGET) for part in (scores, drawn)), pairs.labels, TARGET)
    columns = found["heads"]["probe"]
    assert columns == {f"{name}_probe": float(counted[name].mean()) for name in ("ca1", "asr1")}
    plain = evaluate(attacked, pairs, settings())
    assert {key: value for key, value in found.items() if key != "heads"} == plain
    alone = evaluate(unharmed, pairs, settings(), {"probe": weights})
    assert alone["heads"] == {"probe": {"ca1_probe": columns["ca1_probe"]}}
    assert as_floor(columns, Probe.floors) == {"floor_probe": columns["asr1_probe"]}


def test_it_learns_what_features_tell():
    features = torch.nn.functional.normalize(torch.randn(20, 16, generator=torch.Generator().manual_seed(2)), dim=1)
    labels = torch.arange(20) % 5
    weights = logistic_regression(features, labels, 5, 1e6, 500)
    assert torch.equal((features @ weights).argmax(dim=1), labels)


def test_a_class_without_a_picture_is_told(make_clip, make_pairs):
    with pytest.raises(UserError, match=r"^evaluation\.probe: its pictures show no 'key' \(and 1 more\)$"):
        subject = Subject(make_clip(), None, TARGET, CLASSES, ["a {}"])
        fit_probe(subject, make_pairs(9, classes=3), settings().probe, settings())


# --- in a study ------------------------------------------------------------------------------------------------------

STUDY = "tests/studies/tiny.yaml"


def study(**evaluation):
    values = read_mapping(str(ROOT / STUDY))
    values["evaluation"] |= evaluation
    return Study(values, STUDY)


def test_a_study_names_probe_and_retrieval():
    found = study(
        probe={"dataset": "tiny", "split": "train", "pictures": 50},
        retrieval={"dataset": "tiny", "split": "test", "pictures": 9},
    )
    assert [(part.split, found.fit(part)) for part in found.scored()] == [
        ("test", "32"), ("test", "32-9"), ("train", "32-50")
    ]  # fmt: skip
    assert {("tiny", "train"), ("tiny", "test")} <= set(found.splits())
    plain = study()
    assert not {"probe", "retrieval", "precision"} & set(read_mapping(plain.evaluated.slice()))


@pytest.mark.parametrize(
    ("evaluation", "text"),
    [
        ({"probe": {"dataset": "tiny", "split": "test"}},
         "evaluation.probe.split: 'test' is what the probe is scored on; it needs other pictures"),
        ({"probe": {"dataset": "imagenette", "split": "train"}},
         "evaluation.probe.dataset: the classes of imagenette are 'imagenette', the evaluation's are 'scenes'"),
        ({"probe": {"dataset": "tiny", "split": "tarin"}},
         "evaluation.probe.split: tiny has no split 'tarin'; did you mean 'train'?"),
        ({"probe": {"dataset": "tiny"}}, "evaluation.probe.split: is missing"),
        ({"retrieval": {"dataset": "tinny", "split": "test"}}, "evaluation.retrieval.dataset: unknown name 'tinny'; did you mean 'tiny'?"),
        ({"retrieval": {"dataset": "tiny", "split": "tset"}},
         "evaluation.retrieval.split: tiny has no split 'tset'; did you mean 'test'?"),
        ({"retrieval": {"dataset": "tiny", "split": "test", "caption": 5}},
         "evaluation.retrieval.caption: unknown key; did you mean 'captions'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_them_is_told_in_one_line(evaluation, text):
    with pytest.raises(UserError) as error:
        study(**evaluation)
    assert str(error.value).startswith(f"{STUDY}: {text}") and "\n" not in str(error.value)
