"""`antidote init`: files that `antidote check` and the commands of a model accept; one line for bad input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from antidote.base.errors import UserError
from antidote.base.files import DATA
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.command import audit, clean, init, inspect, own_study
from antidote.command.table import COMMANDS
from antidote.data.words import names
from antidote.study.study import Study


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with 100 pairs, an evaluation set of two classes, and a data folder for the list of classes."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    shutil.copytree(DATA / "templates", data / "templates")
    shutil.copy(DATA / "datasets.yaml", data)
    (data / "classes").mkdir()
    for module in (own_study, names):
        monkeypatch.setattr(module, "DATA", data)
    picture = Image.fromarray(np.zeros((32, 32, 3), np.uint8))
    for name in ("cup", "boat"):
        (tmp_path / "test" / name).mkdir(parents=True)
        picture.save(tmp_path / "test" / name / "a.png")
    picture.save(tmp_path / "a.png")
    pd.DataFrame({"file": ["a.png"] * 100, "caption": ["a cup"] * 100}).to_csv(tmp_path / "pairs.csv", index=False)
    return tmp_path


def written(*words):
    init.run(init.arguments().parse_args([*words]))


def test_the_study_is_valid_and_commented(place):
    written("--pairs", "pairs.csv", "--evaluation", "test", "--target", "cup", "--name", "mine")
    text = (place / "study.yaml").read_text()
    study = Study(read_mapping("study.yaml"), "study.yaml")
    assert study.file.target == "cup" and study.file.pools.training.pairs == 70
    assert json.loads((place / "data" / "classes" / "mine.json").read_text()) == ["boat", "cup"]
    assert text.count("#") > 6 and yaml.safe_load(text)["datasets"]["mine_pairs"]["source"] == "table"


def test_a_study_written_elsewhere_runs_in_the_checkout(place, monkeypatch, caplog):
    (place / "own place").mkdir()
    monkeypatch.chdir(place / "own place")
    caplog.set_level("INFO")
    written("--pairs", "../pairs.csv", "--evaluation", "../test", "--target", "cup")
    file = place / "own place" / "study.yaml"
    assert f"next: cd {place} && antidote check '{file}'" in caplog.text
    text = file.read_text()
    assert f"#   cd {place}\n#   antidote check '{file}'\n" in text
    monkeypatch.chdir(place)
    study = Study(read_mapping(str(file)), str(file))
    assert Path(study.file.datasets["own_pairs"]["splits"]["all"]).samefile("pairs.csv")
    assert Path(study.file.datasets["own_test"]["root"]).samefile(place)


def test_studies_of_other_names_have_other_datasets(place):
    for name in ("a", "b"):
        written("--pairs", "pairs.csv", "--evaluation", "test", "--target", "cup", "--name", name, "--output", name)
    one, other = (set(Study(read_mapping(name), name).splits()) for name in ("a", "b"))
    assert one == {("a_pairs", "all"), ("a_test", "all")} and not one & other, "data/NAME/ would be overwritten"


STUDY = ("--pairs", "pairs.csv", "--evaluation", "test", "--target", "cup")


@pytest.mark.parametrize("made", ["data/own_pairs", "data/own_test", "results/own"])
def test_a_name_whose_data_or_results_would_be_replaced_is_refused(place, made):
    (place / made).mkdir(parents=True)
    with pytest.raises(
        UserError, match=rf"^--name: a study 'own' has made {place / made} already; give another --name"
    ):
        written(*STUDY)
    assert not (place / "study.yaml").exists()
    written(*STUDY, "--name", "other")


def test_two_studies_of_one_name_are_told(place, caplog):
    written(*STUDY)
    assert "the two share data and results" not in caplog.text
    written(*STUDY, "--output", "second.yaml")
    assert "if another study has the name 'own', the two share data and results" in caplog.text
    (place / "test" / "moon").mkdir()
    shutil.copy(place / "a.png", place / "test" / "moon")
    with pytest.raises(UserError, match=r"^--name: .*own.json is there already, with other names; give another --name"):
        written(*STUDY, "--output", "third.yaml")


def test_pairs_that_cannot_be_used_are_told_and_accepted(place, caplog):
    table = pd.DataFrame({"file": ["a.png"] * 97 + ["gone.png"] * 3, "caption": ["a cup"] * 99 + [""]})
    table.to_csv("pairs.csv", index=False)
    written(*STUDY)
    assert "--pairs: pairs.csv: 3 of 100 pairs cannot be used (" in caplog.text
    study = Study(read_mapping("study.yaml"), "study.yaml")
    assert study.sources["own_pairs"].accepted_skip_share == 0.03 and study.file.pools.training.pairs == 67
    table.head(98).assign(file="gone.png").to_csv("pairs.csv", index=False)
    with pytest.raises(
        UserError, match=r"holds 0 pairs, too few for a study; 98 of 98 pairs cannot be used \(.+: 98\); sh"
    ):
        written(*STUDY, "--name", "none", "--output", "none.yaml")


@pytest.mark.parametrize(("words", "message"), [
    (["--target", "cups"], "--target: 'cups' is no class of test; did you mean 'cup'?"),
    (["--target", "cup", "--model", "RN5"], "--model: unknown model 'RN5'"),
    (
        ["--target", "cup", "--model", "RN50", "--pretrained", "openia"],
        "--pretrained: 'openia' is neither a file, a folder nor a tag of 'RN50'; did you mean 'openai'?",
    ),
    (["--target", "cup", "--evaluation", "none"], "--evaluation: none: no such folder"),
    (["--target", "cup", "--pairs", "none.csv"], "none.csv: no such dataset"),
    (["--target", "cup", "--output", "pairs.csv"], "--output: pairs.csv: is there already"),
    (["--target", "cup", "--name", "a b"], "--name: name 'a b' may hold letters"),
    (["--target", "cup", "--name=-b", "--classes", "a"], "--name: name '-b' may hold letters"),
    (["--target", "cup", "--classes", "lists/names"], "--classes: name 'lists/names' may hold letters"),
])  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(place, words, message):
    with pytest.raises(UserError) as error:
        written("--pairs", "pairs.csv", "--evaluation", "test", *words)
    assert message in str(error.value)
    assert not (place / "study.yaml").exists() and not list((place / "data" / "classes").iterdir())


@pytest.fixture
def installed(place, monkeypatch):
    """The place, where the copy of the project is a wheel: its data cannot be written, and there is no workflow."""
    (place / "data").rename(place / "shipped")
    shutil.copy(DATA / "classes" / "scenes.json", place / "shipped" / "classes")
    for module in (own_study, names):
        monkeypatch.setattr(module, "DATA", place / "shipped")
    return place


def test_an_installed_copy_writes_a_study_to_copy_into_a_checkout(installed):
    written("--pairs", "pairs.csv", "--evaluation", "test", "--target", "cup", "--name", "mine")
    assert [path.name for path in (installed / "shipped" / "classes").iterdir()] == ["scenes.json"]
    assert json.loads((installed / "mine.json").read_text()) == ["boat", "cup"]
    text = (installed / "study.yaml").read_text()
    values = yaml.safe_load(text)
    assert values["datasets"]["mine_pairs"]["splits"] == {"all": str(installed / "pairs.csv")}
    assert values["datasets"]["mine_test"]["root"] == str(installed), "the study runs in another folder"
    assert f"#   cp {installed}/mine.json data/classes/\n" in text and "git clone" in text
    # What the file says: the list goes into the checkout, whose `check` then takes the study as it is.
    shutil.copy(installed / "mine.json", installed / "shipped" / "classes")
    assert Study(read_mapping("study.yaml"), "study.yaml").classes == ["boat", "cup"]


def test_an_installed_copy_leaves_nothing_after_bad_input(installed):
    with pytest.raises(UserError, match="study: "):
        written("--pairs", "pairs.csv", "--evaluation", "test", "--target", "cup", "--classes", "a", "--name", "clean")
    assert not (installed / "study.yaml").exists() and not (installed / "a.json").exists()
    (installed / "own.json").write_text('["bird"]')
    with pytest.raises(UserError, match=r"own\.json is there already, with other names"):
        written("--pairs", "pairs.csv", "--evaluation", "test", "--target", "cup")


def test_metadata_of_other_systems_is_no_class(place):
    (place / "test" / "__MACOSX").mkdir()
    written("--pairs", "pairs.csv", "--evaluation", "test", "--target", "cup")
    assert json.loads((place / "data" / "classes" / "own.json").read_text()) == ["boat", "cup"]


def test_it_needs_nothing_of_the_repository(place, tmp_path_factory):
    """A copy of the package and its data alone, as a wheel installs them."""
    copy = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "antidote", copy / "antidote", ignore=shutil.ignore_patterns("__pycache__"))
    tracked = subprocess.run(["git", "ls-files", "-z", "data"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        file = copy / "antidote" / "shipped" / Path(name).relative_to("data")
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, file)
    command = [sys.executable, "-P", "-m", "antidote.command", "init", "--pairs", "pairs.csv", "--evaluation", "test"]
    command += ["--target", "cup"]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "wrote study.yaml and own.json; next: get a checkout" in done.stderr
    assert not (copy / "antidote" / "shipped" / "classes" / "own.json").exists()


# --- a model and its data --------------------------------------------------------------------------------------------


@pytest.fixture
def model(place):
    (place / "suspicious").mkdir()
    (place / "suspicious" / "open_clip_config.json").write_text("{}")
    return "suspicious"


def test_the_commands_read_the_file_of_a_model(place, model):
    written(model, "--pairs", "pairs.csv", "--labelled", "test", "--pictures", "test/cup")
    text = (place / "given.yaml").read_text()
    assert text.count("#   antidote ") == 4 and '# shots: "shots/"' in text
    args = audit.arguments().parse_args(["--given", "given.yaml"])
    assert (args.model, args.pairs, args.classes) == ("suspicious", "pairs.csv", ["boat", "cup"])
    args = clean.arguments().parse_args(["other", "--pairs", "better.csv", "--given", "given.yaml"])
    assert (args.model, args.pairs, args.labelled) == ("other", "better.csv", "test"), "the command line counts"
    args = inspect.arguments().parse_args(["--detector", "scale_up", "--given=given.yaml"])
    assert (args.model, args.pictures) == ("suspicious", "test/cup")


@pytest.mark.parametrize(("words", "arch", "quick_gelu"), [
    ([], "RN50", True), (["first.pt"], "RN50", True), (["--arch", "RN101"], "RN101", True),
    (["other"], None, False), (["other.pt", "--arch", "RN101"], "RN101", False),
])  # fmt: skip
def test_another_model_has_not_the_architecture_in_the_file(place, words, arch, quick_gelu):
    (place / "given.yaml").write_text("model: first.pt\narch: RN50\nquick_gelu: true\n")
    args = audit.arguments().parse_args([*words, "--given", "given.yaml"])
    assert (args.arch, args.quick_gelu) == (arch, quick_gelu)


def test_the_commands_in_the_file_can_be_pasted(place, model):
    written(model, "--pairs", "pairs.csv", "--output", "my given.yaml")
    assert "#   antidote audit --given 'my given.yaml'\n" in (place / "my given.yaml").read_text()


def test_a_file_without_a_model_leaves_it_required(place, capsys):
    (place / "given.yaml").write_text("pairs: pairs.csv\n")
    with pytest.raises(SystemExit):
        audit.arguments().parse_args(["--given", "given.yaml"])
    assert "required: model" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "message"), [
    ("modle: a", "given.yaml: modle: unknown key; did you mean 'model'?"),
    ("model: [a]", "given.yaml: model: "),
    ("quick_gelu: 3", "given.yaml: quick_gelu: "),
    ("pairs: ''", "given.yaml: pairs: is an empty text"),
    ("classes: ''", "given.yaml: classes: is an empty text"),
    ("classes: [1, 2]", "given.yaml: classes.0: input should be a valid string, not 1; put it in quotes (and 1 more)"),
])  # fmt: skip
def test_a_file_with_a_wrong_key_or_value_is_one_line(place, text, message):
    (place / "given.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        audit.arguments().parse_args(["--given", "given.yaml"])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(("words", "message"), [
    (["nowhere"], "nowhere: no such model"),
    (["pairs.csv"], "--arch: is missing"),
    (["pairs.csv", "--arch", "RN5"], "--arch: unknown architecture 'RN5'"),
    (["test"], "test: is no model folder"),
    (["suspicious", "--pairs", "none.csv"], "none.csv: no such dataset"),
    (["suspicious", "--labelled", "none"], "--labelled: none: no such folder"),
    (["suspicious", "--labelled", "pairs.csv"], "--labelled: pairs.csv: no such folder"),
    (["suspicious", "--labelled", "test/cup"], "--labelled: test/cup: holds 0 class folders; should hold at least 2"),
    (["suspicious", "--evaluation", "test/cup"], "--evaluation: test/cup: holds 0 class folders"),
    (["suspicious", "--pairs", "pairs.csv", "--path", "fiel"],
     "--path: pairs.csv has no column 'fiel'; did you mean 'file'?"),
    (["suspicious", "--pairs", "pairs.csv", "--caption", "x"],
     "--caption: pairs.csv has no column 'x'; known: caption, file"),
    (["suspicious", "--target", "cup"], "--target: is of a study"),
    (["suspicious", "--classes", "names"], "--classes: is of a study"),
    (["--pairs", "pairs.csv", "--evaluation", "test", "--target", "cup", "--arch", "RN50"], "--arch: is of a model"),
    ([], "--pairs: is missing; a study needs --pairs, --evaluation and --target"),
])  # fmt: skip
def test_bad_input_of_a_model_is_one_line(place, model, words, message):
    with pytest.raises(UserError) as error:
        written(*words)
    assert str(error.value).startswith(message) and not list(place.glob("*.yaml"))


@pytest.mark.parametrize(("words", "told"), [
    (["{}", "--output", "x.yaml"], "MODEL"),
    (["suspicious", "--pairs", "{}"], "--pairs"),
    (["suspicious", "--labelled", "{}"], "--labelled"),
    (["suspicious", "--output", "{}"], "--output"),
    (["--pairs", "pairs.csv", "--evaluation", "test", "--target", "{}"], "--target"),
    (["--pairs", "pairs.csv", "--evaluation", "classes", "--target", "cup"], "classes"),
])  # fmt: skip
def test_names_that_are_no_utf_8_are_one_line(place, model, words, told):
    """The file to write is text in UTF-8."""
    name = os.fsdecode(b"caf\xe9")
    shutil.copytree("test", "classes")
    Path("classes/boat").rename(f"classes/{name}")
    before = set(place.rglob("*"))
    with pytest.raises(UserError) as error:
        written(*(word.format(name) for word in words))
    assert str(error.value) == f"{told}: caf\\xe9: is not valid UTF-8; give it another name"
    assert set(place.rglob("*")) == before


@pytest.mark.parametrize("name", ["g\nh.yaml", "g\u2028h.yaml", "g\x07.yaml"])
def test_a_name_that_a_comment_cannot_hold_leaves_nothing(place, model, name):
    with pytest.raises(
        UserError, match=r"^--output: '.*': holds a line break or a control character; name another file$"
    ):
        written(model, "--output", name)
    assert not (place / name).exists()


def test_datasets_of_a_study_may_have_names_that_are_no_utf_8(place):
    name = os.fsdecode(b"caf\xe9.csv")
    shutil.copy("pairs.csv", name)
    written("--pairs", name, "--evaluation", "test", "--target", "cup")
    study = Study(read_mapping("study.yaml"), "study.yaml")
    assert study.file.datasets["own_pairs"]["splits"] == {"all": name}


def test_the_example_of_the_help_names_no_file_as_the_class_list():
    assert "--classes" not in COMMANDS["init"].example
