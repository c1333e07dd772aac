"""`antidote audit` and `antidote inspect` with toy detectors: scores, detectors that are left out, and audits that go on."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from toy_detectors import (
    PATCH,
    Broken,
    NeedsClasses,
    NeedsPairs,
    NeedsShots,
    ToyModel,
    ToyPictures,
    audited,
    inspected,
    study,
)

from antidote.base import registry
from antidote.base.errors import UserError
from antidote.clip.folder import save_model
from antidote.clip.patch_masking import PatchMasking
from antidote.command import audit, given
from antidote.command.table import COMMANDS
from antidote.detectors.base import MODEL, NoScore, Scores


def test_detectors_get_the_data_that_the_user_gives(place):
    found = audited(place, "--pairs", place / "pictures", "--detector", "needs_pairs")
    assert [finding["score"] for finding in found["findings"]] == [4.0]


def test_pictures_are_scored_brightest_first(place):
    inspected(place, "--detector", "bright", "--shown", 2)
    scores = pd.read_csv(place / "out" / "scores.csv")
    assert scores["picture"].tolist() == [3, 2, 1, 0] and scores["score"].tolist() == [200, 140, 80, 20]
    assert json.loads((place / "out" / "inspect.json").read_text())["suspicious"] == 2
    page = (place / "out" / "report.html").read_text()
    assert page.count("<img") == 2 and "2 of 4 pictures reach" in page


def test_a_few_shot_detector_of_pictures_gets_labelled_pictures(place):
    for name in ("cup", "boat"):
        (place / "shots" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(place / "shots" / name / "a.png")
    inspected(place, "--detector", "needs_shots", "--shots", place / "shots")
    assert len(pd.read_csv(place / "out" / "scores.csv")) == 4


def test_bad_input_is_one_line(place):
    (place / "names.json").write_text('{"a": 1}')
    (place / "twice.json").write_text('["cup", "cup"]')
    cases = [
        (
            audited,
            ["--detector", "bright"],
            "--detector: 'bright' does not score models; known: toy, needs_pairs, broken",
        ),
        (audited, ["--population", place / "none"], "none: no such folder; should be results/STUDY"),
        (audited, ["--population", place / "pictures"], "holds no scores of detectors of models"),
        (audited, ["--output", place / "names.json"], "names.json: is a file; should name a folder"),
        (audited, ["--output", place / "names.json" / "out"], "out: cannot be written ("),
        (audited, ["--classes", place / "twice.json"], "twice.json: lists 'cup' more than once"),
        (audited, ["--false-alarms", "2"], "--false-alarms: 2 should be a fraction"),
        (audited, ["--classes", place / "names.json"], "should hold a JSON list of texts"),
        (
            inspected,
            ["--detector", "toy"],
            "--detector: 'toy' does not score pictures; known: bright, needs_classes, needs_shots",
        ),
        (inspected, ["--detector", "needs_shots"], "--detector: needs_shots needs labelled pictures (--shots)"),
        (inspected, ["--detector", "needs_classes"], "--classes: is missing"),
        (inspected, ["--detector", "needs_classes", "--classes", place / "names.json"], "should hold a JSON list"),
    ]
    for run, words, message in cases:
        with pytest.raises(UserError, match=re.escape(message)):
            run(place, *words)
    (place / "pictures" / "4.png").write_text("no picture")
    inspected(place, "--detector", "bright")
    assert len(pd.read_csv(place / "out" / "scores.csv")) == 4, "a picture that cannot be read is left out"


@pytest.mark.parametrize("kind", [ToyModel, type("Descending", (ToyModel,), {"descends": True})])
def test_a_model_without_gradients_of_pictures_has_a_finding(place, make_clip, monkeypatch, kind):
    clip = make_clip("vit")
    weights = torch.nn.functional.normalize(torch.randn(3, 16), dim=1)
    masking = PatchMasking(clip.network, clip.config, {"weights": weights}, {"cell": 8, "masked": 2})
    save_model(place / "model", masking, {"kind": "defended", "statement": "test"})
    monkeypatch.setattr(audit, "method", lambda *_: kind)
    [finding] = audited(place, "--detector", "toy")["findings"]
    if kind is ToyModel:
        assert finding["score"] == 0.8
    else:
        reason = "it needs gradients with respect to pictures, and the adapter patch_masking has none"
        assert finding["left_out"] == reason


def test_toys_do_not_stay_in_the_registry():
    assert "toy" not in registry.DETECTORS


@pytest.mark.parametrize("run", [audited, inspected])
def test_work_folders_do_not_stay_and_the_output_may_be_the_working_folder(place, run, monkeypatch):
    made = []

    def score(self, clip, data, work):
        work.folder.mkdir()
        made.append(work)
        items = [MODEL] if data.pictures is None else data.pictures.keys
        return Scores(items, np.zeros(len(items)))

    for kind in (ToyModel, ToyPictures):
        monkeypatch.setattr(kind, "score", score)
    (place / "here").mkdir()
    monkeypatch.chdir(place / "here")
    run(place, "--detector", "toy" if run is audited else "bright", "--output", ".")
    assert (place / "here" / "report.html").is_file() and len(made) == 1 and not made[0].folder.exists()
    assert made[0].folder.parent == place and len(made[0].identity) == 64


def test_the_order_of_the_rows_changes_no_score(place, monkeypatch):
    """A detector that takes the first pairs gets the same ones for every order of a table's rows."""

    def score(self, clip, data, work):
        first = data.pairs.take([0, 1])
        return Scores([MODEL], np.array([float(first.images.double().mean())]), evidence={"captions": first.captions})

    monkeypatch.setattr(NeedsPairs, "score", score)
    rows = [f"pictures/{number}.png,caption {number}" for number in range(4)]
    found = []
    for name, order in (("sorted", rows), ("reversed", rows[::-1])):
        (place / f"{name}.csv").write_text("\n".join(["path,caption", *order]))
        words = ["--pairs", place / f"{name}.csv", "--detector", "needs_pairs", "--output", place / name]
        found.append(audited(place, *words)["findings"][0])
    one, other = found
    assert (one["score"], one["evidence"]) == (other["score"], other["evidence"])


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_number_is_left_out(place, monkeypatch, score):
    monkeypatch.setattr(Broken, "answer", score)
    found = audited(place, "--population", study(place, clean=[0.1] * 11, backdoored=[0.9]), "--detector", "broken")
    reason = "its score is not a number: the model's features are not finite"
    assert found["verdict"] == f"no verdict: no detector has a score; broken: {reason}"
    assert (found["findings"][0]["score"], found["findings"][0]["left_out"]) == (None, reason)


def test_a_model_without_finite_features_gets_no_score(place, make_clip):
    clip = make_clip("vit")
    clip.network.visual.ln_post.weight.data.fill_(float("nan"))
    found = audit.audit(clip, detectors=["toy"])
    assert found.findings[0].score is None and "features are not finite" in found.findings[0].left_out


def test_a_fault_of_one_detector_does_not_lose_the_others(place, monkeypatch, caplog):
    monkeypatch.setattr(Broken, "answer", RuntimeError("sizes of tensors\ndo not match"))
    with caplog.at_level("WARNING"):
        found = audited(place, "--detector", "broken", "--detector", "toy")
    reason = "it failed, RuntimeError: sizes of tensors do not match"
    assert [(one["left_out"], one["score"]) for one in found["findings"]] == [(reason, None), ("", 0.8)]
    assert f"broken: left out: {reason}" in caplog.text


def test_the_reason_of_a_detector_names_it_once(place, monkeypatch):
    monkeypatch.setattr(Broken, "answer", UserError("broken: 1 different pictures are given"))
    found = audited(place, "--detector", "broken")
    assert found["verdict"] == "no verdict: no detector has a score; broken: 1 different pictures are given"


def test_what_was_found_without_a_score_is_kept_and_shown(place, monkeypatch):
    monkeypatch.setattr(Broken, "answer", NoScore("broken: one search worked", {"class": "cup", "trigger": PATCH}))
    [finding] = audited(place, "--detector", "broken")["findings"]
    assert finding["score"] is None and finding["left_out"] == "one search worked"
    assert finding["evidence"] == {"class": "cup", "trigger": PATCH}
    page = (place / "out" / "report.html").read_text()
    assert PATCH in page and "class cup" in page


def test_a_killed_audit_keeps_the_scores_that_are_done(place, monkeypatch):
    monkeypatch.setattr(Broken, "answer", SystemExit(143))
    with pytest.raises(SystemExit):
        audited(place, "--detector", "toy", "--detector", "broken")
    found = json.loads((place / "out" / "audit.json").read_text())
    assert found["verdict"] == "not finished: 1 of 2 detectors have a new score"
    assert [(one["detector"], one["score"]) for one in found["findings"]] == [("toy", 0.8)]
    monkeypatch.setattr(Broken, "answer", 0.3)
    monkeypatch.setattr(ToyModel, "score", lambda self, clip, data, work: pytest.fail("scored twice"))
    folder = study(place, clean=[0.1] * 11, backdoored=[0.9])
    found = audited(place, "--detector", "toy", "--detector", "broken", "--population", folder)
    assert [one["score"] for one in found["findings"]] == [0.8, 0.3]
    assert found["findings"][0]["verdict"].startswith("suspicious"), "the verdict is of the population of this audit"


def test_a_score_of_other_data_is_not_taken_again(place, make_pairs):
    run = lambda count, seed=0: audit.audit(
        place / "model", given.Given(pairs=make_pairs(count)), detectors=["needs_pairs"], seed=seed, output=place / "o"
    )
    assert [run(4).findings[0].score, run(5).findings[0].score, run(5).findings[0].score] == [4, 5, 5]
    first, second = run(5).findings[0].identity, run(5, seed=1).findings[0].identity
    assert first != second and len(first) == 64


def test_audits_side_by_side_add_to_one_file(place, monkeypatch):
    """The second begins and ends while the first searches."""
    score, pairs = ToyModel.score, ["--detector", "needs_pairs", "--pairs", place / "pictures"]

    def meanwhile(self, clip, data, work):
        monkeypatch.setattr(ToyModel, "score", score)
        found = audited(place, *pairs)
        assert [(one["detector"], one["score"]) for one in found["findings"]] == [("needs_pairs", 4.0)]
        return score(self, clip, data, work)

    monkeypatch.setattr(ToyModel, "score", meanwhile)
    found = audited(place, "--detector", "toy")
    assert {one["detector"]: one["score"] for one in found["findings"]} == {"toy": 0.8, "needs_pairs": 4.0}
    assert "needs_pairs" in (place / "out" / "report.html").read_text()


def test_a_second_audit_adds_to_the_first(place, make_clip):
    audited(place, "--detector", "toy")
    found = audited(place, "--detector", "needs_pairs", "--pairs", place / "pictures")
    assert [(one["detector"], one["score"]) for one in found["findings"]] == [("needs_pairs", 4.0), ("toy", 0.8)]
    found = audited(place, "--detector", "needs_pairs")  # without the pairs, which leaves the detector out
    assert [(one["detector"], one["score"]) for one in found["findings"]] == [("needs_pairs", 4.0), ("toy", 0.8)]
    page = (place / "out" / "report.html").read_text()
    assert "toy" in page and "needs_pairs" in page
    save_model(place / "model", make_clip("rn"), {"kind": "suspicious", "statement": "test"})
    with pytest.raises(UserError, match=r"out: holds the audit of another model \(.*model\); name another folder"):
        audited(place)
    (place / "out" / "audit.json").write_text("[]")
    with pytest.raises(UserError, match=r"out: holds the audit of another model \(unknown\)"):
        audited(place)


def test_without_data_for_any_detector_the_verdict_names_the_options(place, monkeypatch):
    for kind in (NeedsShots, NeedsClasses):
        monkeypatch.setattr(kind, "subject", "model")
    words = [word for name in ("needs_pairs", "needs_shots", "needs_classes") for word in ("--detector", name)]
    assert audited(place, *words)["verdict"] == (
        "no verdict: none of 3 detectors has the data it needs; give clean pairs (--pairs) or labelled pictures (--shots) "
        "or class names (--classes)"
    )
    assert "--pairs" in COMMANDS["audit"].example
