"""What a results file may not say of its seeds, and which cells decide nothing: disputed ones, and of too few seeds."""

from __future__ import annotations

import json
import shutil

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study.study import Study
from antidote.summary.claims import read_claims, verdict
from antidote.summary.exchange import read_result
from antidote.summary.noise import noise
from antidote.summary.published import read_published
from antidote.summary.restored import restored
from antidote.summary.site.board import Row
from antidote.summary.verdicts import UNMEASURED
from scripts import results

KEPT = ROOT / "leaderboard"
SEEDS = {"0": 0.4, "1": 0.2}


def cell(folder, **changes):
    """Write a cell of the leaderboard with some keys changed; return the result that is read."""
    values = json.loads((KEPT / "tiny-1/default/badnet--cleanclip.json").read_text())
    (folder / "one.json").write_text(json.dumps({**values, **changes}))
    return read_result(folder / "one.json")


@pytest.mark.parametrize(
    ("figure", "says"),
    [
        ({"mean": 0.3, "seeds": SEEDS}, "std: is null, and 2 seeds have a standard deviation"),
        ({"mean": 0.4, "std": 0.0, "seeds": {"0": 0.4}}, "std: is 0, and one seed has no standard deviation"),
    ],
)
@pytest.mark.parametrize("status", ["measured", "reported"])
def test_a_deviation_belongs_to_several_seeds(tmp_path, figure, says, status):
    """A null beside several seeds would be a spread of zero."""
    changes = {"status": status, "source": {"title": "default", "url": "https://example.org"}}
    with pytest.raises(UserError, match=f"one.json: figures.asr1: {says}"):
        cell(tmp_path, **changes, figures={"asr1": figure})


def test_a_reported_deviation_needs_no_values_by_seed(tmp_path):
    changes = {"status": "reported", "source": {"title": "log", "url": "https://example.org"}}
    assert cell(tmp_path, **changes, figures={"asr1": {"mean": 0.3, "std": 0.1}}).figures["asr1"].std == 0.1


@pytest.fixture
def vit(tmp_path):
    """The results files of a study, in a folder that a test may change."""
    return shutil.copytree(KEPT / "tiny-1/vit", tmp_path / "leaderboard/tiny-1/vit")


def dispute(paths):
    for path in paths:
        path.write_text(json.dumps({**json.loads(path.read_text()), "disputed": "the shots hold poisoned pictures"}))


@pytest.mark.parametrize(
    ("defense", "reason"),
    [
        ("linear_probe*", "asr1 of linear_probe on badclip is disputed"),
        ("none", "the attack badclip is disputed"),
    ],
)
def test_disputed_cells_decide_no_claim(vit, defense, reason):
    claim = read_claims({key: paper.citation for key, paper in read_published().papers.items()})["rvpt_linear_probe"]
    assert verdict(claim, restored(ROOT / "configs/vit.yaml", vit.parents[1]))[0] != UNMEASURED
    dispute(vit.glob(f"badclip--{defense}.json"))
    word, found = verdict(claim, restored(ROOT / "configs/vit.yaml", vit.parents[1]))
    assert word == UNMEASURED and reason in [one.reason for one in found]


def test_a_study_of_disputed_cells_alone_has_no_figures(vit):
    dispute(vit.glob("*.json"))
    assert restored(ROOT / "configs/vit.yaml", vit.parents[1]).cells["asr1"].isna().all()


def test_disputed_cells_are_no_part_of_the_noise_floor(vit):
    before = noise(map(read_result, sorted(vit.glob("*.json"))))["tiny"]["tiny-vit"]
    on_the_slope = [path for path in vit.glob("*.json") if 0.1 <= read_result(path).figures["asr1"].mean <= 0.9]
    dispute(on_the_slope[:1])
    after = noise(map(read_result, sorted(vit.glob("*.json")))).get("tiny")
    assert after is None or after["tiny-vit"].cells == before.cells - 1


@pytest.mark.parametrize("key", ["poisoning", "training"])
def test_another_machine_is_the_same_study_as_its_track_allows(vit, tmp_path, key):
    """In the study's own trainings, and in those of a defense."""
    values = read_mapping(str(ROOT / "configs/vit.yaml"))
    changed = values["poisoning"] if key == "poisoning" else values["defenses"]["cleanclip"].setdefault(key, {})
    for path in vit.glob("*.json"):  # files of the leaderboard are older than the key `poisoning`
        found = json.loads(path.read_text())
        found["poisoning"] = Study(values, "before").poisoning(found["attack"]["name"]).model_dump(mode="json")
        path.write_text(json.dumps(found))
    changed["accumulate"] = 4
    (tmp_path / "vit.yaml").write_text(json.dumps(values))
    assert restored(tmp_path / "vit.yaml", vit.parents[1]).cells["asr1"].notna().any()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),  # one seed, but the track states a noise floor of the model
        ({"model": "other"}, "fewer than 3 seeds, and the track states no noise floor of the model"),
        ({"track": {"name": "small", "version": 1}, "disputed": "x", "unreliable": "1 of 2 seeds"},
         "disputed: x; 1 of 2 seeds; fewer than 3 seeds, and the track states no noise floor of the model"),
        ({"track": {"name": "tiny", "version": 9}}, "fewer than 3 seeds, and the track states no noise floor of the"),
        ({"status": "reported", "hashes": None, "source": {"title": "a", "url": "u"}, "model": "other"}, ""),
    ],
)  # fmt: skip
def test_a_cell_is_reliable_by_the_noise_floors_of_today(tmp_path, changes, says):
    found = Row(cell(tmp_path, **changes), "one.json").unreliable
    assert found.startswith(says) and bool(found) == bool(says)


def test_a_dispute_stays_with_the_same_models(tmp_path, monkeypatch):
    result = cell(tmp_path)
    monkeypatch.setattr(results.Finished, "read", lambda *_: None)
    monkeypatch.setattr(results, "results_of", lambda *_: [result])
    write = lambda: results.run(results.arguments().parse_args(["write", "study.yaml", "--output", str(tmp_path)]))
    write()
    path = tmp_path / "tiny-1/default/badnet--cleanclip.json"
    dispute([path])
    write()
    assert read_result(path).disputed == "the shots hold poisoned pictures"
    result = result.model_copy(update={"hashes": result.hashes.model_copy(update={"models": {"0": "other"}})})
    write()
    assert read_result(path).disputed == ""


def test_no_file_of_the_leaderboard_keeps_a_reason_that_the_track_may_mend():
    """A file is written once; a track may gain a noise floor later."""
    for path in sorted(KEPT.glob("*/*/*.json")):
        assert "noise floor" not in json.loads(path.read_text())["unreliable"], path
