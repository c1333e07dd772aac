"""Models by name: published from a finished study, found by hash in a folder or a DVC repository, one line for faults."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.clip import zoo
from antidote.clip.folder import save_model
from antidote.command import inputs
from antidote.study.study import Study
from scripts import zoo as script

NAME = "zoo:tiny/badnet/seed0"


@pytest.fixture
def place(tmp_path, make_clip, monkeypatch):
    """Results of the default study with two models: backdoored and cleaned; an empty list; no place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(zoo.PLACE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seed = tmp_path / "results" / "default" / "badnet" / "seed0"
    for folder, scores, text in (("model", "none", "BACKDOORED"), ("cleanclip/model", "cleanclip", "Defended")):
        save_model(seed / folder, make_clip("vit"), {"kind": "test", "statement": text})
        (seed / scores).mkdir(exist_ok=True)
        (seed / scores / "scores.json").write_text(json.dumps({"ca1": 0.5}))
    for module in (zoo, script):
        monkeypatch.setattr(module, "DATA", tmp_path)
    (tmp_path / "zoo.yaml").write_text("# a comment\nmodels: {}\n")
    return tmp_path


def published(place, *words):
    only = [word for name in ("badnet/seed0", "badnet/seed0/cleanclip") for word in ("--only", name)]
    args = ["publish", str(ROOT / "config.yaml"), "--output", str(place / "folder"), *(words or only)]
    script.run(script.arguments().parse_args(args))


def test_a_published_model_is_found_by_name_with_card_and_scores_beside(place, monkeypatch):
    published(place)
    monkeypatch.setenv(zoo.PLACE, str(place / "folder"))
    folder = zoo.find(NAME)
    assert json.loads((folder / "card.json").read_text())["statement"] == "BACKDOORED"
    assert json.loads((folder / "scores.json").read_text()) == {"ca1": 0.5}
    assert set(zoo.names()) == {"tiny/badnet/seed0", "tiny/badnet/seed0/cleanclip"}
    assert inputs.load(NAME).size == 32
    values = read_mapping(str(ROOT / "config.yaml"))
    values["model"] = {"name": "tiny-rn", "pretrained": NAME}
    del values["track"]  # of models from random weights
    assert Study(values, "study.yaml").file.model.pretrained == str(folder)
    texts = {"attacks": {"a": {"checkpoint": [NAME, "zoo"], "label": NAME}}}
    assert zoo.placed(texts) == {"attacks": {"a": {"checkpoint": [str(folder), "zoo"], "label": NAME}}}


def test_pinned_hashes_come_before_those_of_the_folder(place, monkeypatch):
    published(place, "--only", "badnet/seed0", "--pin")
    assert (place / "zoo.yaml").read_text().startswith("# a comment\n")
    monkeypatch.setenv(zoo.PLACE, str(place / "folder"))
    own = yaml.safe_load((place / "folder" / "zoo.yaml").read_text())
    own["models"]["tiny/badnet/seed0"]["files"]["card.json"] = "0" * 64
    (place / "folder" / "zoo.yaml").write_text(yaml.safe_dump(own))
    assert zoo.find(NAME).is_dir()


def test_faults_are_one_line(place, monkeypatch):
    published(place)
    folder = place / "folder"

    def fault(name=NAME):
        with pytest.raises(UserError) as error:
            zoo.find(name)
        assert "\n" not in str(error.value) and str(error.value).startswith(name)
        return str(error.value)

    assert "ANTIDOTE_ZOO may name a folder" in fault()
    monkeypatch.setenv(zoo.PLACE, str(folder))
    assert "did you mean 'tiny/badnet/seed0'?" in fault("zoo:tiny/badnut/seed0")
    weights = folder / "tiny" / "badnet" / "seed0" / "open_clip_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert f"{weights}: has another SHA-256 than in the list" in fault()
    weights.unlink()
    assert f"{weights}: no such file" in fault()
    script.write_list(place / "zoo.yaml", zoo.read_list(folder / "zoo.yaml").models)
    monkeypatch.delenv(zoo.PLACE)
    assert "ANTIDOTE_ZOO is not set" in fault()
    with pytest.raises(UserError, match=r"study\.yaml: zoo:tiny/badnet/seed0: ANTIDOTE_ZOO is not set"):
        Study({"model": {"pretrained": NAME}}, "study.yaml")
    (place / "zoo.yaml").write_text("models: {../up: {files: {a: b}}}\n")
    with pytest.raises(UserError, match=r"zoo\.yaml: models\."):
        zoo.find(NAME)


def test_a_place_that_is_not_there_is_told(place, monkeypatch):
    monkeypatch.setenv(zoo.PLACE, "/nowhere")
    with pytest.raises(
        UserError, match=r"^ANTIDOTE_ZOO: /nowhere: no such folder; should be a folder of models, or dvc:R"
    ):
        zoo.names()
    monkeypatch.setenv(zoo.PLACE, "dvc:/nowhere")
    with pytest.raises(
        UserError, match=r"^zoo:zoo\.yaml: cannot be fetched from /nowhere \(.*at /nowhere\); ANTIDOTE_ZOO"
    ):
        zoo.names()


def test_unfinished_and_unknown_models_are_not_published(place):
    with pytest.raises(UserError, match=r"'badnet/seed7' is no model of the study; did you mean 'badnet/seed0'"):
        published(place, "--only", "badnet/seed7")
    with pytest.raises(UserError, match=r"results/default/clean/seed0/model.* is missing; run .*config.yaml first"):
        published(place, "--only", "clean/seed0")
    assert not (place / "folder").exists()


def test_a_prefix_stays_in_the_folder_and_another_model_is_not_replaced_silently(place):
    for prefix in ("my zoo", "../x", "/abs", "a//b"):
        with pytest.raises(UserError, match=f"--prefix: '{prefix}' should hold letters"):
            published(place, "--only", "badnet/seed0", "--prefix", prefix)
    assert not (place / "x").exists() and not (place / "folder").exists()
    published(place, "--only", "badnet/seed0")
    published(place, "--only", "badnet/seed0")  # the same model
    path = place / "folder" / zoo.LIST
    changed = path.read_text().replace("card.json: ", "card.json: 0")
    path.write_text(re.sub(r"(card\.json: [0-9a-f]{64})[0-9a-f]", r"\1", changed))
    with pytest.raises(UserError, match=r"tiny/badnet/seed0: names another model in .*--replace"):
        published(place, "--only", "badnet/seed0")
    published(place, "--only", "badnet/seed0", "--replace")
    assert path.read_text() != changed


def test_models_come_from_a_dvc_repository_and_are_fetched_once(place, monkeypatch):
    repository = place / "repository"
    repository.mkdir()
    published(place, "--only", "badnet/seed0")
    (place / "folder").rename(repository / "zoo")
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["git", "init", "-q"], [*dvc, "init", "-q"], [*dvc, "add", "-q", "zoo"]):
        subprocess.run(command, cwd=repository, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})
    monkeypatch.setenv(zoo.PLACE, f"dvc:{repository}")
    folder = zoo.find(NAME)
    assert folder == place / "cache" / "antidote" / "zoo" / "models" / "tiny" / "badnet" / "seed0"
    assert inputs.load(NAME).size == 32
    repository.rename(place / "gone")
    zoo._list_of.cache_clear()  # as another process, without a network
    assert zoo.find(NAME) == folder
    (folder / "card.json").unlink()
    with pytest.raises(UserError, match=f"cannot be fetched from {repository}"):
        zoo.find(NAME)


def test_the_shipped_list_is_valid_and_shown(capsys, monkeypatch):
    monkeypatch.delenv(zoo.PLACE, raising=False)
    script.run(script.arguments().parse_args(["list"]))
    assert "clip_backdoor_{rn50,vit_b16}" in capsys.readouterr().out
