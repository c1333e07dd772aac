"""Two runs share a work folder or a cache entry only if all that they read is the same."""

import argparse
import shutil
from types import SimpleNamespace

import pytest

from antidote.attacks import badnet
from antidote.attacks.trigger import Trigger, save_trigger
from antidote.base.fingerprint import ROOT
from antidote.base.registry import method
from antidote.clip.configs import ModelSettings
from antidote.clip.folder import save_model
from antidote.clip.initial import initial_files
from antidote.command import resume
from antidote.data.access import DefenseData
from antidote.evaluation import subject
from scripts import defend, detect, persistence, pretrain

CARD = {"kind": "clean"}


class Ended(Exception):
    """Ends a script where its identity is known; `args[0]` is the identity."""


@pytest.fixture
def identity(monkeypatch):
    """Return a function that runs a script up to its identity."""

    def run(script, **arguments):
        plain = {"seed": 0, "pools": [], "work": None, "checkpoint_seconds": 120.0, "processes": 1, "poison": None}
        given = argparse.Namespace(**{**plain, **arguments})
        original = script.work_of

        def ends(*parts):
            raise Ended(original(*parts).identity)

        with monkeypatch.context() as patch, pytest.raises(Ended) as ended:
            patch.setattr(script, "work_of", ends)
            script.run(given)
        return ended.value.args[0]

    return run


# --- files of a new model --------------------------------------------------------------------------------------------


def weights(path, content, name="open_clip_model.safetensors"):
    path.mkdir(exist_ok=True)
    (path / "open_clip_config.json").write_text("{}")
    (path / name).write_text(content)


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_the_weights_in_a_model_folder_are_a_part_of_a_trainings_identity(identity, tmp_path, name):
    def made():
        settings = {"model": {"name": "tiny-rn", "pretrained": str(tmp_path / "folder")}, "training": {}}
        return identity(pretrain, settings=settings, start=None, output=tmp_path / "out", data=tmp_path)

    weights(tmp_path / "folder", "one", name)
    first = made()
    assert made() == first
    weights(tmp_path / "folder", "other", name)
    assert made() != first, "the same path with other weights is another model"


def test_the_files_of_a_new_model(tmp_path):
    own = ROOT / "data/models/tiny-rn.json"
    assert initial_files(None) == []
    assert initial_files(ModelSettings(name="tiny-rn")) == [own] == initial_files(ModelSettings())
    assert initial_files(ModelSettings(name="ViT-B-32", pretrained="openai")) == []
    (tmp_path / "weights.pt").touch()
    assert initial_files(ModelSettings(pretrained=str(tmp_path / "weights.pt"))) == [own, tmp_path / "weights.pt"]


# --- a public model that scores --------------------------------------------------------------------------------------


@pytest.fixture
def model(make_clip, tmp_path):
    save_model(tmp_path / "model", make_clip("rn"), CARD)
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("script", "method"), [(defend, "ubt"), (detect, "clean_clip_score")], ids=["defense", "detector"]
)
@pytest.mark.parametrize("folder", [False, True])
def test_the_weights_of_a_public_scorer_are_a_part_of_the_identity(
    identity, model, tmp_path, monkeypatch, script, method, folder
):
    scorer = tmp_path / "scorer"
    monkeypatch.setattr(detect, "subject", lambda *arguments: (SimpleNamespace(), set()))

    def made(content):
        weights(scorer, content)
        named = scorer if folder else scorer / "open_clip_model.safetensors"
        settings = {"method": method, "scorer": f"tiny-rn/{named}"}
        return identity(script, settings=settings, model=model, scorer=None, output=tmp_path / "out", data=tmp_path,
                        lexicon="none", classes=None, templates=None, evaluation={}, trigger=None)  # fmt: skip

    assert made("one") == made("one") != made("other")


# --- what measurements read ------------------------------------------------------------------------------------------


def trigger(folder, location="center", seed=0, target="banana"):
    """Write a trigger folder; the tensors are the same in every one."""
    settings = badnet.BadNetSettings(location=location, patch_size=8)
    save_trigger(folder, Trigger(badnet.BadNet(settings, target, 32, {}), seed), "badnet")


@pytest.fixture(params=[detect, persistence], ids=["detect", "persistence"])
def measured(request, identity, model, tmp_path, monkeypatch):
    """Return a function that returns the identity of a measurement, and the words that lists of names hold."""
    script, words = request.param, {"classes": ["banana", "boat"], "templates": ["a {}."]}
    for place in (detect, subject):
        monkeypatch.setattr(place, "class_names", lambda name: words["classes"])
        monkeypatch.setattr(place, "templates", lambda name: words["templates"])
    monkeypatch.setattr(detect, "subject", lambda *arguments: (None, set()))
    for name in ("evaluated_pictures", "load_pools", "reading_of"):
        monkeypatch.setattr(persistence, name, lambda *arguments, **more: None)
    (tmp_path / "d/test").mkdir(parents=True)
    (tmp_path / "d/test/manifest.json").write_text("{}")
    trigger(tmp_path / "trigger")
    evaluation = {"dataset": "d", "split": "test", "classes": "c", "templates": "t"}
    settings = {
        detect: {"method": "random", "subject": "pictures"},
        persistence: {"adaptation": {"kind": "full"}, "evaluation": evaluation},
    }[script]
    given = {"model": model, "trigger": tmp_path / "trigger", "target": "banana", "data": tmp_path, "scorer": None,
             "output": tmp_path / "out", "lexicon": "none", "evaluation": evaluation, "classes": "c", "templates": "t",
             "pictures": 4, "settings": settings}  # fmt: skip
    return lambda **changes: identity(script, **{**given, **changes}), words


def test_a_measurement_is_of_one_trigger_one_target_and_one_set_of_names(measured, tmp_path):
    made, words = measured
    first = made()
    assert made() == first
    found = {first}
    for change in ({"location": "top-left"}, {"seed": 1}):
        shutil.rmtree(tmp_path / "trigger")
        trigger(tmp_path / "trigger", **change)
        found.add(made())
    assert len(found) == 3, "triggers whose tensors are equal, and whose descriptions are not"
    for name, other in (("classes", ["banana", "ship"]), ("templates", ["some {}."])):
        kept, words[name] = words[name], other
        found.add(made())
        words[name] = kept
    (tmp_path / "d/test/manifest.json").write_text("{ }")
    found.add(made())
    shutil.rmtree(tmp_path / "trigger")
    trigger(tmp_path / "trigger", target="boat")
    found.add(made(target="boat"))
    assert len(found) == 7


def test_the_scores_of_a_detector_are_of_one_lexicon_and_one_poisoned_set(identity, model, tmp_path, monkeypatch):
    monkeypatch.setattr(detect, "subject", lambda *arguments: (None, set()))
    (tmp_path / "poison").mkdir()

    def made(lexicon, manifest="one", method="random"):
        (tmp_path / "poison/manifest.parquet").write_text(manifest)
        return identity(detect, settings={"method": method}, model=model, scorer=None, output=tmp_path / "out",
                        data=tmp_path, lexicon=lexicon, classes=None, templates=None, evaluation={}, trigger=None,
                        poison=tmp_path / "poison")  # fmt: skip

    assert len({made("none"), made("scenes"), made("none", "other"), made("none")}) == 3


@pytest.mark.parametrize(("kind", "method_name"), [("defense", "ubt"), ("detector", "clean_clip_score")])
def test_the_work_of_a_command_holds_the_weights_of_a_public_scorer(make_clip, tmp_path, kind, method_name):
    clip, scorer = make_clip("rn"), tmp_path / "scorer"

    def made(content):
        weights(scorer, content)
        found = method(kind, method_name)
        one = found(found.Settings.read({"method": method_name, "scorer": f"tiny-rn/{scorer}"}, "x"), 0)
        with resume.work(tmp_path / "out", one, clip, DefenseData(), "none") as work:
            return work.identity

    assert made("one") == made("one") != made("other")
