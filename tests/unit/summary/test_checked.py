"""`results check` refuses files that no run of the project can have written."""

import json
from functools import reduce

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from tests.unit.summary.test_exchange import act
from tests.unit.summary.test_pages import put

FILE = ROOT / "leaderboard/tiny-1/defenses-persistence/badclip--cleanclip.json"
ONE = {"mean": 0.5, "std": None, "seeds": {"0": 0.5}}
DETECTED = {"detector": {"name": "d", "method": "nope"}, "subject": "pairs", "figures": {"auroc": ONE}}
REPORTED = {"status": "reported", "hashes": None, "source": {"title": "a log", "url": "https://x.org"}}


def write(path, *changes):
    """Write the committed file with changes, (key, value); a value of None removes the key."""
    values = json.loads(FILE.read_text())
    for key, value in changes:
        *parents, last = key.split(".")
        place = reduce(lambda inner, name: inner[int(name) if isinstance(inner, list) else name], parents, values)
        place.update({last: value})
        if value is None:
            del place[last]
    put(path, values)
    return path


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        (
            "track.name",
            "open",
            "model: the track open 1 has 'open-rn' or 'open-rn-64' or 'open-vit' or 'open-vit-48', not 'tiny-rn'",
        ),
        ("track.name", "paper", "model: the track paper 1 has 'RN50' or 'ViT-B-32', not 'tiny-rn'"),
        ("target", "plum", "target: the track tiny 1 has 'banana', not 'plum'"),
        ("target", "", "target: the track tiny 1 has 'banana', not ''"),
        ("evaluation", "imagenet", "evaluation: the track tiny 1 has 'scenes', not 'imagenet'"),
        ("figures.ca1", None, "figures.ca1: is missing; every measured result has it"),
        ("figures.asr", {"mean": 45.0}, "figures.asr: unknown figure; rates are ca1, ca5, asr1, "),
        ("figures.asr1", {"mean": 0.5}, "figures.asr1.seeds: is empty; a measured figure has its value by seed"),
        ("clean.ca1", {"mean": 0.5}, "clean.ca1.seeds: is empty"),
        ("figures.asr1", {**ONE, "seeds": {"abc": 0.5}}, "figures.asr1.seeds: 'abc' is no seed; should be a whole number"),
        ("figures.asr1", {**ONE, "seeds": {"00": 0.5}}, "figures.asr1.seeds: '00' is no seed"),
        ("figures.asr1", {**ONE, "seeds": {"7": 0.5}}, "hashes.models: has no hash for seed 7 of figures.asr1, only for 0"),
        ("hashes.models", {"7": "x"}, "hashes.models: has no hash for seed 0 of figures."),
        ("hashes.models.3", "x", "hashes.models: seed 3 has no value in figures.ca1.seeds"),
        ("hashes.clean", {"0": "x"}, "hashes.clean: has no hash for seed 1 of clean."),
        ("defense.method", "cleanclap", "defense.method: unknown defense 'cleanclap'; did you mean 'cleanclip'?"),
        ("attack.method", "nope", "attack.method: unknown attack 'nope'"),
        ("detections", [DETECTED], "detections.0.detector.method: unknown detector 'nope'"),
        ("persistence.0.points.1.score", 77, "persistence.0.points.1.score: 77 is no fraction; rates are from 0 to 1"),
        ("persistence.1.points.0.ca1", 45, "persistence.1.points.0.ca1: 45 is no fraction"),
        ("persistence.0.points.1.step", 0, "persistence.0.points: steps should rise from point to point"),
        ("persistence.0.seeds", 9, "persistence.0.seeds: 9 is more than the 3 of hashes.models"),
        ("costs.seconds", -5, "costs.seconds: -5 should be 0 or more"),
    ],
)  # fmt: skip
def test_a_file_that_no_run_can_have_written_is_one_line(tmp_path, key, value, told):
    path = write(tmp_path / "one.json", (key, value))
    with pytest.raises(UserError) as error:
        act("check", path)
    assert str(error.value).startswith(f"{path}: {told}") and "\n" not in str(error.value)


def test_a_reported_result_needs_the_tracks_data_and_no_seeds_or_known_methods(tmp_path):
    """A paper gives a mean, and has methods of its own."""
    figures = ("figures", {"asr1": {"mean": 0.5}}), ("clean", {}), ("persistence", []), ("defense.method", "theirs")
    act("check", write(tmp_path / "one.json", *REPORTED.items(), *figures))
    act("check", write(tmp_path / "one.json", *REPORTED.items(), *figures, ("target", "")))
    with pytest.raises(UserError, match=r"one\.json: evaluation: the track tiny 1 has 'scenes', not 'imagenet'$"):
        act("check", write(tmp_path / "one.json", *REPORTED.items(), *figures, ("evaluation", "imagenet")))


def test_a_trigger_of_a_seed_without_scores_needs_no_model(tmp_path):
    more = {"mean": 0.5, "std": 0.0, "seeds": {"0": 0.5, "7": 0.5}}
    floors = ("figures.floor", more), ("figures.floor_night", more), ("figures.psnr", more)
    act("check", write(tmp_path / "one.json", *floors))


def test_every_file_of_the_leaderboard_is_right(tmp_path):
    act("check", *(path for path in (ROOT / "leaderboard").rglob("*.json") if path.name != "schema.json"))
    act("check", write(tmp_path / "one.json"))
