"""What each job is handed: all that it reads, nothing above its access, and text that a shell takes as it is."""

import copy
import inspect
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.data.store.datasets import pointers
from antidote.study.data_jobs import alternatives, options
from antidote.study.detect_jobs import DetectJobs
from antidote.study.jobs import Jobs, quick_to_inspect
from antidote.study.study import Study

MODEL = ("open_clip_model.safetensors", "open_clip_config.json", "adapter.json", "adapter.safetensors")
WORDS = {"data/classes/scenes.json", "data/templates/scenes.json"}
WIDE = {
    "pools.inversion": {"dataset": "tiny", "split": "defense", "pairs": 20},
    "pools.defense": {"dataset": "tiny", "split": "defense", "pairs": 100},
    "pools.shots": {"dataset": "tiny", "split": "defense", "per_class": 1},
    "surrogates": {"other": {"model": {"name": "tiny-rn"}, "seed": 7}},
    "attacks": {
        "badnet": {"method": "badnet", "poisons": 20, "location": "center"},
        "siba": {"method": "siba", "poisons": 20},
        "far": {"method": "siba", "poisons": 20, "surrogate": "other"},
        "issba": {"method": "issba", "poisons": 20},
        "few": {"method": "flba"},
    },
    "defenses": {
        "cleanclip": {"method": "cleanclip"},
        "finetune": {"method": "finetune", "training": {"epochs": 1}},
        "probe": {"method": "linear_probe"},
        "ubt": {"method": "ubt", "scorer": "surrogates.other"},
        "ubt_oracle": {"method": "ubt_oracle"},
    },
}


def make(changes):
    values = copy.deepcopy(read_mapping(str(ROOT / "tests/studies/tiny.yaml")))
    for key, value in changes.items():
        *path, last = key.split(".")
        place = values
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return Jobs(Study(values, "x"))


@pytest.fixture(scope="module")
def jobs():
    return make(WIDE)


def w(**names):
    return SimpleNamespace(**{"seed": "0", **names})


def model(folder):
    return {f"results/tiny/{folder}/model/{name}" for name in MODEL}


def pools(*names):
    return {f"results/tiny/pools/{name}.parquet" for name in names}


def split(*names):
    return {f"data/tiny/{name}/{file}" for name in names for file in ("index.parquet", "manifest.json")}


def poison(attack):
    return {f"results/tiny/{attack}/seed0/poison/{file}" for file in ("manifest.parquet", "poisoned.tar")}


def test_functions_that_are_quick_to_inspect_are_the_same(jobs):
    quick = quick_to_inspect(make(WIDE))
    public = [name for name, _ in inspect.getmembers(Jobs, inspect.isfunction) if not name.startswith("_")]
    assert {"floor_options", "evaluated"} <= set(public)
    for name in public:
        assert inspect.signature(getattr(quick, name)) == inspect.signature(getattr(jobs, name)), name
        assert "__signature__" in vars(getattr(quick, name))
    assert quick.evaluated(w()) == jobs.evaluated(w()) and quick.naming(suspicious=True) == jobs.naming(suspicious=True)
    cell = w(attack="badnet", defense="ubt")
    assert quick.cell_options(cell) == jobs.cell_options(cell)


def test_the_cells_of_an_attack_and_seed_share_triggered_pictures(jobs):
    def folder(text):
        words = shlex.split(text)
        return words[words.index("--drawn") + 1] if "--drawn" in words else None

    output = SimpleNamespace(examples="examples.png")
    shared = {folder(jobs.cell_options(w(attack="badnet", defense=name))) for name in ("none", "cleanclip")}
    shared.add(folder(jobs.floor_options(w(attack="badnet"), output)))
    assert shared == {"results/tiny/work/drawn/badnet-seed0"}
    drawn = 'drawn=str(layout.drawn(attack="{attack}", seed="{seed}"))'
    assert (ROOT / "rules/evaluate.smk").read_text().count(drawn) == 2, "adaptations of the model and of the control"
    assert {str(jobs.layout.drawn(attack="{attack}", seed="{seed}")).format(attack="badnet", seed=0)} == shared
    others = [w(attack="siba", defense="none"), w(attack="badnet", defense="none", seed="1")]
    assert not shared & {folder(jobs.cell_options(other)) for other in others}
    assert folder(jobs.clean_options(w())) is None


# --- triggers --------------------------------------------------------------------------------------------------------


def test_a_drawn_trigger_needs_nothing(jobs):
    job = w(attack="badnet")
    assert [jobs.surrogate(job), jobs.fitting_pools(job), jobs.fitting_pairs(job), jobs.fitting_names(job)] == [[]] * 4
    assert jobs.fitting_options(job) == ""


def test_a_trigger_that_is_fitted_on_pictures_alone(jobs):
    job = w(attack="issba")
    assert jobs.surrogate(job) == [] and set(jobs.fitting_pools(job)) == pools("inversion", "poison")
    assert set(jobs.fitting_pairs(job)) == split("defense", "train") and set(jobs.fitting_names(job)) == WORDS
    assert "--surrogate" not in jobs.fitting_options(job)


@pytest.mark.parametrize("attack,folder", [("siba", "clean/seed0"), ("far", "surrogates/other/seed0")])
def test_a_trigger_that_is_fitted_on_a_surrogate(jobs, attack, folder):
    assert set(jobs.surrogate(w(attack=attack))) == model(folder)
    assert shlex.split(jobs.fitting_options(w(attack=attack))) == [
        "--pools", "results/tiny/pools/inversion.parquet", "results/tiny/pools/poison.parquet",
        "--classes", "scenes", "--templates", "scenes", "--surrogate", f"results/tiny/{folder}/model",
    ]  # fmt: skip


def test_a_surrogate_from_elsewhere_may_have_no_adapter(tmp_path):
    folder = tmp_path / "an old model"
    folder.mkdir()
    config = '{"model_cfg": {"embed_dim": 64, "vision_cfg": {"image_size": 32}, "text_cfg": {}}}'
    (folder / MODEL[1]).write_text(config)
    attack = {"siba": {"method": "siba", "poisons": 20, "surrogate": str(folder)}}
    jobs, job = make({**WIDE, "attacks": attack}), w(attack="siba")
    assert jobs.surrogate(job) == [str(folder / name) for name in MODEL[:2]]
    assert shlex.split(jobs.fitting_options(job))[-2:] == ["--surrogate", str(folder)]
    (folder / "adapter.json").touch()
    assert jobs.surrogate(job) == [str(folder / name) for name in MODEL[:3]]


# --- training --------------------------------------------------------------------------------------------------------


def test_where_a_backdoored_model_starts(jobs):
    assert set(jobs.start(w(attack="siba"))) == model("clean/seed0")
    assert jobs.start_options(w(attack="siba")) == "--start results/tiny/clean/seed0/model"
    initial = make({"poisoning.start": "model"})
    assert initial.start(w(attack="badnet")) == [] and initial.start_options(w(attack="badnet")) == ""


def test_a_surrogate_model_is_another_draw(jobs):
    assert jobs.model_seed(w(seed="3", surrogate="other")) == 10 and jobs.model_seed(w(seed="3")) == 3
    assert jobs.initial_model(w()) == jobs.initial_model(w(surrogate="other")) == ["data/models/tiny-rn.json"]


def test_weights_that_are_a_file_are_an_input(tmp_path, monkeypatch):
    (tmp_path / "my weights.pt").touch()
    jobs = make({"model": {"name": "tiny-rn", "pretrained": str(tmp_path / "my weights.pt")}})
    assert jobs.initial_model(w()) == ["data/models/tiny-rn.json", str(tmp_path / "my weights.pt")]
    monkeypatch.chdir(tmp_path)  # files in the working folder by their relative paths
    assert jobs.initial_model(w()) == [str(ROOT / "data/models/tiny-rn.json"), "my weights.pt"]


def test_the_files_of_a_public_scorer_are_inputs(tmp_path):
    """The method loads the model by its name: the job gets no folder."""
    file = tmp_path / "my weights.pt"
    file.touch()
    named = {"method": "ubt", "scorer": f"tiny-rn/{file}"}
    changes = {"detectors": {"ccs": {"method": "clean_clip_score", "scorer": f"tiny-rn/{file}"}, "ubt": named}}
    jobs = make({**WIDE, "defenses": {"ubt": named}, **changes})
    detecting = DetectJobs(jobs)
    job = w(attack="badnet", defense="ubt")
    assert jobs.scorer(job) == ["data/models/tiny-rn.json", str(file)] and "--scorer" not in jobs.defense_options(job)
    for name in ("ccs", "ubt"):
        job = w(attack="badnet", defense="none", detector=name)
        assert detecting.scorer(job) == ["data/models/tiny-rn.json", str(file)]
        assert "--scorer" not in detecting.options(job)


def test_an_attack_on_the_shots(jobs):
    assert jobs.few_shot == ["few"] and jobs.on_training == ["badnet", "siba", "far", "issba"]
    assert "victim" in jobs.victim_settings(w(attack="few")) and "victim" not in jobs.shots_settings(w(attack="few"))
    assert jobs.shots_options(w(attack="few")) == "--surrogate results/tiny/clean/seed0/model"
    assert set(jobs.model_under_test(w(attack="few", defense="none"))) == model("few/seed0")


# --- defenses --------------------------------------------------------------------------------------------------------


def handed(jobs, defense):
    job = w(attack="siba", defense=defense)
    found = {*jobs.defense_pools(job), *jobs.defense_pairs(job), *jobs.defense_names(job), *jobs.defense_poison(job)}
    return found | {*jobs.scorer(job)}


def test_a_defense_gets_what_its_access_grants(jobs):
    assert handed(jobs, "none") == set()
    assert handed(jobs, "finetune") == pools("defense") | split("defense")
    assert handed(jobs, "cleanclip") == pools("defense") | split("defense") | {"data/lexicons/scenes.json"}
    assert handed(jobs, "probe") == pools("shots") | split("defense") | WORDS
    owned = pools("training", "poison") | split("train") | poison("siba")
    assert handed(jobs, "ubt_oracle") == owned
    assert handed(jobs, "ubt") == owned | model("surrogates/other/seed0")


def test_and_hears_of_no_more(jobs):
    given = {name: shlex.split(jobs.defense_options(w(attack="siba", defense=name))) for name in jobs.study.defenses}
    flags = {name: [word for word in words if word.startswith("--")] for name, words in given.items()}
    assert flags == {
        "none": [], "finetune": ["--pools"], "cleanclip": ["--pools", "--lexicon"],
        "probe": ["--pools", "--classes", "--templates"], "ubt": ["--pools", "--poison", "--scorer"],
        "ubt_oracle": ["--pools", "--poison"],
    }  # fmt: skip
    assert given["ubt"][-3:] == [
        "results/tiny/siba/seed0/poison",
        "--scorer",
        "results/tiny/surrogates/other/seed0/model",
    ]


def test_which_defenses_say_what_they_hold_for_poisoned(jobs):
    assert jobs.naming(suspicious=True) == ["ubt", "ubt_oracle"]
    assert jobs.naming(suspicious=False) == ["none", "cleanclip", "finetune", "probe"]
    assert jobs.finding(w(attack="siba", defense="ubt")) == [
        "results/tiny/siba/seed0/ubt/model/suspicious.json",
        "results/tiny/siba/seed0/poison/manifest.parquet",
    ]
    assert jobs.finding(w(attack="siba", defense="probe")) == []


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_the_model_under_test(jobs):
    assert set(jobs.model_under_test(w(attack="siba", defense="none"))) == model("siba/seed0")
    assert set(jobs.model_under_test(w(attack="siba", defense="probe"))) == model("siba/seed0/probe")
    assert jobs.folder_under_test(w(attack="siba", defense="probe")) == "results/tiny/siba/seed0/probe/model"


def test_a_cell_depends_on_the_attack_and_on_what_reads_its_adapter(jobs):
    cells = [("siba", "probe"), ("siba", "finetune"), ("badnet", "finetune"), ("few", "none")]
    sources = [jobs.scores_source(w(attack=attack, defense=defense)) for attack, defense in cells]
    assert len(set(sources)) == 4
    assert jobs.scores_source(w(attack="siba", defense="cleanclip")) == sources[1], "not on the defense"


def test_what_a_model_is_scored_on():
    shift = {"dataset": "tiny", "split": "defense", "classes": "imagenette", "pictures": 9}
    jobs = make({"evaluation.probe": {"dataset": "tiny", "split": "train", "pictures": 50}})
    pictures = ["data/tiny/test/pictures-32.json", "data/tiny/train/pictures-32-50.json"]
    assert set(jobs.evaluated(w())) == split("test", "train") | set(pictures)
    del shift["classes"]
    jobs = make({"evaluation.shifts": {"other": shift}, "pools.defense": {"split": "train", "pairs": 40}})
    assert set(jobs.evaluated(w())) == split("test", "defense") | {pictures[0], "data/tiny/defense/pictures-32-9.json"}


def test_what_the_summary_reads(jobs):
    found = jobs.summarised(w())
    assert len(found) == len(set(found)) and not any("persistence" in file for file in found)
    assert (
        "results/tiny/few/seed0/none/scores.json" in found and "results/tiny/few/seed0/probe/scores.json" not in found
    )
    adapted = make({**WIDE, "persistence": {"adaptations": {"a": {"kind": "full", "training": {"batch_size": 32}}}}})
    further = set(adapted.summarised(w())) - set(found)
    controls = {file for file in further if "/persistence/clean/" in file}
    assert len(further - controls) == 4 * 6 and not any("/few/" in file for file in further)
    assert len(controls) == 4 * len(adapted.study.clean_defenses)


def test_only_seeds_of_the_study_are_jobs():
    pattern = make({**WIDE, "seeds": [0, 12]}).constraints()["seed"]
    assert [seed for seed in ("0", "1", "12", "2", "7") if re.fullmatch(pattern, seed)] == ["0", "12"]


# --- data ------------------------------------------------------------------------------------------------------------


def url_study(tmp_path, **more):
    source = {"source": "url_table", "url": "u", "caption": "c", "splits": {"train": str(tmp_path / "a table.tsv")}}
    return make({
        "datasets.web": {**source, **more}, "evaluation.retrieval": {"dataset": "web", "split": "train"},
    })  # fmt: skip


def test_a_table_of_addresses_is_an_input_where_it_is_there(tmp_path):
    jobs, job = url_study(tmp_path), w(dataset="web", split="train")
    assert jobs.downloaded == ["web"] and jobs.url_tables(job) == []
    (tmp_path / "a table.tsv").touch()
    assert jobs.url_tables(job) == [str(tmp_path / "a table.tsv")]
    assert jobs.download_report(job) == ["data/web/train/download.json"]
    assert jobs.dataset_options(job) == "--download data/web/train/download.json"
    assert (
        jobs.download_report(w(dataset="tiny", split="test")) == []
        and jobs.dataset_options(w(dataset="tiny", split="test")) == ""
    )


def test_the_files_that_define_a_split_are_inputs(tmp_path):
    def given(source, **values):
        split = {"train": values.pop("split")}
        jobs = make({"datasets.own": {"source": source, "splits": split, **values},
                     "evaluation.retrieval": {"dataset": "own", "split": "train"}})  # fmt: skip
        return [str(Path(file).relative_to(tmp_path)) for file in jobs.source_files(w(dataset="own", split="train"))]

    table = {"path": "image", "caption": "caption"}
    assert given("table", split=str(tmp_path / "a.csv"), **table) == [], "preflight names a missing file"
    for name in ("a.csv", "b.csv", "{word}.csv", "keys.csv", "splits.json", "names.yaml", "0.tar"):
        (tmp_path / name).touch()
    assert given("table", split=str(tmp_path / "a.csv"), **table) == ["a.csv"]
    assert given("table", split=str(tmp_path / "a.csv"), subset=str(tmp_path / "keys.csv"), **table) == [
        "a.csv", "keys.csv"
    ]  # fmt: skip
    assert given("table", split=str(tmp_path / "{a,b}.csv"), **table) == []
    assert given("table", split=str(tmp_path / "{word}.csv"), **table) == []
    assert given("table", split="https://example.org/a.csv", **table) == []
    coco = {"file": str(tmp_path / "splits.json"), "root": str(tmp_path)}
    assert given("karpathy", split=["train"], **coco) == ["splits.json"]
    assert given("folder", split="train", root=str(tmp_path), names=str(tmp_path / "names.yaml")) == ["names.yaml"]
    assert given("webdataset", split=str(tmp_path / "0.tar")) == []
    assert make({}).source_files(w(dataset="tiny", split="train")) == []


def test_what_dvc_keeps_is_not_downloaded(tmp_path, monkeypatch):
    jobs = url_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    pointer = pointers(jobs.layout.path("dataset", dataset="web", split="train"))[0]
    pointer.parent.mkdir(parents=True)
    pointer.touch()
    assert jobs.download_report(w(dataset="web", split="train")) == []


def test_pictures_and_pools(jobs):
    assert jobs.pictures_options(w(fit="32")) == "--size 32"
    assert jobs.pictures_options(w(fit="224-1000")) == "--size 224 --pictures 1000"
    assert set(jobs.pool_indexes(w(pool="shots"))) == split("defense")
    assert "without" not in jobs.pool_settings(w(pool="training"))
    assert jobs.pool_files("shots", "nothing") == ["results/tiny/pools/shots.parquet"]
    assert jobs.pool_options(w(pool="training")) == ""


# --- what a shell takes ----------------------------------------------------------------------------------------------


def test_options_are_quoted():
    given = options(target="it's a {dog} $HOME", pools=["a b", "c"], poison=None, scorer=[], in_memory=0)
    assert shlex.split(given) == ["--target", "it's a {dog} $HOME", "--pools", "a b", "c", "--in-memory", "0"]
    assert options() == "" and options(nothing=None) == ""


def test_a_regular_expression_of_no_names_fits_nothing():
    assert alternatives([]) == "(?!)" and alternatives(["a.b", "c"]) == r"a\.b|c"


# Numbers, and the options that Jobs has quoted.
PLAIN = re.compile(r"threads|resources\.\w+|wildcards\.seed|params\.(options|size|seed)")


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "rules").glob("*.smk")))
def test_every_value_in_a_command_is_quoted(file):
    text = (ROOT / "rules" / file).read_text()
    commands = [
        text[match.start() :].partition("\n\n\n")[0] for match in re.finditer(r"    shell:|^EVALUATION", text, re.M)
    ]
    values = [value for command in commands for value in re.findall(r"\{([\w.]+(?:\[\d\])?(?::\w+)?)\}", command)]
    assert [value for value in values if not value.endswith(":q") and not PLAIN.fullmatch(value)] == []
    assert bool(values) == ("shell:" in text)


def test_a_released_model_is_loaded_and_not_trained(tmp_path):
    """Its weights are the initial ones of a training without epochs; the clean reference keeps the study's."""
    weights = tmp_path / "released.pt"
    weights.write_bytes(b"")
    attack = {"method": "badnet", "poisons": 20, "location": "center", "checkpoint": str(weights)}
    jobs, job = make({**WIDE, "attacks": {"badnet": attack}}), w(attack="badnet")
    settings = json.loads(jobs.backdoor_settings(job))
    assert settings["model"]["pretrained"] == str(weights) and settings["training"]["epochs"] == 0
    assert str(weights) in jobs.initial_model(job) and jobs.start(job) == [] and not jobs.start_options(job)
    assert str(weights) not in jobs.initial_model(w()) and "released" not in jobs.clean_settings(w())
    assert "released" not in jobs.trigger_settings(job) and "checkpoint" not in jobs.trigger_settings(job)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"checkpoint": "gone.pt"}, "checkpoint: 'gone.pt' is neither a file nor a folder"),
     ({"method": "badencoder", "patch_size": 6, "checkpoint": "config.yaml"}, "checkpoint: badencoder trains the model by its own"),
     ({"checkpoint": "config.yaml", "training": {"epochs": 3}}, "training: has no effect, since `checkpoint` is loaded")],
)  # fmt: skip
def test_a_released_model_that_cannot_be_is_one_line(changes, message):
    with pytest.raises(UserError, match=f"^x: attacks.badnet.{message}"):
        make({**WIDE, "attacks": {"badnet": {"method": "badnet", "poisons": 20, **changes}}})
