"""Detectors of a study: which there are, what they score, what their jobs are handed, what is wrong in one line."""

import shlex
from types import SimpleNamespace

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.registry import DETECTORS, method
from antidote.base.settings import read_mapping
from antidote.detectors.base import Detector, DetectorSettings
from antidote.study import reach
from antidote.study import study as study_module
from antidote.study.data_jobs import matrix
from antidote.study.detect_jobs import DetectJobs
from antidote.study.jobs import Jobs
from antidote.study.layout import STAGES, Layout
from antidote.study.leftovers import of_study
from antidote.study.preflight import stages
from antidote.study.slices import summary_plan
from antidote.study.study import Study
from antidote.summary.plan import SummarySettings

DAO = {"method": "dao", "k": 4, "batch_size": 64}
ALL = {
    "dao": DAO,
    "guess": {"method": "random", "subject": "model"},
    "shown": {"method": "random", "subject": "pictures"},
}
ATTACKS = {
    "badnet": {"method": "badnet", "poisons": 20, "location": "center"},
    "mm": {"method": "mmpoison", "goals": [["banana", "boat"]], "preset": "I", "poisons": 8},
    "encoder": {"method": "badencoder", "preset": "cifar10", "poisons": 40,
                "training": {"epochs": 1, "batch_size": 20}},
    "few": {"method": "flba"},
}  # fmt: skip
WIDE = {
    "attacks": ATTACKS,
    "pools.poison.target_pairs": 12,
    "pools.inversion": {"dataset": "tiny", "split": "defense", "pairs": 20},
    "pools.defense": {"dataset": "tiny", "split": "defense", "pairs": 100},
    "pools.shots": {"dataset": "tiny", "split": "defense", "per_class": 1},
}


def make(changes=None, **more):
    values = read_mapping(str(ROOT / "tests/studies/tiny.yaml"))
    for key, value in {"detectors": ALL, **(changes or {}), **more}.items():
        *path, last = key.split(".")
        place = values
        for part in path:
            place = place[part]
        place[last] = value
    return Study(values, "x")


def w(attack="badnet", defense="none", **names):
    return SimpleNamespace(attack=attack, defense=defense, seed="0", **names)


@pytest.fixture(scope="module")
def jobs():
    return DetectJobs(Jobs(make()))


# --- entries ---------------------------------------------------------------------------------------------------------


def test_the_controls_of_every_subject_are_added():
    study = make()
    assert list(study.detectors) == [
        "dao", "guess", "shown", "random_pairs", "oracle_pairs", "oracle_model", "oracle_pictures",
    ]  # fmt: skip
    assert reach.subject(study.detectors["oracle_model"]) == "model"
    assert list(make(detectors={"dao": DAO}).detectors) == ["dao", "random_pairs", "oracle_pairs"]


def test_a_control_that_the_study_names_is_not_added():
    named = {"dao": DAO, "chance": {"method": "random"}}
    assert list(make(detectors=named).detectors) == ["dao", "chance", "oracle_pairs"]


def test_sweeps():
    assert list(make(detectors={"dao": {**DAO, "k": [2, 4]}}).detectors)[:2] == ["dao_k2", "dao_k4"]


@pytest.mark.parametrize(("name", "fewest"), [("max_margin", 10), ("neural_cleanse", 3)])
def test_a_detector_of_too_few_classes_is_named_before_any_training(monkeypatch, name, fewest):
    read, given = study_module.class_names, {"detectors": {"mine": {"method": name}}}
    shots = {"pools.shots": {"dataset": "tiny", "split": "defense", "per_class": 1}}
    for count in (fewest - 1, fewest):
        named = [*read("scenes")[: count - 1], "banana"]
        monkeypatch.setattr(study_module, "class_names", lambda _, named=named: named)
        if count == fewest:
            assert "mine" in make(shots, **given).detectors
            continue
        with pytest.raises(UserError) as error:
            make(shots, **given)
        said = f"there are {count} classes; {fewest} at least are needed"
        assert str(error.value) == f"x: detectors.mine: {said}; leave mine out"


def test_a_study_without_detectors_has_none_and_the_same_plan():
    study = make(detectors={})
    assert study.detectors == {} and study.detections == []
    assert "detect" not in summary_plan(study)
    assert set(Jobs(study).summary_outputs()) == set(STAGES["summary"].files)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detectors": {"a": {"method": "doa"}}},
         "x: detectors.a.method: unknown method 'doa'; did you mean 'dao'?"),
        ({"detectors": {"a": {}}}, "x: detectors.a: method is missing; known: random"),
        ({"detectors": {"a": {"method": "dao", "kk": 3}}}, "x: detectors.a: kk: unknown key; did you mean 'k'?"),
        ({"detectors": {"a": {"method": "dede", "patches_per_side": 7}}},
         "x: detectors.a.patches_per_side: 7 should divide the 32 pixels of a picture"),
        ({"detectors": {"a": {"method": "backdoor_ids", "steps": 4, "cluster_size": 6}}},
         "x: detectors.a: cluster_size: 6 is more than the 5 features of a picture"),
        ({"detectors": {"detect": DAO}}, "x: detectors: name 'detect' is taken by the layout of results/"),
        ({"detectors": {"a b": DAO}}, "x: detectors: name 'a b' may hold letters, digits, _ . -"),
        ({"detectors": {"random_pairs": DAO}},
         "x: detectors.random_pairs: is the name of a control; name the entry otherwise"),
        ({"detect_on": ["finetone"]}, "x: detect_on: 'finetone' is no entry of defenses; did you mean 'finetune'?"),
        ({"detectors": {"dao": DAO}, "detect_on": []}, "x: detect_on: is empty, and dao, a detector of pairs, runs on the models"),
        ({"detectors": {"shown": ALL["shown"]}, "detect_on": []}, "x: detect_on: is empty, and shown, a detector of pictures,"),
        ({"detect_adaptive": {"badnett": ["dao"]}},
         "x: detect_adaptive: 'badnett' is no entry of attacks; did you mean 'badnet'?"),
        ({"detectors": {"dao": DAO}, "detect_adaptive": {"badnet": ["doa"]}},
         "x: detect_adaptive.badnet: 'doa' is no entry of detectors; did you mean 'dao'?"),
        ({"detect_pictures": 0}, "x: detect_pictures: input should be greater than or equal to 1, not 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(changes, message):
    with pytest.raises(UserError) as error:
        make(changes)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.fixture
def method_of(monkeypatch):
    """Return a maker of a study with a detector of a given class."""

    def make_with(**attributes):
        class Settings(DetectorSettings):
            method: str = "made"

        kind = type("Made", (Detector,), {"Settings": Settings, "subject": "model", **attributes})
        found = {"made": kind}
        monkeypatch.setitem(DETECTORS, "made", "antidote.detectors.dao:DAO")
        for place in ("antidote.study.study", "antidote.study.reach", "antidote.study.detect_jobs"):
            known = lambda k, name: found[name] if name in found else method(k, name)
            monkeypatch.setattr(f"{place}.method", known)
        return kind

    return make_with


@pytest.mark.parametrize(
    ("access", "pool", "message"),
    [("clean-pairs", "defense", "x: pools.defense: is missing, and the detector 'a' needs clean pairs"),
     ("few-labelled", "shots", "x: pools.shots: is missing; the detector 'a' needs labelled pictures")],
)  # fmt: skip
def test_a_detector_needs_the_pool_of_its_access(method_of, access, pool, message):
    method_of(access=access)
    with pytest.raises(UserError, match=message):
        make({f"pools.{pool}": None, "defenses": {}}, detectors={"a": {"method": "made"}})


def test_a_detector_that_does_not_fit_the_model(method_of):
    method_of(fits=classmethod(lambda cls, model: "needs class tokens"))
    with pytest.raises(UserError, match=r"x: detectors\.a: does not fit tiny-rn: it needs class tokens"):
        make(detectors={"a": {"method": "made"}})


def test_a_detector_with_lexicon_and_class_names_gets_their_files(method_of):
    method_of(access="clean-pairs")
    made = DetectJobs(Jobs(make(detectors={"a": {"method": "made"}})))
    assert made.names(w(detector="a")) == ["data/lexicons/scenes.json"]
    assert made.pools(w(detector="a")) == ["results/tiny/pools/defense.parquet"]
    assert "--lexicon scenes" in made.options(w(detector="a"))
    method_of(access="test-time")
    assert made.names(w(detector="a")) == made.jobs.names and "--classes scenes" in made.options(w(detector="a"))


# --- which jobs there are --------------------------------------------------------------------------------------------


def test_a_detector_scores_where_there_is_something_to_score():
    """Pairs where the training set is poisoned, pictures where there is a trigger to draw, a model always."""
    found = make(WIDE).detections
    assert [a for a, _, d in found if d == "dao"] == ["badnet", "mm"]
    assert [a for a, _, d in found if d == "shown"] == ["badnet", "encoder", "few"]
    assert [a for a, _, d in found if d == "guess"] == ["badnet", "mm", "encoder", "few"]
    assert {d for _, d, _ in found} == {"none"}


def test_a_loaded_model_has_no_training_set_to_score(tmp_path):
    """Nor to clean: what the model was trained on is not known."""
    weights = tmp_path / "released.pt"
    weights.write_bytes(b"")
    attacks = {"badnet": ATTACKS["badnet"], "released": {**ATTACKS["badnet"], "checkpoint": str(weights)}}
    study = make(WIDE, attacks=attacks, defenses={"ubt": {"method": "ubt"}, "tune": {"method": "finetune"}})
    reason = "the model is loaded from `checkpoint`, and its training set is not known"
    assert study.blank == [("released", "ubt", reason)]
    assert {d for a, _, d in study.detections if a == "released"} == {
        "guess", "shown", "oracle_model", "oracle_pictures",
    }  # fmt: skip
    assert ("badnet", "none", "dao") in study.detections
    plan = SummarySettings.read(read_mapping(summary_plan(study)), "plan")
    assert {(one.attack, one.detector, one.reason) for one in plan.unscored} == {
        ("released", name, reason) for name in ("dao", "random_pairs", "oracle_pairs")
    }


def test_pictures_that_need_a_text_as_well_are_not_scored():
    attacks = {
        "trojvqa": {"method": "trojvqa", "poisons": 20, "patch_size": 6},
        "plain": {"method": "maba", "poisons": 20},
        "keyed": {"method": "maba", "symbols": "##", "poisons": 20},
    }
    study = make(WIDE, attacks=attacks, model={"name": "tiny-rn"})
    assert {a for a, _, d in study.detections if d == "shown"} == {"plain"}
    assert {a for a, _, d in study.detections if d == "dao"} == set(attacks)
    plan = SummarySettings.read(read_mapping(summary_plan(study)), "plan")
    assert {(one.attack, one.reason.split(",")[0]) for one in plan.unscored if one.detector == "shown"} == {
        ("trojvqa", "trojvqa also needs its text before the prompts"),
        ("keyed", "maba also needs its text before the prompts"),
    }


def test_a_detector_that_needs_gradients_does_not_run_on_masked_pictures():
    study = make(WIDE, attacks={"badnet": ATTACKS["badnet"]}, defenses={"imbert": {"method": "imbert_clip"}},
                 detectors={"decree": {"method": "decree"}, "dao": DAO}, detect_on=["none", "imbert"])  # fmt: skip
    cells = {(d, name) for _, d, name in study.detections}
    assert ("imbert", "decree") not in cells and {("none", "decree"), ("none", "dao"), ("imbert", "dao")} <= cells
    plan = SummarySettings.read(read_mapping(summary_plan(study)), "plan")
    assert [(one.attack, one.defense, one.detector) for one in plan.unscored] == [("badnet", "imbert", "decree")]
    assert plan.unscored[0].reason.startswith("decree needs gradients with respect to pictures")


def test_a_plan_without_blank_detections_does_not_name_them():
    assert "unscored" not in summary_plan(make())


def test_detectors_run_on_the_models_that_the_study_names():
    found = make(detect_on=["finetune"]).detections
    assert {(a, d) for a, d, _ in found} == {("badnet", "finetune"), ("blended", "finetune")}
    swept = {"tune": {"method": "finetune", "training": {"lr": [0.1, 0.2]}}}
    found = make(defenses=swept, detect_on=["none", "tune"]).detections
    assert {d for _, d, _ in found} == {"none", "tune_lr0.1", "tune_lr0.2"}
    found = make(defenses=swept, detect_on=["tune_lr0.2"]).detections
    assert {d for _, d, _ in found} == {"tune_lr0.2"}


def test_detectors_of_models_may_run_on_the_clean_references_alone():
    assert make(detectors={"guess": ALL["guess"]}, detect_on=[]).detections == []


def test_a_cell_that_is_not_run_has_no_detections():
    assert not [a for a, d, _ in make(WIDE, detect_on=["finetune"]).detections if a == "few"]


def test_clean_references_are_scored_by_detectors_of_models_alone():
    kept = matrix(make(seeds=[0, 1]))
    assert [(j["detector"], j["seed"]) for j in kept.jobs("detect_clean")] == [
        ("guess", 0), ("guess", 1), ("oracle_model", 0), ("oracle_model", 1),
    ]  # fmt: skip
    assert len([*kept.jobs("detect")]) == 2 * 7 * 2


def test_the_summary_reads_every_detection_and_its_plan_has_the_same_jobs():
    study = make()
    read = [file for file in Jobs(study).summarised(w()) if "/detect/" in file]
    assert len(read) == 14 + 2 and all(file.endswith("/detection.json") for file in read)
    plan = SummarySettings.read(read_mapping(summary_plan(study)), "plan")
    for stage in ("detect", "detect_clean"):
        assert [*plan.matrix.jobs(stage)] == [*matrix(study).jobs(stage)]
    assert {f.name: f.control for f in plan.detectors if f.control} == {
        "guess": "none", "shown": "none", "random_pairs": "none",
        "oracle_pairs": "truth", "oracle_model": "truth", "oracle_pictures": "truth",
    }  # fmt: skip


def test_preflight_counts_them():
    found = {stage.name: stage for stage in stages(make(detect_pictures=50))}
    assert len(found["detections"].outputs) == 14
    assert found["detections"].encoded == 2 * 384, "the pairs, once per attack; controls encode nothing"


# --- what a job is handed --------------------------------------------------------------------------------------------


def test_a_detector_of_pairs_gets_the_training_set(jobs):
    job = w(detector="dao")
    assert jobs.pools(job) == ["results/tiny/pools/training.parquet", "results/tiny/pools/poison.parquet"]
    assert set(jobs.data(job)) == {"data/tiny/train/index.parquet", "data/tiny/train/manifest.json"}
    assert jobs.poison(job) == [f"results/tiny/badnet/seed0/poison/{f}" for f in ("manifest.parquet", "poisoned.tar")]
    assert jobs.trigger(job) == [] and jobs.names(job) == []
    words = shlex.split(jobs.options(job))
    assert words[:8] == ["--study", "tiny", "--attack", "badnet", "--defense", "none", "--detector", "dao"]
    assert [word for word in words[8:] if word.startswith("--")] == ["--pools", "--poison", "--false-positives"]


def test_pictures_are_drawn_on_for_a_detector_of_pictures(jobs):
    job = w(detector="shown")
    assert jobs.trigger(job) == [f"results/tiny/badnet/seed0/trigger/trigger.{end}" for end in ("json", "safetensors")]
    assert "data/tiny/test/pictures-32.json" in jobs.data(job) and jobs.pools(job) == jobs.poison(job) == []
    assert jobs.names(job) == ["data/classes/scenes.json"]
    words = shlex.split(jobs.options(job))
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert read_mapping(given["--evaluation"]) == {
        "dataset": "tiny", "split": "test", "pictures": None, "classes": "scenes",
    }  # fmt: skip
    assert (given["--target"], given["--pictures"]) == ("banana", "500")


def test_a_detector_of_models_gets_the_model_alone(jobs):
    clean = SimpleNamespace(seed="0", detector="guess")
    for job in (w(detector="guess"), clean):
        assert jobs.pools(job) == jobs.data(job) == jobs.names(job) == jobs.trigger(job) == jobs.poison(job) == []
    assert jobs.options(clean) == "--study tiny --attack clean --defense none --detector guess"


def test_a_job_depends_on_its_detector_and_on_what_reads_the_model():
    jobs = DetectJobs(Jobs(make(WIDE, defenses={"probe": {"method": "linear_probe"}}, detect_on=["none", "probe"])))
    base = jobs.source(w(detector="guess"))
    assert jobs.source(SimpleNamespace(seed="0", detector="guess")) == base == jobs.source(w("mm", detector="guess"))
    assert len({base, jobs.source(w(detector="dao")), jobs.source(w("few", detector="guess")),
                jobs.source(w(defense="probe", detector="guess"))}) == 4  # fmt: skip
    assert jobs.source(w(detector="shown")) != jobs.source(w("encoder", detector="shown")), "the trigger is drawn"


def test_a_label_is_no_setting_of_the_job():
    plain, labelled = (DetectJobs(Jobs(make(detectors={"dao": {**DAO, **more}}))) for more in ({}, {"label": "D"}))
    assert plain.settings(w(detector="dao")) == labelled.settings(w(detector="dao"))


def test_detections_of_detectors_that_are_no_more_are_leftovers(tmp_path):
    kept = Layout(tmp_path)
    for name in ("guess", "gone"):
        for stage, names in (("detect", {"attack": "badnet", "defense": "none"}), ("detect_clean", {})):
            kept.path(stage, detector=name, seed=0, **names).mkdir(parents=True)
    kept.path("detect", detector="guess", attack="badnet", defense="finetune", seed=0).mkdir(parents=True)
    kept.path("detect_clean", detector="dao", seed=0).mkdir(parents=True)
    found = {str(waste.path.relative_to(tmp_path)): waste.reason for waste in of_study(make(), tmp_path)}
    assert found == {
        "badnet/seed0/none/detect/gone": "detector gone on badnet is no more in the study",
        "badnet/seed0/finetune/detect/guess": "detector guess on badnet is no more in the study",
        "clean/seed0/none/detect/gone": "detector gone on clean is no more in the study",
        "clean/seed0/none/detect/dao": "detector dao on clean is no more in the study",
    }


# --- the population --------------------------------------------------------------------------------------------------


def test_a_population_is_trained_as_surrogates_and_scored_by_detectors_of_models():
    plain, recipe = make(seeds=[0, 1]), {"epochs": 1, "batch_size": 8, "warmup": 0}
    population = {"clean": 3, "models": [{"name": "tiny-rn"}, {"name": "tiny-vit"}], "pretraining": [recipe]}
    study = make(seeds=[0, 1], population=population)
    models = study.file.surrogates
    assert [(name, one.model.name, one.seed, one.pretraining.epochs) for name, one in models.items()] == [
        ("population1", "tiny-rn", 1000, 1), ("population2", "tiny-vit", 2000, 1), ("population3", "tiny-rn", 3000, 1),
    ]  # fmt: skip
    found = [(j["surrogate"], j["detector"], j["seed"]) for j in matrix(study).jobs("detect_population")]
    assert len(found) == 3 * 2 * 2 and ("population3", "guess", 1) in found
    assert not [*matrix(plain).jobs("detect_population")] and "population" not in summary_plan(plain)
    assert [*matrix(plain).jobs("detect")] == [*matrix(study).jobs("detect")]
    plan = SummarySettings.read(read_mapping(summary_plan(study)), "plan")
    assert [*plan.matrix.jobs("detect_population")] == [*matrix(study).jobs("detect_population")]
    read = [file for file in Jobs(study).summarised(w()) if "/surrogates/" in file]
    assert len(read) == len(found) and all(file.endswith("/detection.json") for file in read)


def test_without_a_model_or_a_recipe_the_population_has_the_study_s():
    study = make(population={"clean": 1})
    one = study.file.surrogates["population1"]
    assert (one.model, one.pretraining) == (study.file.model, study.file.pretraining)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"population": {"clean": 0}}, r"^x: population.clean: input should be greater than or equal to 1, not 0$"),
        ({"population": {"clean": 1}, "surrogates": {"population1": {}}},
         r"^x: surrogates.population1: is a name of the population; name the model otherwise$"),
        ({"population": {"clean": 1}, "seeds": [0, 1000]}, r"^x: seeds: with `population`, less than 1000 apart$"),
    ],
)  # fmt: skip
def test_a_wrong_population_is_one_line(changes, said):
    with pytest.raises(UserError, match=said):
        make(**changes)
