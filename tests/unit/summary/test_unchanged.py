"""Whether what was measured belongs to a study: the cards of every job pass, those of other settings do not."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from antidote.attacks.victim import Victim
from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.registry import method
from antidote.base.settings import read_mapping
from antidote.clip.files import STARTED_FROM_FOLDER
from antidote.study.detect_jobs import DetectJobs
from antidote.study.jobs import Jobs
from antidote.study.layout import Layout
from antidote.study.study import Study
from antidote.summary.unchanged import check_cells, check_detections
from scripts.persistence import Arguments
from scripts.pretrain import PretrainSettings
from tests.unit.summary.test_pages import put

TINY = read_mapping(str(ROOT / "tests/studies/tiny.yaml"))
DETECTIONS = ("detect", "detect_clean", "detect_population")
STUDIES = sorted([*(ROOT / "configs").glob("*.yaml"), ROOT / "config.yaml", ROOT / "tests/studies/tiny.yaml"])


def card(path, settings):
    """Write a file with the settings that a script read, as the script does."""
    put(path, {"settings": settings.model_dump(mode="json", exclude={"label"})})


def read(kind, text):
    values = json.loads(text)
    return method(kind, values["method"]).Settings.read(values, "settings")


def run_all(study, kept):
    """Write the cards of all models, the triggers, curves and detections, from the settings that the rules pass."""
    jobs, scripts = Jobs(study), {True: Victim, False: PretrainSettings}
    for stage in ("clean_model", "surrogate_model", *DETECTIONS):
        for names in jobs.matrix.jobs(stage):
            w = SimpleNamespace(**names)
            if stage in DETECTIONS:
                card(kept.path(stage, "detection", **names), read("detector", DetectJobs(jobs).settings(w)))
            else:
                passed = (jobs.clean_settings if stage == "clean_model" else jobs.surrogate_settings)(w)
                card(kept.path(stage, "card", **names), PretrainSettings.read(json.loads(passed), "settings"))
    for stage in ("backdoored_model", "trigger", "defend"):
        for names in jobs.matrix.jobs(stage):
            w = SimpleNamespace(**names)
            if stage == "trigger":
                settings = read("attack", jobs.trigger_settings(w)).trigger_settings()
                put(kept.path(stage, "description", **names), {"settings": settings})
            elif stage == "defend":
                card(kept.path(stage, "card", **names), read("defense", jobs.defense_settings(w)))
            else:
                few_shot = study.few_shot(w.attack)
                passed = jobs.victim_settings(w) if few_shot else jobs.backdoor_settings(w)
                given = scripts[few_shot].read(json.loads(passed), "settings").model_dump(mode="json")
                poisons = jobs.shots_settings(w) if few_shot else jobs.poison_settings(w)
                start = STARTED_FROM_FOLDER if few_shot or jobs.start(w) else "random weights"
                told = {"settings": given, "poisoned_with": json.loads(poisons), "started_from": start}
                put(kept.path(stage, "card", **names), told)
    for stage in ("persistence", "persistence_clean"):
        for names in jobs.matrix.jobs(stage):
            passed = json.loads(jobs.adaptation_settings(SimpleNamespace(**names)))
            card(kept.path(stage, "curve", **names), Arguments.read(passed, "settings"))


def cells(study):
    """Return the cells of a study's summary, all of them scored."""
    names = [("clean", "none"), *((attack, defense) for attack in study.attacks for defense in study.defenses)]
    rows = [(attack, defense, seed, 0.5) for attack, defense in names for seed in study.file.seeds]
    return pd.DataFrame(rows, columns=["attack", "defense", "seed", "ca1"])


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_what_the_jobs_of_a_study_write_belongs_to_it(file, tmp_path):
    study, kept = Study(read_mapping(str(file)), str(file)), Layout(tmp_path)
    run_all(study, kept)
    check_cells(study, kept, cells(study))
    check_detections(study, kept)


@pytest.mark.parametrize("start", ["clean", "model"])
def test_a_released_model_belongs_to_its_study(start, tmp_path):
    """Its card has the checkpoint as initial weights, and no training."""
    (tmp_path / "released.pt").write_bytes(b"")
    released = {**TINY["attacks"]["badnet"], "checkpoint": str(tmp_path / "released.pt")}
    values = {**TINY, "attacks": {**TINY["attacks"], "released": released}}
    study = Study({**values, "poisoning": {**TINY["poisoning"], "start": start}}, "study.yaml")
    kept = Layout(tmp_path / "released")
    run_all(study, kept)
    assert "released.pt" in kept.path("backdoored_model", "card", attack="released", seed=0).read_text()
    check_cells(study, kept, cells(study))


@pytest.mark.parametrize(
    ("attack", "settings", "told"),
    [
        ("attention", {"alternate": False}, "alternate: False, and attacks.yaml has True"),
        ("badnet_noise", {"alternate": True}, "alternate: True, and attacks.yaml has False"),
        ("badencoder", {"attack": {"method": "badnet"}}, "attack.method: badnet, and attacks.yaml has badencoder"),
        ("flba", {"victim_training": {"batch_size": 7}}, r"victim_training.batch_size: 7, and attacks.yaml has \d+"),
    ],
)
def test_a_model_that_was_trained_in_another_way_is_told(attack, settings, told, tmp_path):
    study, kept = Study(read_mapping(str(ROOT / "configs/attacks.yaml")), "attacks.yaml"), Layout(tmp_path)
    put(kept.path("backdoored_model", "card", attack=attack, seed=0), {"settings": settings})
    with pytest.raises(UserError, match=rf"card\.json: was made with {told}; run the study again$"):
        check_cells(study, kept, cells(study))


@pytest.mark.parametrize(
    ("card", "told"),
    [
        ({"started_from": "random weights"}, r"poisoning\.start: model, and study\.yaml has clean"),
        ({"poisoned_with": {"poisons": 7, "gone": 1}}, r"poisons: 7, and study\.yaml has \d+"),
        ({"poisoned_with": {"caption": "proxy"}}, r"caption: proxy, and study\.yaml has \w+"),
    ],
)
def test_a_model_of_other_poisons_or_another_start_is_told(card, told, tmp_path):
    study, kept = Study({**TINY, "poisoning": {**TINY["poisoning"], "start": "clean"}}, "study.yaml"), Layout(tmp_path)
    put(kept.path("backdoored_model", "card", attack="badnet", seed=0), card)
    with pytest.raises(UserError, match=rf"card\.json: was made with {told}; run the study again$"):
        check_cells(study, kept, cells(study))


@pytest.mark.parametrize("stage", ["persistence", "persistence_clean"])
def test_a_curve_of_another_adaptation_is_told(stage, tmp_path):
    adapted = {"adaptations": {"long": {"kind": "full", "training": {"batch_size": 20}}}}
    study, kept = Study({**TINY, "persistence": adapted}, "study.yaml"), Layout(tmp_path)
    names = {"attack": "badnet", "defense": "none", "adaptation": "long", "seed": 0}
    put(kept.path(stage, "curve", **names), {"settings": {"adaptation": {"every": 7}, "evaluation": {}}})
    with pytest.raises(
        UserError, match=r"made with adaptation\.every: 7, and study\.yaml has 10; run the study again$"
    ):
        check_cells(study, kept, cells(study))


@pytest.mark.parametrize(("stage", "names"), [("clean_model", {}), ("surrogate_model", {"surrogate": "population1"})])
def test_a_clean_model_that_was_trained_in_another_way_is_told(stage, names, tmp_path):
    study, kept = Study({**TINY, "population": {"clean": 1}}, "study.yaml"), Layout(tmp_path)
    put(kept.path(stage, "card", **names, seed=0), {"settings": {"training": {"lr": 0.5, "gone": 1}}})
    with pytest.raises(UserError, match=r"card\.json: was made with training\.lr: 0\.5, and study\.yaml has 0\.001"):
        check_cells(study, kept, cells(study))


@pytest.mark.parametrize(
    ("stage", "names", "detector"),
    [
        ("detect", {"attack": "badnet", "defense": "none"}, "abl"),
        ("detect_clean", {}, "decree"),
        ("detect_population", {"surrogate": "population1"}, "decree"),
    ],
)
def test_a_detection_by_a_detector_of_other_settings_is_told(stage, names, detector, tmp_path):
    """A setting that only one side knows came or went since, and does not count."""
    entries = {"abl": {"method": "abl", "isolated": 0.01}, "decree": {"method": "decree", "steps": 7}}
    study = Study({**TINY, "population": {"clean": 1}, "detectors": entries}, "study.yaml")
    kept = Layout(tmp_path)
    file = kept.path(stage, "detection", **names, detector=detector, seed=0)
    key = "isolated" if detector == "abl" else "steps"
    put(file, {"settings": {"gone": 1, key: entries[detector][key]}})
    check_detections(study, kept)
    put(file, {"settings": {key: 0.04}})
    told = rf"{detector}/detection\.json: was made with {key}: 0\.04, and study\.yaml has {entries[detector][key]}"
    with pytest.raises(UserError, match=told):
        check_detections(study, kept)


def test_a_detector_that_was_renamed_since_the_summary_is_told(tmp_path):
    """Its rows would be left out of results files without a word."""
    study = Study({**TINY, "detectors": {"abl_new": {"method": "abl", "isolated": 0.01}}}, "study.yaml")
    kept = Layout(tmp_path)
    file = kept.path("summary") / "detections.csv"
    put(file, "attack,defense,seed,detector,auroc\nbadnet,none,0,abl_new,0.9\n")
    check_detections(study, kept)
    put(file, "attack,defense,seed,detector,auroc\nbadnet,none,0,abl_new,0.9\nbadnet,none,0,abl,0.8\n")
    with pytest.raises(UserError, match=r"the detector abl is only in .*, not in study\.yaml; run the study again$"):
        check_detections(study, kept)
    check_detections(Study(TINY, "study.yaml"), kept)  # the file of an earlier state, which is not read
