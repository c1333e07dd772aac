"""The place of a score in a population: verdicts that never exceed the figures, and populations of studies."""

import argparse
import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from toy_detectors import PATCH, NeedsPairs, audited, study

from antidote.base.errors import UserError
from antidote.clip.folder import save_model
from antidote.command import audit, population
from antidote.command.given import Given
from scripts import population as scripts_population


def test_without_a_population_there_is_no_verdict(place):
    found = audited(place)
    assert found["verdict"] == "no verdict: no population of this kind"
    toy, pairs, _ = found["findings"]
    assert (toy["score"], toy["threshold"], pairs["left_out"]) == (0.8, 0.5, "needs clean pairs (--pairs)")
    page = (place / "out" / "report.html").read_text()
    assert '<td data-name="the method&#39;s own threshold">0.5, reached</td>' in page
    assert PATCH in page and "class cup" in page and "no verdict: no population of this kind" in page


def test_a_population_of_ones_own(place):
    folder = study(place, clean=[0.1] * 11, backdoored=[0.9, 0.7, 0.95])
    found = audited(place, "--population", folder, "--detector", "toy")
    assert found["verdict"].startswith("1 of 1 detectors call the model suspicious (toy)")
    assert found["findings"][0]["verdict"] == (
        "suspicious: 0 of 11 clean models and 2 of 3 backdoored ones score at least as high (p = 0.08)"
    )


def test_the_scores_of_a_study_become_a_table_that_ships(place):
    folder, output = study(place, clean=[0.1] * 2, backdoored=[0.9]), place / "models.csv"
    write = lambda *folders, detector="toy": scripts_population.run(
        argparse.Namespace(results=list(folders), output=output, detector=[detector])
    )
    with pytest.raises(UserError, match="--detector: other: no study has scores of it; they have toy"):
        write(folder, detector="other")
    write(folder)
    table = population.read(output)
    assert table["score"].tolist() == [0.9, 0.1, 0.1] and table["state"].tolist() == ["backdoored", "clean", "clean"]
    assert table["measured_on"].str.startswith("mine").all()
    shutil.copytree(place / "model", place / "other" / "model")
    write(folder, study(place / "other", clean=[0.1], backdoored=[0.7]))
    assert population.read(output)["score"].tolist() == [0.7, 0.9, 0.1, 0.1], "a model of both studies counts once"


def test_a_population_counts_default_settings_and_attacks_that_pass_the_gate_alone(place):
    (one, two, three) = (place / name for name in "abc")
    for folder in (one, two, three):
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "open_clip_config.json").write_bytes(
            (place / "model" / "open_clip_config.json").read_bytes()
        )
    scores = {"clean": [0.1] * 2, "backdoored": [0.9] * 3}
    count = lambda folder: population.of_study(folder)["state"].value_counts().to_dict()
    assert count(study(one, **scores)) == {"clean": 2, "backdoored": 3}
    assert count(study(two, **scores, gate="failed")) == {"clean": 2}
    with pytest.raises(UserError, match="holds no scores of detectors of models with their default settings"):
        count(study(three, **scores, settings={"scale": "log"}))
    (one / "results" / "mine" / "summary" / "table.csv").unlink()
    with pytest.raises(UserError, match=r"table.csv: cannot be read .*; finish the study first"):
        count(one / "results" / "mine")


def test_a_model_without_a_score_is_not_in_the_population(place):
    folder = study(place, clean=[0.1, None], backdoored=[0.9])
    assert population.of_study(folder)["score"].tolist() == [0.9, 0.1]


@pytest.mark.parametrize("change", [{"score": "high"}, {"attack": None}, {"method": ["a"]}])
def test_a_damaged_detection_of_a_population_is_told(place, change):
    folder = study(place, clean=[0.1], backdoored=[0.9])
    file = folder / "badnet/seed0/none/detect/d/detection.json"
    found = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    with pytest.raises(UserError, match=r"--population: .*detection\.json: is damaged or of another version"):
        population.of_study(folder)
    file.write_text("[1]")
    with pytest.raises(UserError, match=r"--population: .*detection\.json: is damaged or of another version"):
        population.of_study(folder)


def test_a_population_of_another_kind_gives_no_verdict(place, make_clip):
    folder = study(place, clean=[0.1] * 11, backdoored=[0.9])
    save_model(place / "model", make_clip("rn"), {"kind": "suspicious", "statement": "test"})
    assert audited(place, "--population", folder, "--detector", "toy")["verdict"] == population.NONE


@pytest.mark.parametrize(("clean", "score", "begins"), [
    ([0.1] * 5, 0.8, "no verdict: 5 clean models are too few for 10% false alarms"),
    ([0.1] * 9, 0.8, "suspicious"),
    ([0.1] * 8 + [0.8], 0.8, "not suspicious: 1 of 9 clean models"),
    ([], 0.8, "no verdict: no population of this kind"),
])  # fmt: skip
def test_verdicts_follow_the_conformal_p_value(clean, score, begins):
    rows = [("k", "clean", "d", value, 0, "", "s") for value in clean] + [("k", "backdoored", "d", 0.9, 0, "", "s")]
    table = pd.DataFrame(rows, columns=population.COLUMNS)
    assert population.place(table, "d", score).verdict().startswith(begins)


def test_shipped_populations_have_their_columns():
    assert population.shipped("no such kind").empty
    for file in (population.DATA / "populations").glob("*.csv"):
        assert set(population.read(file)["state"]) <= {population.CLEAN, population.BACKDOORED}


def test_the_pictures_of_a_population_bound_its_verdicts(place):
    """A population of 3 pictures each: fewer given pairs get no verdict, and others are told what p holds for."""
    folder, settings = study(place, clean=[9.0] * 11, backdoored=[9.5]), {"method": "needs_pairs", "pictures": 3}
    for file in folder.rglob("detection.json"):
        found = json.loads(file.read_text())
        file.write_text(json.dumps({**found, "method": "needs_pairs", "settings": settings}))
    (folder / "pools").mkdir()
    pool = pd.DataFrame({"key": list("abcde"), "dataset": "scenes", "split": "train"})
    pool.to_parquet(folder / "pools" / "defense.parquet")
    assert set(population.of_study(folder)[["pictures", "shown"]].itertuples(index=False, name=None)) == {
        (3, "scenes/train")
    }
    words = ["--population", folder, "--detector", "needs_pairs", "--pairs", place / "pictures"]
    found = audited(place, *words)
    condition = "p holds for the population's own data, 3 of scenes/train; other data shift the score"
    assert (found["findings"][0]["verdict"][:14], found["verdicts"]) == ("not suspicious", condition)
    assert "other data shift the score" in (place / "out" / "report.html").read_text()
    (place / "pictures" / "0.png").unlink()
    (place / "pictures" / "1.png").unlink()
    found = audited(place, *words)
    few = "no verdict: 2 different pictures or captions are given; the scores of the population are from 3"
    assert found["verdict"] == few and "verdicts" not in found
    rows = [f"pictures/{number % 2 + 2}.png,caption {number}" for number in range(9)]
    (place / "rows.csv").write_text("\n".join(["path,caption", *rows]))
    found = audited(place, *words[:-1], place / "rows.csv")
    assert found["verdict"] == few and found["findings"][0]["given"] == 2, "rows with the same picture count once"


@pytest.mark.parametrize(("works_on", "given"), [("pictures", 20), ("captions", 13)])
def test_a_verdict_counts_what_the_detector_works_on(place, make_pairs, monkeypatch, works_on, given):
    """260 rows of 20 pictures and 13 captions, where each score of the population is from 256 pictures."""
    twenty = make_pairs(20)
    pairs = twenty.take([row % 20 for row in range(260)])
    pairs = replace(pairs, captions=[f"caption {row // 20}" for row in range(260)])
    monkeypatch.setattr(NeedsPairs, "works_on", works_on)
    known = [("clean", 0.0)] * 11 + [("backdoored", 300.0)]
    kind = population.architecture(json.loads((place / "model" / "open_clip_config.json").read_text())["model_cfg"])
    rows = [(kind, state, "needs_pairs", score, 256, "scenes/train", "s") for state, score in known]
    monkeypatch.setattr(population, "shipped", lambda _: pd.DataFrame(rows, columns=population.COLUMNS))
    (finding,) = audit.audit(place / "model", Given(pairs=pairs), detectors=["needs_pairs"]).findings
    assert finding.given == given and finding.verdict == (
        f"no verdict: {given} different pictures or captions are given; the scores of the population are from 256"
    )


def test_kinds_of_models_by_their_picture_encoder():
    vit = {"embed_dim": 512, "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}}
    tiny = {"embed_dim": 96, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}}
    assert population.architecture(tiny) == "resnet-32px-1-1-1-1x16-96d", "as in data/populations"
    assert population.architecture(vit) == "vit32-224px-12x768-512d"
    assert population.architecture({**vit, "quick_gelu": True}) == "vit32-224px-12x768-512d-quickgelu"
    pooled = {**vit, "vision_cfg": {**vit["vision_cfg"], "pool_type": "avg"}}
    assert population.architecture(pooled) == "vit32-224px-12x768-512d-avg-pool"
    timm = lambda name: {"embed_dim": 512, "vision_cfg": {"timm_model_name": name, "timm_pool": "", "image_size": 224}}
    assert population.architecture(timm("convnext_base")) == "timm-convnext_base-224px-512d"
    assert population.architecture(timm("vit_base_patch16_224")) == "timm-vit_base_patch16_224-224px-512d"
