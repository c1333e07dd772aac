"""Measures: what follows from a class and its field, and a further one in a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT, reachable
from antidote.base.settings import read_mapping
from antidote.evaluation.base import Inputs, Measure, ScoredSet
from antidote.evaluation.cell import Cell, score
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject
from antidote.study.slices import adaptation_slice
from antidote.study.study import Study

STUDY = "tests/studies/tiny.yaml"
CLASSES = ["banana", "boat", "cup"]
SETS = {"dataset": "tiny", "split": "train"}
ASKED = {
    "shifts": {"shifts": SETS, "dark": {**SETS, "among": "own"}},
    "retrieval": SETS,
    "probe": SETS,
    "resistance": {"pictures": 3},
}


def settings(**more):
    return EvaluationSettings(dataset="tiny", split="test", bootstrap=100, **more)


# --- what follows from a declaration ---------------------------------------------------------------------------------


def test_names_are_taken_by_the_columns_of_measures():
    words = {"word1", "word5", "word10", "any5", "any10"}
    own = {"all", "high", "low", "visual_only", "text_only", "clean_shots"}
    assert EvaluationSettings.taken() >= own | words | {"probe", "resistance"}


def test_measures_are_found_by_their_fields():
    asked = settings(**ASKED)
    assert list(asked.measures()) == ["shifts", "retrieval", "probe", "resistance"] and settings().measures() == {}
    keys = ["shifts.shifts", "shifts.dark", "retrieval", "probe", "resistance"]
    assert list(asked.entries()) == [f"evaluation.{key}" for key in keys]
    assert list(asked.parts()) == ["evaluation", *(f"evaluation.{key}" for key in keys[:-1])]
    assert all(isinstance(part, ScoredSet) for part in asked.parts().values())


def test_a_measure_that_is_not_asked_for_belongs_to_no_job():
    plain, asked = settings(), settings(**ASKED)
    assert set(json.loads(asked.slice())) - set(json.loads(plain.slice())) == set(ASKED)
    assert asked.zero_shot().slice() == plain.slice()
    assert json.loads(settings(precision="bf16").zero_shot().slice())["precision"] == "bf16"


def test_persistence_does_not_depend_on_measures():
    values = {**read_mapping(str(ROOT / STUDY)), "persistence": {"adaptations": {"a": {"kind": "full"}}}}
    plain = Study(values, STUDY)
    values["evaluation"] |= {k: v for k, v in ASKED.items() if k != "shifts"} | {"retrieval": {**SETS, "split": "test"}}
    assert adaptation_slice(Study(values, STUDY), "a") == adaptation_slice(plain, "a")
    measures = {kind.__module__ for kind in EvaluationSettings.measure_classes().values()}
    assert measures <= reachable("scripts.evaluate") and not measures & reachable("scripts.persistence")


@pytest.mark.parametrize("kind", EvaluationSettings.measure_classes().values())
def test_every_measure_says_what_its_columns_are(kind):
    assert issubclass(kind, Measure) and kind.columns and kind.floors
    assert all(any(name.startswith(start) for name in kind.columns) for start in kind.floors)


# --- a cell ----------------------------------------------------------------------------------------------------------


class Sets(Inputs):
    """Inputs whose sets are the evaluation's own pictures, each with one caption."""

    def labelled(self, part, classes):
        return self.pictures

    def classified(self, part, classes, default):
        return self.pictures, default, list(range(len(default)))

    def captioned(self, part, captions):
        return self.pictures, [[text] for text in self.pictures.captions]


@pytest.fixture
def cell(make_clip, make_pairs, make_trigger):
    def scored(asked, attack=True, **changes):
        subject = Subject(make_clip("vit"), make_trigger("cup") if attack else None, 2, CLASSES, ["a {}."])
        return score(subject, Sets(None, 32, asked, make_pairs(12, classes=3)), asked, Cell(**changes))

    return scored


@pytest.fixture
def make_trigger():
    from antidote.attacks.trigger import Trigger
    from antidote.base.registry import method

    kind = method("attack", "badnet")

    def make(target):
        return Trigger(kind(kind.Settings.read({"method": "badnet", "preset": "cleanclip"}, "x"), target, 32), 5)

    return make


def test_a_cell_has_the_declared_columns_of_every_measure(cell):
    asked = settings(**ASKED)
    scores, plain = cell(asked), cell(settings())
    declared = {
        name.format(name=key) for entries in asked.measures().values() for key, entry in entries.items()
        for name in entry.columns
    }  # fmt: skip
    assert set(scores["extra"]) == {"backdoor_z", *declared} and set(plain["extra"]) == {"backdoor_z"}
    assert set(scores) - set(plain) == {"resistance_layers"} and len(scores["resistance_layers"]["noise"]) == 2
    assert {key: scores[key] for key in plain if key != "extra"} == {k: v for k, v in plain.items() if k != "extra"}
    extra = scores["extra"]
    assert extra["asr1_shifts"] == scores["asr1"] and extra["asr_g_shifts"] in (1.0, None)


def test_the_clean_reference_has_floors_in_their_place(cell):
    asked = settings(**ASKED)
    whole, floor = cell(asked)["extra"], cell(asked, floor=True, visible=True)["extra"]
    words = {"word1", "word5", "word10", "any5", "any10"}
    names = {f"floor_{name}" for name in ("shifts", "dark", "probe", "resistance", *words)}
    assert set(floor) == {"backdoor_z", "psnr", "ssim", *names}
    assert floor["floor_probe"] == whole["asr1_probe"] and floor["floor_word5"] == whole["target_word5"]
    assert floor["floor_resistance"] == whole["resistance_trigger"] and floor["floor_dark"] == whole["asr1_dark"]


def test_without_an_attack_there_are_clean_figures_alone(cell):
    extra = cell(settings(**ASKED), attack=False)["extra"]
    assert not [name for name in extra if name.startswith(("asr", "target", "floor", "backdoor"))]
    assert {"ca1_probe", "ca1_dark", "i2t_r1", "resistance_noise"} <= set(extra) and "extra" not in cell(
        settings(), attack=False
    )


def test_a_control_is_scored_beside_the_model(cell, make_clip, make_pairs, make_trigger):
    class Attacked(type(make_clip())):
        control = make_clip("vit")

    assert make_clip().control is None
    found = make_clip("vit")
    found.__class__ = Attacked
    inputs = Sets(None, 32, settings(), make_pairs(12, classes=3))
    subject = Subject(found, make_trigger("cup"), 2, CLASSES, ["a {}."])
    scores = score(subject, inputs, settings(), Cell())
    assert scores["extra"]["asr1_clean_shots"] == scores["asr1"]
    assert scores["extra"]["ca1_clean_shots"] == scores["ca1"]


def test_a_subject_names_its_texts(make_clip, make_trigger):
    trigger = make_trigger("cup")
    plain = Subject(make_clip(), trigger, 2, CLASSES, ["a {}", "{}"])
    assert plain.texts == [f"{start}{name}" for start in ("a ", "") for name in CLASSES]
    assert plain.keyed_weights is plain.weights
    trigger.attack.text_key = "remember"
    assert plain.texts[6:] == [f"remember {start}{name}" for start in ("a ", "") for name in CLASSES]


# --- a further measure -----------------------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "adding-a-method.md"
IMPORT = "from antidote.evaluation.brightness import Brightness\n"


def example() -> tuple[str, str]:
    """Return the file and the field of the page's measure."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = next(text for text in code if "class Brightness" in text)
    return file, next(text for text in code if text.startswith("    brightness: "))


RUN = """
import json, runpy, sys
from pathlib import Path

from antidote.attacks.trigger import Trigger, save_trigger
from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.base.settings import read_mapping
from antidote.clip.configs import ModelSettings
from antidote.clip.folder import create_model, save_model
from antidote.data.store import ingest
from antidote.data.store.datasets import dataset_settings
from antidote.study.slices import adaptation_slice
from antidote.study.study import Study

values = read_mapping("tests/studies/tiny.yaml")
values["persistence"] = {"adaptations": {"a": {"kind": "full"}}}
values["datasets"]["tiny"]["splits"]["more"] = {"pairs": 20, "seed": 4}
plain = Study(values, "s")
values["evaluation"]["brightness"] = {"dataset": "tiny", "split": "more", "pictures": 5}
study = Study(values, "s")
assert "brightness" not in plain.evaluated.slice()
assert adaptation_slice(study, "a") == adaptation_slice(plain, "a")
assert ("tiny", "more", "32-5") in [(part.dataset, part.split, study.fit(part)) for part in study.scored()]
shifts = {"brightness": {"dataset": "tiny", "split": "train"}}
try:
    Study({**values, "evaluation": {**values["evaluation"], "shifts": shifts}}, "s")
except UserError as error:
    assert "the name 'brightness' is taken by columns of other figures" in str(error)
else:
    raise AssertionError("a shift has the column of a measure")
for split in ("test", "more"):
    ingest.write(dataset_settings("tiny", values["datasets"]), "tiny", split, Path("data/tiny") / split)
save_model(Path("model"), create_model(ModelSettings(name="tiny-rn"), 0), {})
kind = method("attack", "badnet")
attack = kind(kind.Settings.read({"method": "badnet", "patch_size": 6, "poisons": 1}, "x"), "banana", 32)
save_trigger(Path("trigger"), Trigger(attack, 0), "badnet")
for defense in ("none", "floor"):
    sys.argv = ["evaluate", "--settings", study.evaluated.slice(), "--target", "banana", "--model", "model",
                "--trigger", "trigger", "--defense", defense, "--output", f"{defense}.json"]
    runpy.run_module("scripts.evaluate", run_name="__main__")
"""


def test_a_measure_is_one_file_and_one_field(tmp_path):
    """In a copy of the project, with no other edit: its columns, its floor, its data, its names."""
    for part in (
        "antidote",
        "scripts",
        "data/classes",
        "data/templates",
        "data/models",
        "data/lexicons",
        "tests/studies",
    ):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "data/datasets.yaml", tmp_path / "data")
    folder = tmp_path / "antidote" / "evaluation"
    file, added = example()
    (folder / "brightness.py").write_text(file)
    text = (folder / "settings.py").read_text()
    first, field = "from antidote.evaluation.probe", "    probe: Probe"
    assert text.count(first) == text.count(field) == 1
    (folder / "settings.py").write_text(text.replace(first, IMPORT + first).replace(field, added + field))
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    cell, floor = (json.loads((tmp_path / f"{name}.json").read_text())["extra"] for name in ("none", "floor"))
    assert 0 < cell["brightness"] < 1 and cell["asr1_brightness"] != cell["brightness"]
    assert floor["floor_brightness"] == cell["asr1_brightness"] and "brightness" not in floor


def test_a_shift_may_not_have_a_column_of_a_measure():
    with pytest.raises(UserError, match=r"evaluation: shifts: the name 'word5' is taken by columns of other figures"):
        EvaluationSettings.read({**SETS, "shifts": {"word5": SETS}}, "evaluation")
