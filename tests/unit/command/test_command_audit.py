"""`antidote audit` and `antidote inspect`: scores, places in a population, verdicts that never exceed the figures."""

import argparse
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from antidote.base import registry
from antidote.base.errors import UserError
from antidote.clip.folder import save_model
from antidote.command import audit, given, inspect, methods, population
from antidote.detectors.base import MODEL, Detector, DetectorSettings, Scores
from scripts import population as scripts_population

PATCH = "data:image/png;base64,iVBORw0KGgo="


class ToySettings(DetectorSettings):
    method: str = "toy"


class ToyModel(Detector):
    Settings, subject = ToySettings, "model"

    def score(self, clip, data, work):
        return Scores([MODEL], np.array([0.8]), 0.5, {"class": "cup", "trigger": PATCH})


class PairsSettings(ToySettings):
    pictures: int = 3


class NeedsPairs(ToyModel):
    Settings, access = PairsSettings, "clean-pairs"

    def score(self, clip, data, work):
        return Scores([MODEL], np.array([float(len(data.pairs))]))


class ToyPictures(Detector):
    """Brightness; fails if it gets anything but pictures."""

    Settings, subject = ToySettings, "pictures"

    def score(self, clip, data, work):
        assert data.training_set is None and data.pictures.keys == [str(n) for n in range(len(data.pictures))]
        return Scores(data.pictures.keys, data.pictures.images.double().mean(dim=(1, 2, 3)).numpy(), 128.0)


class NeedsClasses(ToyPictures):
    access = "test-time"


class NeedsShots(ToyPictures):
    access = "few-labelled"

    def score(self, clip, data, work):
        assert data.classes == ["boat", "cup"] and len(data.shots) == 2
        return super().score(clip, data, work)


@pytest.fixture
def place(tmp_path, make_clip, monkeypatch):
    """A model, four pictures of rising brightness, and toy detectors in place of the registry's."""
    kinds = {"toy": ToyModel, "needs_pairs": NeedsPairs, "bright": ToyPictures, "needs_classes": NeedsClasses,
             "needs_shots": NeedsShots, "broken": Broken}  # fmt: skip
    method = lambda kind, name: kinds[name]
    monkeypatch.setattr(audit, "method", method)
    for module in (methods, population):
        monkeypatch.setattr(module, "method", method)
        monkeypatch.setattr(module, "DETECTORS", kinds)
    save_model(tmp_path / "model", make_clip("vit"), {"kind": "suspicious", "statement": "test"})
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        Image.fromarray(np.full((32, 32, 3), 60 * number + 20, np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path


def audited(place, *words):
    words = [place / "model", "--output", place / "out", *words]
    args = audit.arguments().parse_args([str(word) for word in words])
    audit.run(args)
    return json.loads((args.output / "audit.json").read_text())


def inspected(place, *words):
    words = [place / "model", place / "pictures", "--output", place / "out", *words]
    inspect.run(inspect.arguments().parse_args([str(word) for word in words]))


def study(place, clean, backdoored, settings=None, gate="passed"):
    """Write the detections of a study with these scores."""
    config = json.loads((place / "model" / "open_clip_config.json").read_text())
    for attack, scores in (("clean", clean), ("badnet", backdoored)):
        for seed, score in enumerate(scores):
            cell = place / "results" / "mine" / attack / f"seed{seed}"
            for folder in (cell / "model", cell / "none" / "detect" / "d"):
                folder.mkdir(parents=True)
            (cell / "model" / "open_clip_config.json").write_text(json.dumps(config))
            found = {"subject": "model", "defense": "none", "attack": attack, "method": "toy", "score": score,
                     "study": "mine", "settings": {"method": "toy", **(settings or {})}}  # fmt: skip
            (cell / "none" / "detect" / "d" / "detection.json").write_text(json.dumps(found))
    (place / "results" / "mine" / "summary").mkdir()
    (place / "results" / "mine" / "summary" / "table.csv").write_text(f"attack,defense,gate\nbadnet,none,{gate}\n")
    return place / "results" / "mine"


class Broken(ToyModel):
    """Has no score to give: `answer` is raised, or is the score."""

    answer: float | Exception = float("nan")

    def score(self, clip, data, work):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return Scores([MODEL], np.array([self.answer]))


def test_without_a_population_there_is_no_verdict(place):
    found = audited(place)
    assert found["verdict"] == "no verdict: no population of this kind"
    toy, pairs, _ = found["findings"]
    assert (toy["score"], toy["threshold"], pairs["left_out"]) == (0.8, 0.5, "needs clean pairs (--pairs)")
    page = (place / "out" / "report.html").read_text()
    assert '<td data-name="the method&#39;s own threshold">0.5, reached</td>' in page
    assert PATCH in page and "class cup" in page and "no verdict: no population of this kind" in page


def test_detectors_get_the_data_that_the_user_gives(place):
    found = audited(place, "--pairs", place / "pictures", "--detector", "needs_pairs")
    assert [finding["score"] for finding in found["findings"]] == [4.0]


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


def test_pictures_are_scored_brightest_first(place):
    inspected(place, "--detector", "bright", "--shown", 2)
    scores = pd.read_csv(place / "out" / "scores.csv")
    assert scores["picture"].tolist() == [3, 2, 1, 0] and scores["score"].tolist() == [200, 140, 80, 20]
    assert json.loads((place / "out" / "inspect.json").read_text())["suspicious"] == 2
    page = (place / "out" / "report.html").read_text()
    assert page.count("<img") == 2 and "2 of 4 pictures reach" in page


def test_a_few_shot_detector_of_pictures_gets_labelled_pictures(place):
    for name in ("cup", "boat"):
        (place / "shots" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(place / "shots" / name / "a.png")
    inspected(place, "--detector", "needs_shots", "--shots", place / "shots")
    assert len(pd.read_csv(place / "out" / "scores.csv")) == 4


def test_bad_input_is_one_line(place):
    (place / "names.json").write_text('{"a": 1}')
    (place / "twice.json").write_text('["cup", "cup"]')
    cases = [
        (
            audited,
            ["--detector", "bright"],
            "--detector: 'bright' does not score models; known: toy, needs_pairs, broken",
        ),
        (audited, ["--population", place / "none"], "none: no such folder; should be results/STUDY"),
        (audited, ["--population", place / "pictures"], "holds no scores of detectors of models"),
        (audited, ["--output", place / "names.json"], "names.json: is a file; should name a folder"),
        (audited, ["--output", place / "names.json" / "out"], "out: cannot be written ("),
        (audited, ["--classes", place / "twice.json"], "twice.json: lists 'cup' more than once"),
        (audited, ["--false-alarms", "2"], "--false-alarms: 2 should be a fraction"),
        (audited, ["--classes", place / "names.json"], "should hold a JSON list of texts"),
        (
            inspected,
            ["--detector", "toy"],
            "--detector: 'toy' does not score pictures; known: bright, needs_classes, needs_shots",
        ),
        (inspected, ["--detector", "needs_shots"], "--detector: needs_shots needs labelled pictures (--shots)"),
        (inspected, ["--detector", "needs_classes"], "--classes: is missing"),
        (inspected, ["--detector", "needs_classes", "--classes", place / "names.json"], "should hold a JSON list"),
    ]
    for run, words, message in cases:
        with pytest.raises(UserError, match=re.escape(message)):
            run(place, *words)
    (place / "pictures" / "4.png").write_text("no picture")
    inspected(place, "--detector", "bright")
    assert len(pd.read_csv(place / "out" / "scores.csv")) == 4, "a picture that cannot be read is left out"


def test_toys_do_not_stay_in_the_registry():
    assert "toy" not in registry.DETECTORS


@pytest.mark.parametrize("run", [audited, inspected])
def test_work_folders_do_not_stay_and_the_output_may_be_the_working_folder(place, run, monkeypatch):
    made = []

    def score(self, clip, data, work):
        work.folder.mkdir()
        made.append(work)
        items = [MODEL] if data.pictures is None else data.pictures.keys
        return Scores(items, np.zeros(len(items)))

    for kind in (ToyModel, ToyPictures):
        monkeypatch.setattr(kind, "score", score)
    (place / "here").mkdir()
    monkeypatch.chdir(place / "here")
    run(place, "--detector", "toy" if run is audited else "bright", "--output", ".")
    assert (place / "here" / "report.html").is_file() and len(made) == 1 and not made[0].folder.exists()
    assert made[0].folder.parent == place and len(made[0].identity) == 64


def test_the_order_of_the_rows_changes_no_score(place, monkeypatch):
    """A detector that takes the first pairs gets the same ones for every order of a table's rows."""

    def score(self, clip, data, work):
        first = data.pairs.take([0, 1])
        return Scores([MODEL], np.array([float(first.images.double().mean())]), evidence={"captions": first.captions})

    monkeypatch.setattr(NeedsPairs, "score", score)
    rows = [f"pictures/{number}.png,caption {number}" for number in range(4)]
    found = []
    for name, order in (("sorted", rows), ("reversed", rows[::-1])):
        (place / f"{name}.csv").write_text("\n".join(["path,caption", *order]))
        words = ["--pairs", place / f"{name}.csv", "--detector", "needs_pairs", "--output", place / name]
        found.append(audited(place, *words)["findings"][0])
    one, other = found
    assert (one["score"], one["evidence"]) == (other["score"], other["evidence"])


def test_the_order_of_given_pairs_is_random_and_keeps_pairs_together(make_pairs):
    pairs = make_pairs(20)
    orders = [given.shuffled(pairs, seed).keys for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(pairs.keys) != orders[0]
    mixed = given.shuffled(pairs, 0)
    for row, key in enumerate(mixed.keys):
        old = pairs.keys.index(key)
        assert mixed.captions[row] == pairs.captions[old] and mixed.labels[row] == pairs.labels[old]
        assert (mixed.images[row] == pairs.images[old]).all()


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_number_is_left_out(place, monkeypatch, score):
    monkeypatch.setattr(Broken, "answer", score)
    found = audited(place, "--population", study(place, clean=[0.1] * 11, backdoored=[0.9]), "--detector", "broken")
    reason = "its score is not a number: the model's features are not finite"
    assert found["verdict"] == f"no verdict: no detector has a score; broken: {reason}"
    assert (found["findings"][0]["score"], found["findings"][0]["left_out"]) == (None, reason)


def test_a_model_without_finite_features_gets_no_score(place, make_clip):
    clip = make_clip("vit")
    clip.network.visual.ln_post.weight.data.fill_(float("nan"))
    found = audit.audit(clip, detectors=["toy"])
    assert found.findings[0].score is None and "features are not finite" in found.findings[0].left_out


def test_a_fault_of_one_detector_does_not_lose_the_others(place, monkeypatch, caplog):
    monkeypatch.setattr(Broken, "answer", RuntimeError("sizes of tensors\ndo not match"))
    with caplog.at_level("WARNING"):
        found = audited(place, "--detector", "broken", "--detector", "toy")
    reason = "it failed, RuntimeError: sizes of tensors do not match"
    assert [(one["left_out"], one["score"]) for one in found["findings"]] == [(reason, None), ("", 0.8)]
    assert f"broken: left out: {reason}" in caplog.text


def test_the_reason_of_a_detector_names_it_once(place, monkeypatch):
    monkeypatch.setattr(Broken, "answer", UserError("broken: 1 different pictures are given"))
    found = audited(place, "--detector", "broken")
    assert found["verdict"] == "no verdict: no detector has a score; broken: 1 different pictures are given"


def test_a_killed_audit_keeps_the_scores_that_are_done(place, monkeypatch):
    monkeypatch.setattr(Broken, "answer", SystemExit(143))
    with pytest.raises(SystemExit):
        audited(place, "--detector", "toy", "--detector", "broken")
    found = json.loads((place / "out" / "audit.json").read_text())
    assert found["verdict"] == "not finished: 1 of 2 detectors have a new score"
    assert [(one["detector"], one["score"]) for one in found["findings"]] == [("toy", 0.8)]
    monkeypatch.setattr(Broken, "answer", 0.3)
    monkeypatch.setattr(ToyModel, "score", lambda self, clip, data, work: pytest.fail("scored twice"))
    folder = study(place, clean=[0.1] * 11, backdoored=[0.9])
    found = audited(place, "--detector", "toy", "--detector", "broken", "--population", folder)
    assert [one["score"] for one in found["findings"]] == [0.8, 0.3]
    assert found["findings"][0]["verdict"].startswith("suspicious"), "the verdict is of the population of this audit"


def test_a_score_of_other_data_is_not_taken_again(place, make_pairs):
    run = lambda count, seed=0: audit.audit(
        place / "model", given.Given(pairs=make_pairs(count)), detectors=["needs_pairs"], seed=seed, output=place / "o"
    )
    assert [run(4).findings[0].score, run(5).findings[0].score, run(5).findings[0].score] == [4, 5, 5]
    first, second = run(5).findings[0].identity, run(5, seed=1).findings[0].identity
    assert first != second and len(first) == 64


def test_a_second_audit_adds_to_the_first(place, make_clip):
    audited(place, "--detector", "toy")
    found = audited(place, "--detector", "needs_pairs", "--pairs", place / "pictures")
    assert [(one["detector"], one["score"]) for one in found["findings"]] == [("needs_pairs", 4.0), ("toy", 0.8)]
    found = audited(place, "--detector", "needs_pairs")  # without the pairs, which leaves the detector out
    assert [(one["detector"], one["score"]) for one in found["findings"]] == [("needs_pairs", 4.0), ("toy", 0.8)]
    page = (place / "out" / "report.html").read_text()
    assert "toy" in page and "needs_pairs" in page
    save_model(place / "model", make_clip("rn"), {"kind": "suspicious", "statement": "test"})
    with pytest.raises(UserError, match=r"out: holds the audit of another model \(.*model\); name another folder"):
        audited(place)
    (place / "out" / "audit.json").write_text("[]")
    with pytest.raises(UserError, match=r"out: holds the audit of another model \(unknown\)"):
        audited(place)


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
    assert found["verdict"] == "no verdict: 2 pairs are given; the scores of the population are from 3"
    assert "verdicts" not in found


def classes(place, names):
    (place / "names.json").write_text(json.dumps(names))
    for folder, level in (("boat", 0), ("cup", 100), ("polar_bear", 200)):
        (place / "test" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(place / "test" / folder / "a.png")
    pictures, found = given.Given(classes=place / "names.json").labels(place / "test", 32)
    return {found[label]: int(image.max()) for label, image in zip(pictures.labels, pictures.images, strict=True)}


@pytest.mark.parametrize("names", [
    ["boat", "cup", "polar_bear"], ["polar bear", "cup", "boat"], ["Cup", "polar bear", "boat"],
])  # fmt: skip
def test_class_names_in_another_order_are_matched_with_their_folders(place, names, caplog):
    levels = {name.casefold().replace("_", " "): level for name, level in classes(place, names).items()}
    assert levels == {"boat": 0, "cup": 100, "polar bear": 200} and not caplog.text


def test_class_names_that_are_not_those_of_the_folders_are_named(place, caplog):
    with caplog.at_level("WARNING"):
        assert classes(place, ["ship", "mug", "bear"]) == {"ship": 0, "mug": 100, "bear": 200}
    assert caplog.text.count("--classes") == 1 and "folder 'boat' is class 'ship'" in caplog.text


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
