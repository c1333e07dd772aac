"""Triggered pictures that cells share: the same pictures bit for bit, drawn once, whatever is left of the folder."""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from antidote.attacks.contract import FitContext
from antidote.attacks.trigger import Trigger, load_trigger, save_trigger
from antidote.base.registry import method
from antidote.evaluation import drawn
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import evaluate
from scripts import persistence as script

CLASSES = ["banana", "boat", "cup", "key", "moon"]
SETTINGS = {
    "badnet": {"preset": "cleanclip"},  # noise of its own on every picture
    "issba": {"epochs": 1, "batch_size": 4, "bits": 8, "width": 4},
    "maba": {},
}


@pytest.fixture(params=SETTINGS)
def source(request, tmp_path, make_clip, make_pairs, monkeypatch):
    """Folder of a trigger that counts as slow."""
    monkeypatch.setattr(drawn, "SLOW", float("inf"))
    kind = method("attack", request.param)
    attack = kind(kind.Settings.read({"method": request.param, **SETTINGS[request.param]}, "x"), "cup", 32)
    pairs = make_pairs(12)
    context = FitContext(make_clip("rn"), pairs, CLASSES, ["a {}"], 0, lambda: pairs) if kind.learned else None
    attack.tensors = attack.fit(context, 0)
    save_trigger(tmp_path / "trigger", Trigger(attack, 3), "x")
    return tmp_path / "trigger"


@pytest.fixture
def drawing(monkeypatch):
    """Keys of all pictures that a trigger is really drawn on."""
    seen, draw = [], Trigger._draw
    monkeypatch.setattr(Trigger, "_draw", lambda self, x, keys, use: seen.extend(keys) or draw(self, x, keys, use))
    return seen


def draw(source, folder, pairs, use="test"):
    with drawn.shared(load_trigger(source), source, folder) as trigger:
        parts = [
            trigger.draw(pairs.images[i : i + 5], pairs.keys[i : i + 5], use) for i in range(0, len(pairs.keys), 5)
        ]
    return torch.cat(parts)


def test_pictures_are_the_same_and_drawn_once(source, tmp_path, make_pairs, drawing):
    pairs, folder = make_pairs(13), tmp_path / "drawn"
    plain = load_trigger(source).draw(pairs.images, pairs.keys, "test")
    drawing.clear()
    assert torch.equal(draw(source, folder, pairs), plain)
    assert sorted(drawing) == sorted([*pairs.keys, *pairs.keys[:5]]), "once, and the first batch again to time it"
    drawing.clear()
    assert torch.equal(draw(source, folder, pairs), plain) and drawing == []
    assert {path.suffix for path in folder.iterdir()} == {".bin", ".npy"} and len(list(folder.iterdir())) == 2

    other = make_pairs(16, seed=1)  # the same keys, other pictures; three more
    assert torch.equal(draw(source, folder, other), load_trigger(source).draw(other.images, other.keys, "test"))
    more = replace(pairs, keys=[*pairs.keys[:5], *(f"other {key}" for key in pairs.keys[5:])])
    drawing.clear()
    assert torch.equal(draw(source, folder, more), load_trigger(source).draw(more.images, more.keys, "test"))
    assert drawing[:8] == more.keys[5:] and len(list(folder.iterdir())) == 6


def test_scores_are_the_same(source, tmp_path, make_clip, make_pairs, drawing):
    pairs, clip = make_pairs(11), make_clip("rn")
    settings = EvaluationSettings(dataset="d", split="s", bootstrap=100, batch_size=4)

    def scores(folder):
        with drawn.shared(load_trigger(source), source, folder) as trigger:
            return evaluate(Subject(clip, trigger, 2, CLASSES, ["a {}"]), pairs, settings)

    plain = evaluate(Subject(clip, load_trigger(source), 2, CLASSES, ["a {}"]), pairs, settings)
    first = scores(tmp_path / "drawn")
    drawing.clear()
    again = scores(tmp_path / "drawn")
    assert drawing == []
    assert json.dumps(plain) == json.dumps(first) == json.dumps(again)


def test_a_job_reads_what_it_has_drawn_itself(source, tmp_path, make_pairs, drawing):
    """A measurement of persistence passes over the same pictures several times; they are kept once."""
    pairs, folder = make_pairs(9), tmp_path / "drawn"
    plain = load_trigger(source).draw(pairs.images, pairs.keys, "test")
    with drawn.shared(load_trigger(source), source, folder) as trigger:
        drawing.clear()
        first = trigger.draw(pairs.images, pairs.keys, "test")
        assert drawing == [*pairs.keys, *pairs.keys], "once, and again to time it"
        drawing.clear()
        for _ in range(2):
            parts = [trigger.draw(pairs.images[i : i + 4], pairs.keys[i : i + 4], "test") for i in range(0, 9, 4)]
            assert torch.equal(torch.cat(parts), plain)
        assert drawing == [] and torch.equal(first, plain)
        more = make_pairs(3, seed=1)  # written after what was read
        assert torch.equal(
            trigger.draw(more.images, more.keys, "test"), load_trigger(source).draw(more.images, more.keys, "test")
        )
    (index,) = folder.glob("*.npy")
    assert len(np.load(index)) == 12
    drawing.clear()
    assert torch.equal(draw(source, folder, pairs), plain) and drawing == []


@pytest.mark.parametrize("source", ["badnet"], indirect=True)
def test_persistence_draws_once_and_measures_the_same(source, tmp_path, make_clip, make_pairs, drawing, monkeypatch):
    recipe = {"epochs": 1, "batch_size": 4, "lr": 1e-3, "warmup": 0}
    settings = {
        "adaptation": {"kind": "full", "training": recipe, "every": 2},
        "evaluation": {"dataset": "d", "split": "s", "classes": "scenes", "bootstrap": 100},
    }
    for name, value in {
        "load_subject": lambda *a: Subject(make_clip("rn"), load_trigger(source), 2, CLASSES, ["a {}"]),
        "evaluated_pictures": lambda *a: make_pairs(9),
        "load_pools": lambda *a, **k: make_pairs(16, seed=1),
        "model_files": lambda folder: [],
    }.items():
        monkeypatch.setattr(script, name, value)
    manifest = tmp_path / "data/d/s/manifest.json"  # part of what a curve is measured on
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}", encoding="utf-8")

    def curve(name, folder):
        given = {
            "model": Path("m"),
            "trigger": source,
            "drawn": folder,
            "pools": [],
            "target": "cup",
            "data": tmp_path / "data",
        }
        given |= {"settings": settings, "seed": 0, "output": tmp_path / name, "work": None, "cost": None}
        script.run(Namespace(**given, checkpoint_seconds=1e9, workers=0, in_memory_mb=64))
        return json.loads((tmp_path / name).read_text())["curve"]

    plain = curve("plain", None)
    assert [point["step"] for point in plain] == [0, 2, 4]
    drawing.clear()
    assert curve("first", tmp_path / "drawn") == plain
    assert len(drawing) == 2 * 9, "once for three measurements, and again to time it"
    drawing.clear()
    assert curve("second", tmp_path / "drawn") == plain and drawing == []


def test_only_an_attack_with_a_trigger_and_a_folder_shares(tmp_path, make_clip):
    kind = method("attack", "badnet")
    trigger = Trigger(kind(kind.Settings(), "cup", 32), 0)
    save_trigger(tmp_path / "trigger", trigger, "x")
    subject = Subject(make_clip("rn"), trigger, 2, CLASSES, ["a {}"])
    for one, folder in ((subject, None), (replace(subject, trigger=None), tmp_path / "drawn")):
        with drawn.sharing(one, tmp_path / "trigger", folder) as same:
            assert same is one
    with drawn.sharing(subject, tmp_path / "trigger", tmp_path / "drawn") as sharing:
        assert isinstance(sharing.trigger, drawn.SharedTrigger) and sharing.clip is subject.clip


@pytest.mark.parametrize("source", ["badnet"], indirect=True)
class TestFolder:
    def test_pictures_of_another_trigger_do_not_count(self, source, tmp_path, make_pairs):
        pairs, folder = make_pairs(6), tmp_path / "drawn"
        draw(source, folder, pairs)
        trigger = load_trigger(source)
        trigger.seed = 4
        save_trigger(source, trigger, "x")
        assert torch.equal(draw(source, folder, pairs), trigger.draw(pairs.images, pairs.keys, "test"))

    def test_what_is_poisoned_is_not_kept(self, source, tmp_path, make_pairs):
        pairs, folder = make_pairs(6), tmp_path / "drawn"
        assert torch.equal(
            draw(source, folder, pairs, "train"), load_trigger(source).draw(pairs.images, pairs.keys, "train")
        )
        assert not folder.exists()

    @pytest.mark.parametrize("end", [".bin", ".npy"])
    @pytest.mark.parametrize("change", ["cut", "other", "gone", "empty"])
    def test_damage_costs_time_alone(self, source, tmp_path, make_pairs, drawing, end, change):
        pairs, folder = make_pairs(6), tmp_path / "drawn"
        plain = draw(source, folder, pairs)
        (file,) = folder.glob(f"*{end}")
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 255
        changed = {"cut": content[: len(content) // 2], "other": content, "empty": b""}
        file.unlink() if change == "gone" else file.write_bytes(changed[change])
        drawing.clear()
        assert torch.equal(draw(source, folder, pairs), plain) and drawing

    def test_a_job_that_fails_leaves_nothing(self, source, tmp_path, make_pairs):
        pairs, folder = make_pairs(6), tmp_path / "drawn"
        with pytest.raises(ZeroDivisionError), drawn.shared(load_trigger(source), source, folder) as trigger:
            trigger.draw(pairs.images, pairs.keys, "test")
            1 / 0  # noqa: B018
        assert list(folder.iterdir()) == []

    def test_a_folder_that_takes_no_files(self, source, tmp_path, make_pairs, caplog):
        pairs = make_pairs(6)
        (tmp_path / "file").touch()
        plain = load_trigger(source).draw(pairs.images, pairs.keys, "test")
        assert torch.equal(draw(source, tmp_path / "file" / "drawn", pairs), plain)
        assert "are not kept" in caplog.text

    def test_a_fast_trigger_keeps_nothing(self, source, tmp_path, make_pairs, monkeypatch):
        monkeypatch.setattr(drawn, "SLOW", 0)
        draw(source, tmp_path / "drawn", make_pairs(6))
        assert not (tmp_path / "drawn").exists()

    def test_differences_are_small(self, source, tmp_path, make_pairs):
        draw(source, tmp_path / "drawn", make_pairs(6))
        (index,) = (tmp_path / "drawn").glob("*.npy")
        assert np.load(index)["length"].max() < 3 * 32**2 / 2
