"""Figures of detection: on scores whose figures are known by hand, and what a detector of pictures is handed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.data.access import DefenseData
from antidote.data.pairs import SHARD_PLACE
from antidote.detectors.base import MODEL, Detector, DetectorSettings, NoScore, Scores
from antidote.evaluation.detection import RATES, figures, mixed_pictures
from antidote.evaluation.ranking import calibrated
from antidote.summary.detections import Detection
from scripts import detect


def scores(values, threshold=None):
    return Scores([f"i{place}" for place in range(len(values))], np.array(values, dtype=float), threshold)


def test_figures_worked_out_by_hand():
    """Poisoned: 0.9 and 0.4; clean: 0.8, 0.3, 0.2, 0.1. Of the 8 pairs of one poisoned and one clean, 7 are in order."""
    found = figures(scores([0.9, 0.8, 0.4, 0.3, 0.2, 0.1], threshold=0.35), {"i0", "i2"})
    assert found["auroc"] == 7 / 8
    assert found["auprc"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found["tpr_at_fpr1"] == 1 / 2, "no clean item may be flagged: 0.9 alone is above 0.8"
    assert found["fpr_at_tpr1"] == 1 / 4, "0.8 comes before 0.4"
    assert (found["precision"], found["recall"], found["fpr"]) == (2 / 3, 1.0, 1 / 4), "0.8 is above 0.35"
    assert found["precision_at_poisons"] == 1 / 2
    assert tuple(found) == RATES


def test_ties_count_half():
    found = figures(scores([1, 1, 0]), {"i0"})
    assert (found["auroc"], found["precision_at_poisons"]) == (3 / 4, 1 / 2)
    found = figures(scores([3, 1, 1, 1]), {"i0", "i1"})
    assert found["precision_at_poisons"] == pytest.approx((1 + 1 / 3) / 2), "the first, and one of three equal ones"


@pytest.mark.parametrize("poisoned", [set(), {"i0", "i1"}, {"elsewhere"}])
def test_without_two_kinds_there_is_nothing_to_tell_apart(poisoned):
    found = figures(scores([1, 0], threshold=0.5), poisoned)
    assert found["auroc"] is None and found["tpr_at_fpr1"] is None
    assert found["recall"] == (1 / 2 if "i0" in poisoned else None) and found["fpr"] is None


def test_items_are_not_compared_with_every_poisoned_one():
    compared = []

    class Key(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            compared.append(other)
            return str.__eq__(self, other)

    keys = [Key(place) for place in range(200)]
    found = figures(Scores(keys, np.arange(200.0)), set(keys[100:]))
    assert found["auroc"] == 1 and len(compared) < 400, "100 x 200 comparisons otherwise"


def test_a_threshold_that_flags_nothing_has_no_precision():
    found = figures(scores([0.1, 0.2], threshold=9), {"i0"})
    assert found["precision"] is None and found["recall"] == 0


def test_a_threshold_calibrated_on_clean_items():
    """Of 99 clean items none may be above the flagged one: (1 + 0) / 100 <= 0.01, and (1 + 1) / 100 is more."""
    values = np.array([*range(99), 98.5, 98, 97.5, 1.0])
    truth = np.arange(len(values)) >= 99
    assert calibrated(values, truth) == {"tpr_calibrated": 1 / 4, "fpr_calibrated": None}, "98 equals a clean score"
    assert calibrated(values, truth, 0.02)["tpr_calibrated"] == 3 / 4
    assert calibrated(values[1:], truth[1:]) == {"tpr_calibrated": None, "fpr_calibrated": None}, "98 are too few"


def test_a_calibrated_threshold_keeps_its_rate_on_clean_items_of_the_other_half():
    drawn = np.random.default_rng(0).normal(size=4000)
    truth = np.zeros(4000, dtype=bool)
    truth[:400] = True
    drawn[:400] += 3
    rates = [calibrated(drawn, truth, 0.05, seed) for seed in range(20)]
    assert np.mean([found["fpr_calibrated"] for found in rates]) == pytest.approx(0.05, abs=0.005)
    assert all(found["tpr_calibrated"] > 0.8 for found in rates)
    assert figures(scores(drawn), {f"i{row}" for row in range(400)}, 0.05)["fpr_calibrated"] == pytest.approx(
        0.05, abs=0.02
    )


@pytest.mark.parametrize("wrong", [scores([1, float("nan")]), Scores(["i0"], np.array([1.0, 2.0]))])
def test_scores_that_are_no_scores_are_one_line(wrong):
    with pytest.raises(UserError, match=r"^detector: every item needs one finite score$"):
        figures(wrong, {"i0"})


def test_mixed_pictures_tell_nothing(make_pairs):
    pairs = replace(make_pairs(9, classes=3), places=np.zeros(9, SHARD_PLACE))
    attack = method("attack", "badnet")
    trigger = Trigger(attack(attack.Settings.read({"method": "badnet", "preset": "checkered"}, "x"), "banana", 32), 0)
    others = pairs.take(torch.nonzero(pairs.labels != 0).flatten())
    mixed, triggered = mixed_pictures(pairs, trigger, 0, 4, seed=1)
    assert len(mixed) == 8 and len(triggered) == 4 and set(mixed.captions) == {""} and (mixed.labels == -1).all()
    assert mixed.places is None
    assert list(mixed.keys) == [str(place) for place in range(8)]
    known = {picture.numpy().tobytes() for picture in others.images}
    clean = {key for key, image in zip(mixed.keys, mixed.images, strict=True) if image.numpy().tobytes() in known}
    assert clean == set(mixed.keys) - triggered
    assert triggered != mixed_pictures(pairs, trigger, 0, 4, seed=2)[1], "the order follows the seed"
    assert mixed_pictures(pairs, trigger, 0, 100, seed=1)[0].images.shape[0] == 2 * len(others)


def test_the_controls_are_at_random_and_perfect(make_pairs):
    """The row `random` is at an AUROC of 0.5, and the row `oracle` at 1, whatever is poisoned."""
    pairs = SimpleNamespace(keys=[f"pair{row}" for row in range(4000)])
    poisoned = frozenset(pairs.keys[::20])
    data = DefenseData(training_set=pairs, poisoned=poisoned)
    rows = {name: figures(method("detector", name)(method("detector", name).Settings(), 0).score(None, data, None), poisoned)
            for name in ("random", "oracle")}  # fmt: skip
    spread = (1 / 12 / 200) ** 0.5  # of the mean rank of 200 among many
    assert abs(rows["random"]["auroc"] - 0.5) < 3 * spread and rows["random"]["tpr_at_fpr1"] < 0.04
    assert {rows["oracle"][name] for name in ("auroc", "auprc", "tpr_at_fpr1", "recall", "tpr_calibrated")} == {1.0}
    assert {rows["oracle"][name] for name in ("fpr", "fpr_at_tpr1", "fpr_calibrated")} == {0.0}


@pytest.mark.parametrize("failed", [True, False])
def test_a_model_without_a_score_is_recorded(failed):
    """The study goes on: the fields are null, and the evidence says why."""

    class Searching(Detector):
        Settings, subject = DetectorSettings, "model"

        def score(self, clip, data, work):
            if failed:
                raise NoScore("x: no trigger was found", {"class": "boat"})
            return Scores([MODEL], np.array([3.0]), 2.0)

    given = SimpleNamespace(false_positives=0.01, seed=0)
    detector = Searching(DetectorSettings(method="x"), 0)
    found, judged = detect.judge(detector, None, DefenseData(), None, {MODEL}, given)
    assert (judged["score"], judged["threshold"], judged["recall"]) == ((None,) * 3 if failed else (3.0, 2.0, 1.0))
    assert dict(found.evidence) == ({"no score": "x: no trigger was found", "class": "boat"} if failed else {})
    assert list(found.items) == [MODEL] and Detection.read({"items": 1, "poisoned": 1, **judged}, "x")
