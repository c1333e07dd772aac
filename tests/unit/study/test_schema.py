"""The JSON Schema, the generated pages and dvc.yaml follow from the settings classes, and agree with them."""

import argparse
import copy
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from antidote.base.errors import UserError
from antidote.base.registry import ATTACKS, DEFENSES, SOURCES, method
from antidote.base.settings import read_mapping
from antidote.study.artifacts import artifacts
from antidote.study.file import StudyFile
from antidote.study.reference import methods_page, settings_page
from antidote.study.schema import group_of, meaning, settings_of, study_schema
from antidote.study.study import Study

ROOT = Path(__file__).parents[3]
SPEC = importlib.util.spec_from_file_location("schema_script", ROOT / "scripts" / "schema.py")
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)
STUDIES = sorted([ROOT / "config.yaml", *ROOT.glob("configs/*.yaml"), *ROOT.glob("tests/studies/*.yaml")])


class Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as editors do; PyYAML takes it for text, which the settings classes then convert."""


FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


@pytest.fixture(scope="module")
def schema():
    return study_schema()


@pytest.fixture(scope="module")
def validator(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture
def study():
    return yaml.load((ROOT / "config.yaml").read_text(), Loader)


def test_generated_files_are_up_to_date():
    stale = [name for name, text in script.texts().items() if script.read(ROOT / name) != text]
    assert not stale, "out of date; run scripts/schema.py"


@pytest.mark.parametrize("file", STUDIES, ids=lambda path: path.name)
def test_study_fits_schema_and_classes(file, validator):
    assert [error.message for error in validator.iter_errors(yaml.load(file.read_text(), Loader))] == []
    Study(read_mapping(str(file)), file.name)


def test_schema_has_every_key_of_the_classes(schema):
    assert list(schema["properties"]) == list(StudyFile.model_fields)
    bodies = [body.get("properties", {}) for body in schema["$defs"].values()]
    for kind, table in (("attack", ATTACKS), ("defense", DEFENSES), ("source", SOURCES)):
        key = "source" if kind == "source" else "method"
        for name in table:
            body = next(b for b in bodies if b.get(key, {}).get("const") == name and "default" in b[key])
            assert list(body) == list(settings_of(kind, name).model_fields)


def use(study, dataset):
    study["datasets"] = {"mine": dataset}
    study["pools"]["poison"].update(dataset="mine", split="train")


WRONG = {
    "a key that no class knows": lambda s: s.update(sed=[0]),
    "a missing part": lambda s: s.pop("pools"),
    "an unknown method": lambda s: s["attacks"].update(x={"method": "badnets"}),
    "no method": lambda s: s["attacks"].update(x={"poisons": 1}),
    "an unknown preset": lambda s: s["attacks"].update(x={"method": "blended", "preset": "fixt"}),
    "a key of another method": lambda s: s["attacks"].update(x={"method": "blended", "patch_size": 3}),
    "a value that is too small": lambda s: s["attacks"].update(x={"method": "badnet", "poisons": -1}),
    "a wrong key of the recipe": lambda s: s["attacks"].update(x={"method": "badnet", "training": {"epoch": 1}}),
    "a word for a number": lambda s: s["pretraining"].update(epochs="many"),
    "a name that results/ needs itself": lambda s: s["defenses"].update(model={"method": "finetune"}),
    "a name that is no folder": lambda s: s.update(study="a/b"),
    "another method for none": lambda s: s["defenses"].update(none={"method": "finetune"}),
    "no training split": lambda s: s["pools"]["training"].pop("split"),
    "a new dataset without a source": lambda s: use(s, {"splits": {"train": "a.csv"}}),
    "a new dataset without splits": lambda s: use(s, {"source": "folder", "root": "."}),
    "a wrong key of a known dataset": lambda s: s.update(datasets={"scenes": {"sizes": 64}}),
    "a negative seed": lambda s: s.update(seeds=[-1]),
}
RIGHT = {
    "no change": lambda s: None,
    "a change of a known dataset": lambda s: s.update(track=None, datasets={"scenes": {"size": 64}}),
    "a known dataset from a table": lambda s: s.update(
        datasets={"imagenette": {"source": "table", "path": "p", "label": "l", "splits": {"test": "a.csv"}}}
    ),
    "the undefended model by name": lambda s: s["defenses"].update(none={"method": "none"}),
    "an attack's own recipe": lambda s: s["attacks"].update(
        x={"method": "badnet", "patch_size": 6, "poisons": 1, "training": {"lr": 0.1, "start": "model"}}
    ),
    "nothing for a key that may be empty": lambda s: s["evaluation"].update(pictures=None),
}


@pytest.mark.parametrize("fault", WRONG)
def test_schema_refuses_what_the_classes_refuse(fault, study, validator):
    values = copy.deepcopy(study)
    WRONG[fault](values)
    assert not validator.is_valid(values)
    with pytest.raises(UserError):
        Study(values, "study")


@pytest.mark.parametrize("case", RIGHT)
def test_schema_takes_what_the_classes_take(case, study, validator):
    values = copy.deepcopy(study)
    RIGHT[case](values)
    assert [error.message for error in validator.iter_errors(values)] == []
    Study(values, "study")


def groups():
    """Return every settings class that a study can hold."""
    waiting = [StudyFile, *(settings_of(kind, name) for kind, name in entries())]
    found = {}
    while waiting:
        group = waiting.pop()
        found[group] = None
        inner = (group_of(field.annotation) for field in group.model_fields.values())
        waiting += [part for part in inner if part and part not in found]
    return list(found)


def entries():
    tables = {"attack": ATTACKS, "defense": DEFENSES, "source": SOURCES}
    return [(kind, name) for kind, table in tables.items() for name in table]


@pytest.mark.parametrize("group", groups(), ids=lambda group: group.__name__)
def test_every_key_says_what_it_is(group):
    assert [name for name in group.model_fields if not meaning(group, name)] == []


def test_pages_show_every_method_and_key():
    settings, methods = settings_page(), methods_page()
    for kind, name in entries():
        assert f"### {name}\n" in settings
        section = settings.partition(f"### {name}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
        shared = settings.partition(f"Every {kind} has")[2].partition("\n### ")[0]
        for key in settings_of(kind, name).model_fields:
            assert f"| `{key}` |" in section + shared
        if kind != "source":
            assert f"### {name}\n" in methods and f"| [{name}](#{name}) |" in methods
            assert len(method(kind, name).__doc__.split()) > 1
    for name in (name for name in DEFENSES if method("defense", name).reconstruction):
        assert re.search(rf"\| \[{name}\]\(#{name}\) \|.*\| reconstruction \|", methods)


def test_reading_the_classes_imports_no_torch():
    code = (
        "import sys, scripts.schema as s; s.texts(); print(*{'torch', 'open_clip', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_check_writes_nothing_and_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "texts", lambda: {"a.json": "new\n", "b.md": "same\n"})
    (tmp_path / "b.md").write_text("same\n")
    with pytest.raises(UserError, match=r"^a\.json: out of date; run scripts/schema\.py$"):
        script.run(argparse.Namespace(check=True))
    assert not (tmp_path / "a.json").exists()
    script.run(argparse.Namespace(check=False))
    assert (tmp_path / "a.json").read_text() == "new\n"
    script.run(argparse.Namespace(check=True))


def test_models_that_no_job_makes_are_no_artifacts():
    """A few-shot attack trains no backdoored model, and some defenses do not apply to some attacks."""
    study = Study(read_mapping("configs/defenses.yaml"), "configs/defenses.yaml")
    assert study.blank
    found = artifacts(study)
    assert not any(f"{attack}/seed0/{defense}" in found for attack, defense, _ in study.blank)
    assert "badnet/seed0/finetune_lr0-001" in found and "clean/seed2" in found
    flba = artifacts(Study(read_mapping("configs/attacks-seeds.yaml"), "configs/attacks-seeds.yaml"))
    assert "flba/seed0" not in flba and "maba/seed0" in flba
