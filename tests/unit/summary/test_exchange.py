"""Results files: what a finished study gives, the published schema, CLIP_benchmark, and the leaderboard."""

from __future__ import annotations

import hashlib
import json
import re
import shutil

import jsonschema
import pandas as pd
import pytest

from antidote.base.errors import UserError
from antidote.base.files import sha256
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.study.layout import Layout
from antidote.study.slices import summary_plan
from antidote.study.study import Study
from antidote.summary import exchange
from antidote.summary.exchange import read_result, schema
from antidote.summary.finished import Finished
from antidote.summary.relations import parse
from antidote.summary.restored import restored
from antidote.summary.unchanged import check_cell
from antidote.summary.verdicts import judge
from scripts import results, summarise
from tests.unit.summary.test_pages import put

SCHEMA = json.loads((ROOT / "leaderboard/schema.json").read_text())
VALUES = {0: {"none": 0.97, "finetune": 0.4}, 1: {"none": 0.99, "finetune": 0.2}}


def act(*words):
    results.run(results.arguments().parse_args([str(word) for word in words]))


def summarised(study, folder):
    plan = summary_plan(Study(read_mapping(str(study)), "study"))
    words = ["--settings", plan, "--results", folder.parent, "--data", folder, "--output", folder]
    summarise.run(summarise.arguments().parse_args([str(word) for word in words]))


def curve(*scores):
    return {"curve": [{"step": 10 * i, "ca1": 0.8 - i / 10, "score": score} for i, score in enumerate(scores)]}


@pytest.fixture(scope="module")
def board(tmp_path_factory, anything_goes):
    """The results files of a made-up study of a track; blended lacks a seed, and the models of one cell are gone."""
    root = tmp_path_factory.mktemp("board")
    values = read_mapping(str(ROOT / "tests/studies/tiny.yaml")) | {"seeds": [0, 1]}
    values["track"] = {"name": "open", "version": 1}
    values["defenses"].pop("ta_cleaner")
    values["persistence"] = {"adaptations": {"tuned": {"kind": "full"}}}
    values["detectors"] = {"dao": {"method": "dao"}, "decree": {"method": "decree"}}
    put(root / "study.yaml", values)
    folder = root / "results/tiny"
    for seed, rates in VALUES.items():
        put(folder / f"clean/seed{seed}/none/scores.json", {"ca1": 0.9, "asr1": None})
        put(folder / f"clean/seed{seed}/model/open_clip_model.safetensors", f"clean {seed}")
        for attack in ("badnet", "blended"):
            put(folder / f"{attack}/seed{seed}/floor/scores.json", {"ca1": 0.9, "asr1": 0.01})
            put(folder / f"{attack}/seed{seed}/model/cost.json", {"seconds": 1, "device": "CPU"})
            put(folder / f"{attack}/seed{seed}/model/open_clip_model.safetensors", f"{attack} {seed}")
            for defense, asr1 in rates.items() if (attack, seed) != ("blended", 1) else ():
                scores = {"ca1": 0.88, "asr1": asr1, "extra": {"hit": 0.5}}
                put(folder / f"{attack}/seed{seed}/{defense}/scores.json", scores)
        found = {"items": 160, "poisoned": 16, "auroc": 0.9 - seed / 5, "tpr_at_fpr1": 0.5}
        put(folder / f"badnet/seed{seed}/none/detect/dao/detection.json", found)
        model = folder / f"badnet/seed{seed}/finetune/model"
        put(model / "open_clip_model.safetensors", f"weights {seed}")
        put(model / "cost.json", {"seconds": 10 + seed, "pairs": 160 - seed, "device": f"GPU {seed}"})
        adapted = folder / f"badnet/seed{seed}/finetune/persistence"
        put(adapted / "tuned.json", curve(0.2, 0.4 + seed / 5))
        if seed == 0:
            put(adapted / "clean/tuned.json", curve(0.01, 0.02))
    summarised(root / "study.yaml", folder / "summary")
    act("write", root / "study.yaml", "--results", root / "results", "--output", root / "board")
    return root / "board"


def test_a_file_per_cell_with_figures_costs_and_hashes(board):
    folder = board / "open-1/tiny"
    assert {path.name for path in folder.iterdir()} == {
        *("badnet--none.json", "badnet--finetune.json"),
        "blended--none.json",  # the model of blended, finetune is gone
    }
    found = json.loads((folder / "badnet--finetune.json").read_text())
    assert found["status"] == "measured" and found["track"] == {"name": "open", "version": 1}
    assert found["figures"]["asr1"]["mean"] == pytest.approx(0.3)
    assert found["figures"]["asr1"]["std"] == pytest.approx(0.2 / 2**0.5)
    assert found["figures"]["asr1"]["seeds"] == {"0": 0.4, "1": 0.2} and found["figures"]["hit"]["mean"] == 0.5
    assert found["costs"] == {"seconds": 10.5, "pairs": 160}
    assert found["devices"] == ["CPU", "GPU 0", "GPU 1"], "of the backdoored model's jobs as well"
    assert found["hashes"]["models"]["1"] == hashlib.sha256(b"weights 1").hexdigest()
    assert len(found["hashes"]["code"]) == 16
    assert found["defense"]["access"] == "clean-pairs" and found["defense"]["settings"]["training"]["batch_size"] == 32
    assert found["attack"]["settings"]["patch_size"] == 6 and found["unreliable"] == ""
    partial = json.loads((folder / "blended--none.json").read_text())
    assert partial["unreliable"] == "1 of 2 seeds"
    assert partial["hashes"]["models"] == {"0": hashlib.sha256(b"blended 0").hexdigest()}, "no scores of seed 1 yet"


def test_costs_of_an_earlier_version_name_no_device(board):
    done = Finished.read(board.parent / "study.yaml", board.parent / "results")
    assert exchange._devices(done.costs, "badnet", "finetune") == ["CPU", "GPU 0", "GPU 1"]
    assert exchange._devices(done.costs.drop(columns="device"), "badnet", "finetune") == []


def test_persistence_is_kept_as_curves_of_means_over_seeds(board):
    found = json.loads((board / "open-1/tiny/badnet--finetune.json").read_text())
    ours, clean = found["persistence"]
    assert {key: ours[key] for key in ("adaptation", "kind", "pool", "model", "seeds")} == {
        "adaptation": "tuned", "kind": "full", "pool": "defense", "model": "backdoored", "seeds": 2,
    }  # fmt: skip
    assert [point["step"] for point in ours["points"]] == [0, 10]
    assert [point["score"] for point in ours["points"]] == pytest.approx([0.2, 0.5])
    assert [point["ca1"] for point in ours["points"]] == pytest.approx([0.8, 0.7])
    assert ours["figures"]["delta"]["seeds"] == pytest.approx({"0": 0.2, "1": 0.4})
    assert ours["figures"]["worst"]["mean"] == pytest.approx(0.5) and "area" in ours["figures"]
    assert clean["model"] == "clean" and clean["seeds"] == 1 and clean["points"][1]["score"] == 0.02
    assert found["figures"]["worst"]["mean"] == pytest.approx(0.5)
    assert json.loads((board / "open-1/tiny/badnet--none.json").read_text())["persistence"] == []


def test_detectors_are_kept_with_their_figures_over_seeds(board):
    [found] = json.loads((board / "open-1/tiny/badnet--none.json").read_text())["detections"]
    assert (found["detector"]["method"], found["detector"]["access"]) == ("dao", "nothing")
    assert (found["subject"], found["adaptive"], set(found["figures"])) == ("pairs", False, {"auroc", "tpr_at_fpr1"})
    assert found["figures"]["auroc"]["seeds"] == pytest.approx({"0": 0.9, "1": 0.7})
    assert found["figures"]["auroc"]["mean"] == pytest.approx(0.8)
    assert json.loads((board / "open-1/tiny/badnet--finetune.json").read_text())["detections"] == []


def test_figures_over_the_models_of_all_seeds_have_no_values_by_seed():
    rows = pd.DataFrame({"seed": [0.0, 1.0, None], "auroc": [None, None, 0.75]})
    assert exchange._figure(rows, "auroc").model_dump() == {"mean": 0.75, "std": None, "seeds": {}}
    assert exchange._figure(rows.iloc[:2], "auroc") is None


def test_a_study_is_restored_from_its_files(board):
    """The same table, costs of the defenses, detections and persistence as from the runs."""
    file = board.parent / "study.yaml"
    runs, files = Finished.read(file, board.parent / "results"), restored(file, board)
    ours = ~((runs.table["attack"] == "blended") & (runs.table["defense"] == "finetune"))  # its model is gone
    numbers = [name for name in runs.table if name.endswith(("_mean", "_std", "_n"))]
    for column in [*numbers, "gate", "gate_reason", "within", "best"]:
        pd.testing.assert_series_equal(runs.table[ours][column], files.table[ours][column], check_dtype=False)
    relation = parse("delta(attack=badnet, defense=finetune, adaptation=tuned) >= 10", "claim")
    assert judge(relation, files, matched=False) == judge(relation, runs, matched=False)
    relation = parse("auroc(attack=badnet, detector=dao) >= 70", "claim")
    assert judge(relation, files, matched=False) == judge(relation, runs, matched=False)
    assert judge(relation, files, matched=False).sides == ("auroc 80.0",)
    assert list(files.costs["seconds"]) == [10.5]
    clean = read_result(board / "open-1/tiny/badnet--none.json").hashes.clean
    weights = board.parent / "results/tiny/clean/seed1/model/open_clip_model.safetensors"
    assert sorted(clean) == ["0", "1"] and clean["1"] == sha256(weights)


def test_files_of_another_state_of_the_study_are_refused(board, tmp_path):
    values = read_mapping(str(board.parent / "study.yaml"))
    for change, told in (
        ({"seeds": [0]}, "badnet--finetune.json: seed 1: {file} has only 0"),
        (
            {"attacks": {"badnet": values["attacks"]["badnet"]}},
            "blended--none.json: attack blended: {file} has no such",
        ),
        (
            {"attacks": {**values["attacks"], "badnet": {**values["attacks"]["badnet"], "patch_size": 4}}},
            "attack badnet: was measured with patch_size: 6, and {file} has 4",
        ),
        (
            {"poisoning": {**values["poisoning"], "start": "model"}},
            "badnet--finetune.json: poisoning: was measured with start: clean, and {file} has model",
        ),
        (
            {"persistence": {"adaptations": {"tuned": {"kind": "full", "every": 7}}}},
            "badnet--finetune.json: persistence tuned: was measured with every: 10, and {file} has 7",
        ),
        (
            {"detectors": {"dao": {"method": "dao", "k": 3}}},
            "badnet--none.json: detector dao: was measured with k: 16, and {file} has 3",
        ),
        ({"target": "cloud"}, "badnet--finetune.json: target: is banana, and {file} has cloud"),
        ({"model": {"name": "tiny-vit"}}, "badnet--finetune.json: model: is tiny-rn, and {file} has tiny-vit"),
        ({"study": "other"}, "open-1/other: holds no measured results file; `python -m scripts.results write {file}`"),
    ):
        put(tmp_path / "study.yaml", {**values, **change})
        with pytest.raises(UserError, match=re.escape(told.format(file=tmp_path / "study.yaml"))):
            restored(tmp_path / "study.yaml", board)


def test_files_with_another_clean_reference_are_refused(board, tmp_path):
    """The floors, and triggers fitted on the clean model, would be of different models."""
    kept = shutil.copytree(board, tmp_path / "board")
    for name, weights in (("badnet--finetune", "a"), ("badnet--none", "b")):
        path = kept / f"open-1/tiny/{name}.json"
        values = json.loads(path.read_text())
        values["hashes"]["clean"] = {"0": weights}
        path.write_text(json.dumps(values))
    told = "badnet--none.json: hashes.clean: the clean reference of seed 0 is another than in "
    with pytest.raises(UserError, match=f"{told}.*badnet--finetune.json"):
        restored(board.parent / "study.yaml", kept)


def test_written_files_and_the_leaderboard_keep_to_the_published_schema(board):
    assert schema() == SCHEMA, "run: python -m scripts.results schema"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    kept = [path for path in (ROOT / "leaderboard").rglob("*.json") if path.name != "schema.json"]
    for path in [*board.rglob("*.json"), *kept]:
        jsonschema.validate(json.loads(path.read_text()), SCHEMA)
        act("check", path)
    values = json.loads((board / "open-1/tiny/badnet--none.json").read_text())
    for broken in ({"status": "guessed"}, {"figures": {}}, {"figures": {"asr1": 0.5}}, {"track": "open"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**values, **broken}, SCHEMA)


def test_clip_benchmarks_shape_there_and_back(board, tmp_path):
    act("clip-benchmark", board / "open-1/tiny/badnet--finetune.json", "--output", tmp_path)
    path = tmp_path / "tiny-badnet-finetune.json"
    foreign = json.loads(path.read_text())
    assert foreign["metrics"]["acc1"] == pytest.approx(0.88) and foreign["metrics"]["asr1"] == pytest.approx(0.3)
    assert {name: foreign[name] for name in ("dataset", "model", "pretrained", "task")} == {
        "dataset": "tiny", "model": "tiny-rn", "pretrained": "badnet-finetune", "task": "zeroshot_classification",
    }  # fmt: skip
    words = ["--attack", "badnet", "--defense", "theirs", "--title", "A log", "--url", "https://x.org"]
    act("import", path, "--track", "open", *words, "--output", tmp_path / "board")
    result = read_result(tmp_path / "board/open-1/A-log/badnet--theirs.json")
    assert result.status == "reported" and result.hashes is None and result.figures["ca1"].mean == pytest.approx(0.88)


DETECTOR = {"detector": {"name": "dao", "method": "dao"}, "subject": "pairs"}
CURVE = {"adaptation": "tuned", "kind": "full", "pool": "defense", "model": "clean", "seeds": 1, "points": [
    {"step": 0, "ca1": 0.9, "score": 0.1}]}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hashes": None}, "hashes.models: a measured result needs the hashes of its models"),
        ({"status": "reported"}, "source.url: a reported result needs its source"),
        ({"format": 2}, "format: "),
        ({"figures": {"asr1": {"mean": "x"}}}, "figures.asr1.mean: "),
        ({"track": {"name": "opne"}}, "track.name: unknown track 'opne'"),
        ({"track": {"name": "open", "version": 9}}, "track.version: open has version 1, not 9"),
        ({"figures": {"asr1": {"mean": 63.2}}}, "figures.asr1: 63.2 is no fraction; rates are from 0 to 1"),
        ({"figures": {"floor_night": {"mean": -0.5}}}, "figures.floor_night: -0.5 is no fraction"),
        ({"figures": {"asr1": {"mean": 0.1, "seeds": {"0": 0.5}}}}, "figures.asr1: mean: 0.1 is not the mean of its"),
        ({"clean": {"ca1": {"mean": 96.3}}}, "clean.ca1: 96.3 is no fraction"),
        ({"figures": {"asr1": {"mean": 0.3, "std": 14.1}}}, "figures.asr1: 14.1 is no fraction"),
        (
            {"detections": [{**DETECTOR, "figures": {"auroc": {"mean": 91.2}}}]},
            "detections.0.figures.auroc: 91.2 is no",
        ),
        ({"persistence": [{**CURVE, "figures": {"area": {"mean": 12.2}}}]}, "persistence.0.figures.area: 12.2 is no"),
        ({"persistence": [{**CURVE, "figures": {"delta": {"mean": 10}}}]}, "10 is no fraction; rates are from -1 to 1"),
        (
            {"clean": {"ca1": {"mean": 0.3, "std": 0.2, "seeds": {"0": 0.4, "1": 0.2}}}},
            "clean.ca1: std: 0.2 is not the standard deviation of its seeds (n - 1)",
        ),
    ],
)
def test_a_file_that_is_not_valid_is_one_line(board, tmp_path, change, says):
    values = json.loads((board / "open-1/tiny/badnet--none.json").read_text())
    put(tmp_path / "one.json", {**values, **change})
    with pytest.raises(UserError) as error:
        act("check", tmp_path / "one.json")
    assert says in str(error.value) and "one.json" in str(error.value) and "\n" not in str(error.value)


def test_a_reported_deviation_may_be_rounded(board, tmp_path):
    """A paper prints fewer digits than its seeds have; of a measured result they are this project's own."""
    figure = {"mean": 0.2, "std": 0.018, "seeds": {"0": 0.1824, "1": 0.2, "2": 0.2176}}
    values = json.loads((board / "open-1/tiny/badnet--none.json").read_text()) | {"figures": {"asr1": figure}}
    put(tmp_path / "one.json", {**values, "status": "reported", "source": {"title": "log", "url": "u"}})
    act("check", tmp_path / "one.json")
    put(tmp_path / "one.json", values)
    with pytest.raises(UserError, match=r"figures\.asr1: std: 0\.018 is not the standard deviation of its seeds"):
        act("check", tmp_path / "one.json")


@pytest.mark.parametrize("content", [[], {"dataset": "x", "model": "y"}, {"dataset": "x", "model": "y", "metrics": []}])
def test_a_foreign_file_of_another_shape_is_one_line(tmp_path, content):
    put(tmp_path / "one.json", content)
    words = ["--track", "open", "--attack", "a", "--defense", "b", "--title", "t", "--url", "u"]
    with pytest.raises(UserError, match=r"one\.json.*is missing; a file of CLIP_benchmark has"):
        act("import", tmp_path / "one.json", *words, "--output", tmp_path)


@pytest.mark.parametrize(
    ("card", "settings", "told"),
    [
        ("badnet/seed1/finetune/model/card.json", {"training": {"lr": 0.5}}, "training.lr: 0.5, and {file} has 0.001"),
        (
            "badnet/seed0/model/card.json",
            {"model": {"name": "tiny-vit"}},
            "model.name: tiny-vit, and {file} has tiny-rn",
        ),
        ("badnet/seed0/trigger/trigger.json", {"patch_size": 4}, "patch_size: 4, and {file} has 6"),
        ("clean/seed1/model/card.json", {"training": {"lr": 0.5}}, "training.lr: 0.5, and {file} has 0.001"),
        ("badnet/seed0/none/detect/dao/detection.json", {"method": "lid"}, "method: lid, and {file} has dao"),
    ],
)
def test_figures_of_other_settings_are_neither_read_nor_written(board, tmp_path, card, settings, told):
    """A study file that changed after the run."""
    kept = shutil.copytree(board.parent, tmp_path / "kept")
    put(kept / "results/tiny" / card, {"settings": settings})
    message = re.escape(f"{card}: was made with {told.format(file=kept / 'study.yaml')}")
    with pytest.raises(UserError, match=message):
        act("write", kept / "study.yaml", "--results", kept / "results", "--output", tmp_path / "board")
    with pytest.raises(UserError, match=message):
        Finished.read(kept / "study.yaml", kept / "results")
    put(kept / "results/tiny" / card, {"settings": {"gone": 1}})
    act("write", kept / "study.yaml", "--results", kept / "results", "--output", tmp_path / "board")


def test_persistence_that_the_study_does_not_measure_now_is_not_written(board, tmp_path):
    kept = shutil.copytree(board.parent, tmp_path / "kept")
    study, summary = kept / "study.yaml", kept / "results/tiny/summary"
    write = lambda: act("write", study, "--results", kept / "results", "--output", tmp_path / "board")
    values = read_mapping(str(study))
    put(study, {**values, "persistence": {"adaptations": {"renamed": {"kind": "full"}}}})
    with pytest.raises(UserError, match=r"persistence\.csv: is a .* badnet, finetune, tuned is only in .*; run the"):
        write()
    put(study, {key: value for key, value in values.items() if key != "persistence"})
    with pytest.raises(UserError, match=r"cells\.csv: is a .* of badnet, finetune is only in .*; run the study again"):
        write()
    summarised(study, summary)  # the summary leaves the earlier persistence.csv where it is
    write()
    found = read_result(tmp_path / "board/open-1/tiny/badnet--finetune.json")
    assert (summary / "persistence.csv").is_file() and not found.persistence and "worst" not in found.figures


def test_a_cell_of_a_few_shot_attack_has_a_trigger_and_no_recipe_of_its_own(tmp_path):
    study = Study(read_mapping(str(ROOT / "configs/attacks.yaml")), "attacks.yaml")
    kept, job = Layout(tmp_path / "attacks"), {"attack": "flba", "seed": 0}
    settings = study.attacks["flba"].model_dump(mode="json")
    put(kept.path("trigger", "description", **job), {"settings": settings})
    check_cell(study, kept, "flba", "none")
    put(kept.path("trigger", "description", **job), {"settings": {**settings, "patch_size": 3}})
    with pytest.raises(UserError, match=r"trigger\.json: was made with patch_size: 3, and attacks\.yaml has 10"):
        check_cell(study, kept, "flba", "none")


def test_two_files_of_one_cell_are_told(board, tmp_path):
    kept = shutil.copytree(board, tmp_path / "board") / "open-1/tiny"
    shutil.copy(kept / "badnet--none.json", kept / "old.json")
    with pytest.raises(UserError, match=r"old\.json: badnet, none is in .*badnet--none\.json too; remove one"):
        restored(board.parent / "study.yaml", tmp_path / "board")


def test_a_file_with_a_taken_name_is_told(board, tmp_path):
    file = board / "open-1/tiny/badnet--none.json"
    other = shutil.copy(file, tmp_path / "other.json")
    with pytest.raises(UserError, match=r"other\.json: its name tiny-badnet-none\.json is taken by .*badnet--none"):
        act("clip-benchmark", file, other, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_import_replaces_no_measured_result_and_no_other_model(board, tmp_path):
    kept = shutil.copytree(board, tmp_path / "board")
    words = ["--track", "open", "--attack", "badnet", "--defense", "none", "--url", "u", "--output", kept]
    put(tmp_path / "one.json", {"dataset": "x", "model": "RN50", "metrics": {"acc1": 0.4}})
    with pytest.raises(
        UserError, match=r"--title: .*badnet--none\.json is there already \(measured, tiny-rn on tiny, tiny\)"
    ):
        act("import", tmp_path / "one.json", "--title", "tiny", *words)
    act("import", tmp_path / "one.json", "--title", "log", *words)
    act("import", tmp_path / "one.json", "--title", "log", *words)  # again
    put(tmp_path / "one.json", {"dataset": "x", "model": "ViT-B-32", "metrics": {"acc1": 0.4}})
    with pytest.raises(UserError, match=r"is there already \(reported, RN50 on x, log, u\); name another title"):
        act("import", tmp_path / "one.json", "--title", "log", *words)


def test_an_output_that_is_a_file_is_told(board, tmp_path):
    put(tmp_path / "file", {})
    with pytest.raises(UserError, match=r"--output: .*file: is or lies in a file; should name a folder"):
        act("schema", "--output", tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("costs.csv", None, "costs.csv: cannot be read (No such file or directory); run the study first"),
        ("cells.csv", "", "cells.csv: is no table (No columns to parse from file); run the summary again"),
        ("cells.csv", "attack,defense,seed,ca1\n", "cells.csv: column asr1 is missing; run the summary again"),
        ("table.csv", "attack,defense\n", "table.csv: column score_mean is missing; run the summary again"),
    ],
)
def test_a_damaged_summary_is_told(board, tmp_path, name, text, told):
    kept = shutil.copytree(board.parent, tmp_path / "kept")
    path = kept / "results/tiny/summary" / name
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=re.escape(told)):
        Finished.read(kept / "study.yaml", kept / "results")
