"""`antidote init`: a study that `antidote check` accepts; one line for bad input."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from antidote.base.errors import UserError
from antidote.base.files import DATA
from antidote.base.settings import read_mapping
from antidote.command import init
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
    for module in (init, names):
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
    assert text.count("#") > 6 and yaml.safe_load(text)["datasets"]["own_pairs"]["source"] == "table"


@pytest.mark.parametrize(("words", "message"), [
    (["--target", "cups"], "--target: 'cups' is no class of test; did you mean 'cup'?"),
    (["--target", "cup", "--model", "RN5"], "--model: unknown model 'RN5'"),
    (["--target", "cup", "--evaluation", "none"], "--evaluation: none: no such folder"),
    (["--target", "cup", "--pairs", "none.csv"], "none.csv: no such dataset"),
    (["--target", "cup", "--output", "pairs.csv"], "--output: pairs.csv: is there already"),
    (["--target", "cup", "--name", "a b"], "--name: name 'a b' may hold letters"),
    (["--target", "cup", "--classes", "lists/names"], "--classes: name 'lists/names' may hold letters"),
])  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(place, words, message):
    with pytest.raises(UserError) as error:
        written("--pairs", "pairs.csv", "--evaluation", "test", *words)
    assert message in str(error.value)
    assert not (place / "study.yaml").exists() and not list((place / "data" / "classes").iterdir())


def test_an_installed_copy_writes_nothing_beside_itself(place, monkeypatch):
    (place / "data").rename(place / "shipped")
    monkeypatch.setattr(init, "DATA", place / "shipped")
    with pytest.raises(UserError, match=r"init: needs a checkout.*pip install -e \."):
        written("--pairs", "pairs.csv", "--evaluation", "test", "--target", "cup")
    assert not list((place / "shipped" / "classes").iterdir()) and not (place / "study.yaml").exists()


def test_the_example_of_the_help_names_no_file_as_the_class_list():
    assert "--classes" not in COMMANDS["init"].example
