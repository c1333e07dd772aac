"""Known datasets, what a study changes in them, and the two scripts on a small one."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from antidote.base.errors import UserError
from antidote.base.files import DATA
from antidote.base.registry import SOURCES, method
from antidote.data.store import shards
from antidote.data.store.datasets import dataset_settings, known_datasets


@pytest.mark.parametrize("name", known_datasets())
def test_known_datasets_are_valid(name):
    settings = dataset_settings(name)
    assert settings.terms and settings.split_names()
    assert settings.class_list is None or len(settings.class_list) >= 10


def test_study_changes_single_keys():
    settings = dataset_settings("scenes", {"scenes": {"splits": {"train": {"pairs": 9, "seed": 4}}, "size": 64}})
    assert settings.splits["train"].pairs == 9 and settings.splits["test"].pairs == 2000
    assert settings.size == 64 and settings.classes == "scenes"


def test_study_takes_a_dataset_from_another_source():
    mine = {"source": "table", "splits": {"train": "x.parquet"}, "image": "image", "label": "label"}
    settings = dataset_settings("imagenette", {"imagenette": mine})
    assert settings.classes == "imagenette" and list(settings.splits) == ["train"]
    assert settings.expected is None and settings.version == "1"


def test_study_defines_a_dataset():
    mine = {"source": "scenes", "splits": {"a": {"pairs": 3, "seed": 9}}}
    assert dataset_settings("mine", {"mine": mine}).splits["a"].seed == 9


@pytest.mark.parametrize(
    "name,definitions,text",
    [
        ("scene", {}, "dataset: unknown name 'scene'; did you mean 'scenes'?"),
        ("mien", {"mine": {"source": "scenes"}}, "dataset: unknown name 'mien'; did you mean 'mine'?"),
        ("mine", {"mine": {"source": "tabel"}}, "datasets.mine.source: unknown source 'tabel'; did you mean 'table'?"),
        ("mine", {"mine": {}}, "datasets.mine.source: is missing; known: "),
        ("scenes", {"scenes": {"sise": 3}}, "datasets.scenes: sise: unknown key; did you mean 'size'?"),
        ("scenes", {"scenes": {"classes": "sceens"}}, "datasets.scenes: classes: unknown name 'sceens'; did you mean"),
        ("scenes", {"scenes": {"templates": "x"}}, "datasets.scenes: templates: unknown name 'x'"),
        ("scenes", {"scenes": {"lexicon": "x"}}, "datasets.scenes: lexicons: unknown name 'x'"),
        ("scenes", {"scenes": {"size": 2}}, "datasets.scenes: size: "),
    ],
)
def test_bad_definitions(name, definitions, text):
    with pytest.raises(UserError) as error:
        dataset_settings(name, definitions)
    assert str(error.value).startswith(text) and "\n" not in str(error.value)


def test_settings_survive_as_canonical_json():
    for name in known_datasets():
        settings = dataset_settings(name)
        again = dataset_settings(name, {name: json.loads(settings.slice())})
        assert again == settings


def test_every_source_says_its_name():
    for name in SOURCES:
        assert method("source", name).model_fields["source"].default == name


def test_settings_are_read_without_torch():
    code = "import sys; from antidote.data.store import datasets; from antidote.data import pools; datasets.dataset_settings('cifar10');"
    heavy = "sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'pyarrow', 'webdataset')))"
    subprocess.run([sys.executable, "-c", code + heavy], check=True, cwd=DATA.parent)


def script(name, *arguments):
    return subprocess.run(
        [sys.executable, str(DATA.parent / "scripts" / name), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(DATA.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_scripts_write_a_dataset_and_its_pools(tmp_path):
    small = json.dumps({"splits": {"train": {"pairs": 60, "seed": 1}}})
    folder, cost = tmp_path / "scenes" / "train", tmp_path / "cost.json"
    done = script(
        "dataset.py", "--name", "scenes", "--split", "train", "--settings", small, "--output", folder, "--cost", cost
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(cost.read_text())["pairs"] == 60
    shards.verify(folder)

    wanted = {"training": {"dataset": "scenes", "split": "train", "pairs": 50}, "poison": {"pairs": 10}}
    output = tmp_path / "pools.parquet"
    done = script("pools.py", "--settings", json.dumps(wanted), "--data", tmp_path, "--output", output, "--cost", cost)
    assert done.returncode == 0, done.stderr
    chosen = pd.read_parquet(output)
    assert set(chosen["key"]) == set(shards.open_index(folder)["key"])
    assert json.loads(output.with_suffix(".json").read_text())["poison"]["pairs"] == 10


@pytest.mark.parametrize(
    "arguments,text",
    [
        (
            ("dataset.py", "--name", "scenez", "--split", "train"),
            "dataset: unknown name 'scenez'; did you mean 'scenes'?",
        ),
        (("dataset.py", "--name", "scenes", "--split", "tran"), "split: unknown name 'tran'; did you mean 'train'?"),
        (("pools.py", "--settings", '{"training": 3}'), "pools: training: "),
    ],
)
def test_scripts_fail_in_one_line(tmp_path, arguments, text):
    done = script(*arguments, "--output", tmp_path / "out")
    assert done.returncode == 1 and done.stderr.startswith(f"error: {text}") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
