"""A rerun beside another run: which figures agree, by the spread of both."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.study.tracks import tracks
from antidote.summary.agreement import BEYOND, EQUAL, FEW, UNKNOWN, WITHIN, agreement, markdown
from antidote.summary.exchange import read_result
from antidote.summary.noise import least, noise
from scripts import results

SPREAD = (0.10, 0.12, 0.14)  # mean 12, standard deviation 2 points


def figure(values, first=0):
    mean = sum(values) / len(values)
    std = (sum((one - mean) ** 2 for one in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else None
    return {"mean": mean, "std": std, "seeds": {str(seed): value for seed, value in enumerate(values, first)}}


def write(
    folder,
    asr1,
    *,
    attack="badnet",
    defense="finetune",
    lr=0.001,
    status="measured",
    track="tiny",
    version=1,
    name="asr1",
    first=0,
    study="defenses",
):
    """Write one results file; return its folder."""
    folder.mkdir(exist_ok=True)
    values = {
        "track": {"name": track, "version": version}, "status": status, "model": "tiny-rn", "evaluation": "scenes",
        "attack": {"name": attack, "method": attack},
        "defense": {"name": defense, "method": "finetune", "settings": {"lr": lr}},
        "figures": {name: figure(asr1, first)}, "hashes": {"models": {"0": f"{attack} {defense}"}, "code": "b"},
        "source": {"title": study, "url": "https://example.org"},
    }  # fmt: skip
    (folder / f"{attack}--{defense}.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("mine", "theirs", "word"),
    [
        (SPREAD, SPREAD, EQUAL),
        (SPREAD, (0.16, 0.15, 0.14), WITHIN),
        (SPREAD, (0.24, 0.25, 0.26), BEYOND),
        ((0.5, 0.5, 0.5), (0.4, 0.4, 0.4), BEYOND),  # no spread at all
        ((0.12,), (0.13,), UNKNOWN),  # another track: no noise floor
        ((0.5, 0.5), (0.501, 0.501), UNKNOWN),  # two seeds agree by chance
    ],
)
def test_a_rerun_agrees_within_the_spread_of_both_runs(tmp_path, mine, theirs, word):
    folders = [write(tmp_path / name, values, track="open") for name, values in (("a", mine), ("b", theirs))]
    [pair] = agreement(*folders, ["asr1"]).pairs
    assert pair.word == word
    assert pair.difference == pytest.approx(100 * (sum(mine) / len(mine) - sum(theirs) / len(theirs)))


def test_two_seeds_do_not_decide_a_figure_of_which_the_track_states_no_noise_floor(tmp_path):
    assert (
        "asr1" in tracks()["tiny"].noise["tiny-rn"].figures and "ca5" not in tracks()["tiny"].noise["tiny-rn"].figures
    )
    folders = [write(tmp_path / name, values, name="ca5") for name, values in (("a", (0.5,) * 2), ("b", (0.501,) * 2))]
    [pair] = agreement(*folders, ["ca5"]).pairs
    assert pair.word == UNKNOWN


def test_the_interval_of_runs_of_the_same_seeds_is_paired(tmp_path):
    """Differences of -4, -3 and -2 points: standard deviation 1, t(2) 4.303."""
    folders = write(tmp_path / "a", SPREAD), write(tmp_path / "b", (0.14, 0.15, 0.16))
    [pair] = agreement(*folders, ["asr1"]).pairs
    assert pair.half == pytest.approx(4.303 / 3**0.5, rel=1e-3) and pair.word == BEYOND


def test_the_interval_of_runs_of_other_seeds_is_welchs(tmp_path):
    """t(4) is 2.776; the standard error of the difference is 2 * sqrt(2 / 3)."""
    folders = write(tmp_path / "a", SPREAD), write(tmp_path / "b", (0.20, 0.22, 0.24), first=3)
    [pair] = agreement(*folders, ["asr1"]).pairs
    assert pair.half == pytest.approx(2.776 * 2 * (2 / 3) ** 0.5, rel=1e-3) and pair.word == BEYOND


@pytest.mark.parametrize(("times", "word"), [(2, WITHIN), (4, BEYOND)])
def test_one_seed_is_judged_by_the_noise_floor(tmp_path, times, word):
    floor = tracks()["tiny"].noise["tiny-rn"].figures["asr1"] / 100
    values = (0.95 - times * floor,), (0.95,)
    [pair] = agreement(*(write(tmp_path / f"{i}", one) for i, one in enumerate(values)), ["asr1"]).pairs
    assert pair.word == word


@pytest.mark.parametrize("track", ["tiny", "open"])
def test_one_seed_beside_several_is_judged_by_their_spread_too(tmp_path, track):
    """The single value is one of the three others."""
    folders = (write(tmp_path / "a", (0.004,), track=track), write(tmp_path / "b", (0.998, 1.0, 0.004), track=track))
    [pair] = agreement(*folders, ["asr1"]).pairs
    assert pair.word == FEW and pair.half > 200, "no rate is as far away"


def test_rounding_is_no_difference(tmp_path):
    folders = write(tmp_path / "a", (0.1,) * 3), write(tmp_path / "b", (0.1,) * 5)
    assert agreement(*folders, ["asr1"]).pairs[0].word in (EQUAL, WITHIN)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("psnr", "--figures: psnr is no rate"),
        ("rank", "--figures: rank is no rate; rates such as asr1"),
        ("arsr1", "--figures: no file has 'arsr1'; did you mean 'asr1'?"),
    ],
)
def test_figures_that_cannot_be_compared_are_told(tmp_path, name, told):
    folders = write(tmp_path / "a", SPREAD), write(tmp_path / "b", SPREAD)
    write(tmp_path / "a", (26.1, 3.0, 2.0), defense="ranked", name="rank")
    with pytest.raises(UserError, match=re.escape(told)):
        agreement(*folders, ["asr1", name])


def test_cells_that_are_not_the_same_experiment_are_named(tmp_path):
    write(tmp_path / "a", SPREAD)
    write(tmp_path / "a", SPREAD, defense="slow")
    write(tmp_path / "a", SPREAD, defense="fast")
    write(tmp_path / "b", SPREAD)
    write(tmp_path / "b", SPREAD, defense="slow", lr=0.002)
    found = agreement(tmp_path / "a", tmp_path / "b", ["asr1"])
    assert [pair.defense for pair in found.pairs] == ["finetune"]
    assert found.left_out == [
        f"badnet / fast: only in {tmp_path / 'a'}, not in {tmp_path / 'b'}",
        "badnet / slow: other settings of slow: lr",
    ]
    assert "asr1: 1 cell, 1 equal; differences: median 0.0, largest 0.0 points" in markdown(found)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"poisoning": {"start": "clean", "lr": 0.1}}, "badnet / finetune: other settings of poisoning: start"),
        ({"persistence": [{"settings": {"every": 7}}]}, "badnet / finetune: other settings of adaptation full: every"),
        ({"poisoning": {}, "persistence": [{}]}, None),  # an older file
        ({"defense": {"settings": {"training": {"lr": 0.1}}}}, None),  # `shuffle` is a later setting of trainings
        (
            {"defense": {"settings": {"training": {"lr": 0.2, "shuffle": "global"}}}},
            "badnet / finetune: other settings of finetune: training.lr",
        ),
        ({"poisoning": {"start": "model", "lr": 0.1, "accumulate": 4}}, None),  # as a track allows
        ({"defense": {"settings": {"training": {"lr": 0.1, "compile": True}}}}, None),
    ],
)
def test_another_poisoning_or_adaptation_is_another_experiment(tmp_path, change, told):
    curve = {"adaptation": "full", "kind": "full", "pool": "defense", "model": "backdoored", "seeds": 1,
             "points": [{"step": 0, "ca1": 0.9, "score": 0.1}]}  # fmt: skip
    folders = [write(tmp_path / name, SPREAD) for name in ("a", "b")]
    for folder in folders:
        write(folder, SPREAD, defense="other")
    own = {"poisoning": {"start": "model", "lr": 0.1, "accumulate": 1}, "persistence": [{"settings": {"every": 10}}]}
    own["defense"] = {"settings": {"training": {"lr": 0.1, "shuffle": "global", "compile": False}}}
    named = {"name": "finetune", "method": "finetune"}
    for folder, extra in zip(folders, (own, {**own, **change}), strict=True):
        path = folder / "badnet--finetune.json"
        extra = {**extra, "persistence": [{**curve, **one} for one in extra["persistence"]]}
        extra["defense"] = {**named, **extra["defense"]}
        path.write_text(json.dumps({**json.loads(path.read_text()), **extra}))
    found = agreement(*folders, ["asr1"])
    assert found.left_out == ([told] if told else []) and len(found.pairs) == 2 - bool(told)


def test_the_command_prints_the_table(tmp_path, capsys):
    words = [
        "compare",
        "--figures",
        "asr1",
        "--",
        write(tmp_path / "a", SPREAD),
        write(tmp_path / "b", (0.24, 0.25, 0.26)),
    ]
    results.run(results.arguments().parse_args([str(word) for word in words]))
    assert "| badnet | finetune | asr1 | 12.0 ± 2.0 | 25.0 ± 1.0 | -13.0 ± " in capsys.readouterr().out


def test_folders_without_a_common_figure_are_told(tmp_path):
    mine = write(tmp_path / "a", SPREAD)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no measured results file; `python -m scripts.results write"):
        agreement(mine, tmp_path / "empty", ["asr1"])
    with pytest.raises(UserError, match="no figure in common"):
        agreement(mine, write(tmp_path / "b", SPREAD, name="ca1"), ["asr1"])
    with pytest.raises(UserError, match="no figure in common; badnet / finetune: other settings"):
        agreement(mine, write(tmp_path / "c", SPREAD, lr=0.1), ["asr1"])


def test_the_noise_floors_of_the_tracks_are_those_of_the_leaderboard(capsys):
    results.run(results.arguments().parse_args(["noise", str(ROOT / "leaderboard")]))
    found = yaml.safe_load(capsys.readouterr().out)
    known = {name: {m: one.model_dump() for m, one in track.noise.items()} for name, track in tracks().items()}
    assert found == {name: noise for name, noise in known.items() if noise}


def test_the_page_of_the_tracks_has_their_noise_floors():
    text = (ROOT / "docs/tracks.md").read_text(encoding="utf-8")
    kinds = {"tiny-rn": "ResNet", "tiny-vit": "transformer", "open-rn": "ResNet", "open-vit-48": "transformer"}
    for name, track in tracks().items():
        for model, one in track.noise.items():
            figures = f"{one.figures['asr1']} | {one.figures['ca1']} | {one.cells} | {one.freedom}"
            assert f"| `{name}`, {kinds[model]} | {figures} | {least(one, 'asr1'):.0f}" in text


def test_the_noise_floor_is_pooled_over_the_cells_on_the_slope(tmp_path):
    """Variances of 4 and 1 square points. Cells of one attack share models: they count once for the freedom."""
    write(tmp_path, SPREAD)
    write(tmp_path, (0.49, 0.5, 0.51), defense="slow")
    write(tmp_path, SPREAD, attack="blended")
    write(tmp_path, (0.49, 0.5, 0.51), attack="blended", defense="slow")
    write(tmp_path, (0.99, 0.91, 0.95), defense="fast")  # not on the slope
    write(tmp_path, (0.2, 0.8), defense="few")
    for path in tmp_path.glob("*.json"):
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "figures": {**values["figures"], "ca1": figure(SPREAD)}}))
    [floor] = noise(map(read_result, tmp_path.glob("*.json")))["tiny"].values()
    assert (floor.cells, floor.freedom, floor.figures) == (4, 4, {"asr1": 1.58, "ca1": 2.0})


def test_studies_that_share_backdoored_models_count_them_once(tmp_path):
    """A cell that both measured alike counts once as well."""
    for study in ("defenses", "ablations"):
        write(tmp_path / study, (0.99, 0.99, 0.99), defense="none", study=study)
        write(tmp_path / study, SPREAD, study=study)
        write(tmp_path / study, (0.3, 0.5, 0.7), defense=f"own of {study}", study=study)
    write(tmp_path / "other", SPREAD, attack="blended", study="ablations")
    for path in tmp_path.glob("*/*.json"):
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "figures": {**values["figures"], "ca1": figure(SPREAD)}}))
    [floor] = noise(map(read_result, tmp_path.glob("*/*.json")))["tiny"].values()
    assert (floor.cells, floor.freedom) == (4, 4)


def test_tracks_and_their_versions_are_not_pooled(tmp_path):
    """Neither cells of an earlier version, nor hashes of a study of the same name on another track."""
    for track, study in (("tiny", "defenses"), ("tiny", "ablations"), ("tiny-start", "ablations")):
        folder = tmp_path / f"{track} {study}"
        write(folder, (0.99,) * 3, defense="none", track=track, study=study)
        write(folder, SPREAD, defense=f"own of {study}", track=track, study=study)
    write(tmp_path / "other", SPREAD, attack="blended", track="tiny", study="defenses")
    write(tmp_path / "old", (0.2, 0.5, 0.8), attack="sig", track="tiny", version=7)
    for path in tmp_path.glob("*/*.json"):
        values = json.loads(path.read_text())
        if path.parent.name == "tiny-start ablations":
            values["hashes"]["models"]["0"] += " of another start"
        path.write_text(json.dumps({**values, "figures": {**values["figures"], "ca1": figure(SPREAD)}}))
    found = noise(map(read_result, sorted(tmp_path.glob("*/*.json"))))
    [floor] = found["tiny"].values()
    assert (floor.cells, floor.freedom, floor.figures["asr1"]) == (3, 4, 2.0) and list(found) == ["tiny"]


def test_too_few_cells_for_a_noise_floor_are_told(tmp_path):
    write(tmp_path, SPREAD)
    with pytest.raises(UserError, match=r"no model has 4 degrees of freedom .* \(1 results files read\)"):
        results.run(results.arguments().parse_args(["noise", str(tmp_path)]))


def test_seeds_that_only_one_run_has_count_for_the_spread_and_not_for_the_difference(tmp_path):
    folders = write(tmp_path / "a", (0.14,), track="open"), write(tmp_path / "b", SPREAD, track="open", first=-2)
    [pair] = agreement(*folders, ["asr1"]).pairs
    assert pair.word == EQUAL and pair.difference == 0
    assert pair.half == pytest.approx(4.303 * 2 * 2**0.5, rel=1e-3)


def test_a_spread_that_seeds_at_100_percent_hide_decides_nothing(tmp_path):
    """A single picture of 2,000, of a figure without a noise floor."""
    folders = write(tmp_path / "a", (0.9995,), name="ca5"), write(tmp_path / "b", (1.0,) * 3, name="ca5")
    [pair] = agreement(*folders, ["ca5"]).pairs
    assert pair.word == UNKNOWN


def test_figures_of_the_same_seeds_are_equal_whoever_computed_their_mean(tmp_path):
    values = (0.1, 0.2, 0.3)
    folders = [write(tmp_path / name, values, track="open") for name in ("a", "b")]
    file = folders[0] / "badnet--finetune.json"
    one = json.loads(file.read_text())
    one["figures"]["asr1"]["mean"] += 1e-12
    file.write_text(json.dumps(one))
    assert [pair.word for pair in agreement(*folders, ["asr1"]).pairs] == [EQUAL]


def test_a_repetition_on_the_same_kind_of_processor_that_is_not_equal_is_told(tmp_path):
    folders = [write(tmp_path / name, values, track="open") for name, values in (("a", (0.3,)), ("b", SPREAD))]
    told = "1 not equal on the same kind of processor: other code, packages or threads of a job"
    assert told not in markdown(agreement(*folders, ["asr1"])), "older files do not say on what they ran"
    for folder, devices in zip(folders, (["CPU"], ["CPU"]), strict=True):
        file = folder / "badnet--finetune.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"devices": devices}))
    assert told in markdown(agreement(*folders, ["asr1"]))
    assert told not in markdown(agreement(folders[1], folders[1], ["asr1"]))


def test_a_single_results_file_is_compared_too(tmp_path):
    folders = [write(tmp_path / name, SPREAD) for name in ("a", "b")]
    write(folders[1], SPREAD, defense="other")
    found = agreement(folders[0] / "badnet--finetune.json", folders[1], ["asr1"])
    assert [pair.word for pair in found.pairs] == [EQUAL]
    assert found.left_out == ["1 cell of one run that the other has not scored"]
    with pytest.raises(
        UserError, match=r"finetune\.json: is no file of a study of a track; name the folder to compare"
    ):
        results.run(results.arguments().parse_args(["compare", str(folders[0] / "badnet--finetune.json")]))


def test_no_difference_has_no_minus(tmp_path):
    folders = [write(tmp_path / name, values, track="open") for name, values in (("a", SPREAD), ("b", SPREAD))]
    file = folders[0] / "badnet--finetune.json"
    one = json.loads(file.read_text())
    one["figures"]["asr1"]["mean"] -= 1e-9
    file.write_text(json.dumps(one))
    assert "| +0.0 ± 0.0 | equal |" in markdown(agreement(*folders, ["asr1"]))
