"""A study is checked whole before anything runs, and what is wrong with it is told in one line."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.settings import read_mapping
from antidote.data.words.names import names_file
from antidote.study.slices import training_slice
from antidote.study.study import Study

FILE = "tests/studies/tiny.yaml"
GONE = object()


@pytest.fixture
def values():
    return read_mapping(str(ROOT / FILE))


def change(values: dict, key: str, value: object) -> dict:
    values = copy.deepcopy(values)
    *path, last = key.split(".")
    place = values
    for part in path:
        place = place.setdefault(part, {})
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return values


def test_a_study_in_brief(values):
    study = Study(values, FILE)
    assert study.name == "tiny" and study.size == 32
    assert list(study.attacks) == ["badnet", "blended"] and list(study.defenses) == ["none", "finetune", "ta_cleaner"]
    assert study.classes[study.target_label] == "banana" and study.lexicon() == "scenes"
    assert sorted(study.splits()) == [("tiny", "defense"), ("tiny", "test"), ("tiny", "train")]


@pytest.mark.parametrize(
    "file", ["config.yaml", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("configs/*.yaml"))]
)
def test_every_study_of_the_project_is_valid(file):
    Study(read_mapping(str(ROOT / file)), file)


@pytest.mark.parametrize(
    "key,value,text",
    [
        # Unknown keys, at every depth.
        ("seedz", [0], "seedz: unknown key; did you mean 'seeds'?"),
        ("model.nme", "x", "model.nme: unknown key; did you mean 'name'?"),
        ("pools.training.pair", 3, "pools.training.pair: unknown key; did you mean 'pairs'?"),
        ("pools.trainig", {}, "pools.trainig: unknown key; did you mean 'training'?"),
        ("pretraining.learning_rate", 1, "pretraining.learning_rate: unknown key; known: "),
        ("evaluation.template", "x", "evaluation.template: unknown key; did you mean 'templates'?"),
        ("gate.asrr", 1, "gate.asrr: unknown key; did you mean 'asr'?"),
        ("attacks.badnet.patch_sise", 3, "attacks.badnet: patch_sise: unknown key; did you mean 'patch_size'?"),
        ("attacks.badnet.training", {"lrr": 1}, "attacks.badnet.training: lrr: unknown key; did you mean 'lr'?"),
        ("defenses.finetune.training.epoch", 1,
         "defenses.finetune: training.epoch: unknown key; did you mean 'epochs'?"),
        ("datasets.tiny.imagesize", 1, "datasets.tiny: imagesize: unknown key; did you mean 'image_size'?"),
        # Missing keys.
        ("study", GONE, "study: is missing"),
        ("pools", GONE, "pools: is missing"),
        ("pools.training", GONE, "pools.training: is missing"),
        ("pools.training.dataset", GONE, "pools: training.dataset: is missing"),
        ("evaluation.split", GONE, "evaluation.split: is missing"),
        ("attacks", GONE, "attacks: is missing"),
        ("attacks.badnet.method", GONE, "attacks.badnet: method is missing; known: "),
        ("datasets.tiny.source", GONE, "datasets.tiny.source: is missing; known: "),
        # Unknown names.
        ("target", "bananna", "target: 'bananna' is not among the 24 classes of 'scenes'; did you mean 'banana'?"),
        ("model.name", "tiny-rm", "model.name: unknown model 'tiny-rm'; did you mean 'tiny-rn'?"),
        ("pools.training.dataset", "tinny", "pools.training.dataset: unknown name 'tinny'; did you mean 'tiny'?"),
        ("pools.defense.split", "defence", "pools.defense.split: tiny has no split 'defence'; did you mean 'defense'?"),
        ("evaluation.dataset", "tinny", "evaluation.dataset: unknown name 'tinny'; did you mean 'tiny'?"),
        ("evaluation.split", "tset", "evaluation.split: tiny has no split 'tset'; did you mean 'test'?"),
        ("evaluation.templates", "scene", "evaluation.templates: templates: unknown name 'scene'; did you mean 'sce"),
        ("evaluation.classes", "scene", "evaluation.classes: classes: unknown name 'scene'; did you mean 'scenes'?"),
        ("lexicon", "scene", "lexicon: lexicon: unknown name 'scene'; did you mean 'scenes'?"),
        ("datasets.tiny.source", "scens", "datasets.tiny.source: unknown source 'scens'; did you mean 'scenes'?"),
        ("attacks.badnet.method", "badnets", "attacks.badnet.method: unknown method 'badnets'; did you mean 'badnet'?"),
        ("attacks.blended.preset", "fxed", "attacks.blended: preset: unknown preset 'fxed'; did you mean 'fixed'?"),
        ("defenses.finetune.method", "finetun", "defenses.finetune.method: unknown method 'finetun'; did you mean"),
        ("defenses.none", {"method": "finetune"}, "defenses.none.method: has to be 'none', the undefended model"),
        # Values of the wrong type, out of range, or that do not fit together.
        ("study", 3, "study: input should be a valid string, not 3"),
        ("study", "../x", "study: name '../x' may hold letters, digits, _ . -"),
        ("study", "", "study: name '' may hold letters, digits, _ . -"),
        ("seeds", [0, 1, 0], "seeds: [0, 1, 0] names a seed twice"),
        ("seeds", [], "seeds: list should have at least 1 item after validation, not 0, not []"),
        ("seeds", [-1], "seeds.0: input should be greater than or equal to 0, not -1"),
        ("seeds", 0, "seeds: input should be a valid list, not 0"),
        ("model", "tiny-rn", "model: input should be a valid dictionary or instance of ModelSettings, not 'tiny-rn'"),
        ("pretraining.lr", 0, "pretraining.lr: input should be greater than 0, not 0"),
        ("pretraining.lr", "fast", "pretraining.lr: input should be a valid number, unable to parse string"),
        ("pretraining.lr", float("nan"), "pretraining.lr: input should be a finite number, not nan"),
        ("pretraining.epochs", 1.5, "pretraining.epochs: input should be a valid integer, got a number"),
        ("poisoning.start", "clen", "poisoning.start: input should be 'clean' or 'model', not 'clen'"),
        ("pools.training.pairs", 0, "pools.training.pairs: input should be greater than or equal to 1, not 0"),
        ("pools.training.target_pairs", 999, "pools.training: target_pairs is 999, more than pairs, 320"),
        ("gate.asr", 1.5, "gate.asr: input should be less than or equal to 1, not 1.5"),
        ("attacks", None, "attacks: input should be a valid dictionary, not None"),
        ("attacks.badnet", None, "attacks.badnet: input should be a valid dictionary, not None"),
        ("attacks.badnet", "badnet", "attacks.badnet: input should be a valid dictionary, not 'badnet'"),
        ("attacks.badnet.method", ["badnet"], "attacks.badnet.method: unknown method ['badnet']; "),
        ("attacks.badnet.patch_size", 33, "attacks.badnet.patch_size: 33 is larger than the picture (32 pixels)"),
        ("attacks.badnet.poisons", 65, "attacks.badnet.poisons: 65 are more than the 64 pairs of pools.poison"),
        ("attacks.badnet", {"method": "mmpoison", "goals": [["banana", "bot"]]},
         "attacks.badnet.goals: 'bot' is not among the 24 classes; did you mean 'boat'?"),
        ("attacks.badnet", {"method": "mmpoison", "goals": [["boat", "boat"]]},
         "attacks.badnet.goals: texts of 'boat' retrieve 'boat' as it is; the two classes have to differ"),
        ("attacks.badnet", {"method": "mmpoison", "poisons": 9},
         "pools.inversion: is missing, and the trigger of 'badnet' is fitted on its pairs"),
        ("attacks.badnet", {"method": "carlini_terzis", "targets": ["bananna"]},
         "attacks.badnet.targets: 'bananna' is not among the 24 classes; did you mean 'banana'?"),
        ("evaluation.split", "defense",
         "evaluation: tiny/defense is what pools.defense is drawn from, and models would be scored on pairs that they were "
         "trained on; choose a split without pools"),
        ("evaluation.shifts", {"seen": {"dataset": "tiny", "split": "train"}},
         "evaluation.shifts.seen: tiny/train is what pools.poison is drawn from, and models would be scored on pairs that "
         "they were trained on; choose a split without pools"),
        ("attacks.badnet", {"method": "badencoder"},
         "attacks.badnet.patch_size: 50 and a margin of 1 do not fit the picture (32 pixels)"),
        ("attacks.badnet", {"method": "badencoder", "preset": "cifar10", "poisons": 20, "training": {"start": "model"}},
         "attacks.badnet.training.start: badencoder changes a trained encoder; set `clean`"),
        ("attacks.badnet", {"method": "badencoder", "preset": "cifar10", "poisons": 20, "training": {"flip": 0.5}},
         "attacks.badnet.training: crop_scale, flip: badencoder compares whole pictures; leave both out"),
        ("attacks.clean", {"method": "badnet"}, "attacks: name 'clean' is taken by the layout of results/"),
        ("attacks.pools", {"method": "badnet"}, "attacks: name 'pools' is taken by the layout of results/"),
        ("defenses.pools", {"method": "finetune"}, "defenses: name 'pools' is taken by the layout of results/"),
        ("attacks.a b", {"method": "badnet"}, "attacks: name 'a b' may hold letters, digits, _ . -"),
        ("defenses.floor", {"method": "finetune"}, "defenses: name 'floor' is taken by the layout of results/"),
        ("pools.poison", GONE, "pools.poison: is missing; attacks choose the pairs they poison from it"),
        ("pools.defense", GONE, "pools.defense: is missing, and the defense 'finetune' needs clean pairs"),
        ("defenses.finetune", {"method": "ubt", "scorer": "surrogates.x"}, "defenses.finetune.scorer: surrogates has no 'x'"),
        ("defenses.finetune", {"method": "ubt", "scorer": "RN500/openai"},
         "defenses.finetune.scorer: unknown model 'RN500'; did you mean 'RN50'?"),
        ("defenses.finetune", {"method": "ubt", "scorer": "RN50/opnai"},
         "defenses.finetune.scorer: 'opnai' is neither a file, a folder nor a tag of 'RN50'; did you mean 'openai'?"),
        ("defenses.finetune", {"method": "ubt", "scorer": "RN50/"}, "defenses.finetune.scorer: 'RN50/' is none of auto, shuffle, windows"),
        ("defenses.finetune", {"method": "ubt", "scorer": "/openai"}, "defenses.finetune.scorer: '/openai' is none of auto, shuffle, windows"),
        ("defenses.finetune", {"method": "ubt", "scorer": "roberta-ViT-B-32/laion2b_s12b_b32k"},
         "defenses.finetune.scorer: roberta-ViT-B-32: needs another tokenizer than OpenAI CLIP's"),
        ("defenses.finetune", {"method": "ubt", "scorer": "ViT-H-14/dfn5b"},
         "defenses.finetune.scorer.pretrained: 'dfn5b' reads pictures that are resized by 'squash'; pictures are resized by"),
        ("model", {"name": "ViT-H-14", "pretrained": "dfn5b"}, "model.pretrained: 'dfn5b' reads pictures that are resized by"),
        ("surrogates", {"s": {"model": {"name": "ViT-H-14", "pretrained": "dfn5b"}}},
         "surrogates.s.model.pretrained: 'dfn5b' reads pictures that are resized by"),
        ("defenses.finetune", {"method": "ubt", "crop_area": [-1, 0.5]},
         "defenses.finetune: crop_area: should be two fractions, 0 < lowest <= highest <= 1, not [-1, 0.5]"),
        ("defenses.finetune", {"method": "ubt", "crop_area": [0.9, 0.5]}, "defenses.finetune: crop_area: should be two"),
        ("defenses.finetune", {"method": "ubt", "crop_area": [2, 3]}, "defenses.finetune: crop_area: should be two"),
        ("defenses.finetune", {"method": "par", "square": [-0.5, 0.1]}, "defenses.finetune: square: should be two"),
        ("defenses.finetune", {"method": "par", "square": [2, 3]}, "defenses.finetune: square: should be two"),
        ("model.name", "roberta-ViT-B-32", "model.name: roberta-ViT-B-32: needs another tokenizer than OpenAI CLIP's"),
        ("surrogates", {"s": {"model": {"name": "roberta-ViT-B-32"}}},
         "surrogates.s.model.name: roberta-ViT-B-32: needs another tokenizer than OpenAI CLIP's"),
        ("datasets.tiny.splits.train.pairs", "many", "datasets.tiny: splits.train.pairs: input should be a valid int"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(values, key, value, text):
    with pytest.raises(UserError) as error:
        Study(change(values, key, value), FILE)
    assert str(error.value).startswith(f"{FILE}: {text}")
    assert "\n" not in str(error.value) and len(str(error.value)) < 320


CONVNEXT = {"model_cfg": {"vision_cfg": {"image_size": 32, "timm_model_name": "convnext_base"}, "text_cfg": {}}}
BLIND = "convnext_base is neither open_clip's ResNet nor its ViT; where it looks is not known"


@pytest.mark.parametrize("place", ["model", "surrogates", "folder"])
@pytest.mark.parametrize("name", ["attention", "maba"])
def test_a_model_that_cannot_be_looked_into_is_told_in_one_line(values, tmp_path, name, place):
    """The model that the trigger is fitted on counts: the study's, one of its surrogates, or a model folder."""
    attack = {"method": name, "poisons": 8}
    values = change(values, "pools.inversion", {"dataset": "tiny", "split": "train", "pairs": 40})
    study = Study(change(values, "attacks.badnet", attack), FILE)
    assert "badnet" in study.attacks, "tiny-rn can be looked into"
    if place == "folder":
        (tmp_path / "open_clip_config.json").write_text(json.dumps(CONVNEXT))
        attack["surrogate"] = str(tmp_path)
    elif place == "model":
        values = change(values, "model.name", "convnext_base")
    else:
        values = change(
            change(values, "model.name", "RN50"), "surrogates", {"other": {"model": {"name": "convnext_base"}}}
        )
        attack["surrogate"] = "other"
    with pytest.raises(UserError) as error:
        Study(change(values, "attacks.badnet", attack), FILE)
    assert str(error.value) == f"{FILE}: attacks.badnet.surrogate: {BLIND}"


def test_wrong_prompts_and_classes_of_rvpt_are_told_in_one_line(values):
    values = change(values, "pools.shots", {"dataset": "tiny", "split": "train", "per_class": 2})
    values = change(change(values, "model.name", "ViT-B-32"), "defenses.rvpt", {"method": "rvpt", "template": "a {} }"})
    with pytest.raises(UserError) as error:
        Study(values, FILE)
    assert str(error.value) == f"{FILE}: defenses.rvpt.template: 'a {{}} }}' should hold one {{}} for the class name"
    values = change(values, "defenses.rvpt", {"method": "rvpt", "without": ["bananna"]})
    with pytest.raises(UserError, match=r"defenses\.rvpt\.without: 'bananna' is no class; did you mean 'banana'"):
        Study(values, FILE)


def test_prompts_need_clips_own_text_encoder(values):
    """Where the victim learns prompts, an error; a defense that does, is left out of the matrix with the reason."""
    needs = "need CLIP's own text encoder, which reads them as word embeddings"
    for pool, given in (("inversion", {"pairs": 40}), ("shots", {"per_class": 2})):
        values = change(values, f"pools.{pool}", {"dataset": "tiny", "split": "train", **given})
    values = change(values, "defenses.cbpt", {"method": "cbpt"})
    assert not Study(values, FILE).blank
    coca = change(change(values, "model.name", "coca_ViT-B-32"), "attacks.badnet", {"method": "flba", "patch_size": 4})
    reasons = {(a, d): reason for a, d, reason in Study(coca, FILE).blank}
    assert reasons["blended", "cbpt"] == f"coca_ViT-B-32: its prompts {needs}"
    with pytest.raises(UserError) as error:
        Study(change(coca, "attacks.badnet.victim", "prompts"), FILE)
    assert str(error.value) == f"{FILE}: attacks.badnet.victim: prompts {needs}"


def test_further_faults_are_counted(values):
    with pytest.raises(UserError, match=r"seedz: unknown key; did you mean 'seeds'\? \(and 1 more\)"):
        Study(change(change(values, "seedz", 1), "targett", 2), FILE)


def test_numbers_that_yaml_takes_for_text(values):
    """YAML 1.1 reads 1e-3 as text; people write it all the same."""
    text = yaml.safe_dump(values).replace("lr: 1e-3", "lr: 2e-3")
    study = Study(yaml.safe_load(text.replace("lr: '1e-3'", "lr: 2e-3")), FILE)
    assert isinstance(yaml.safe_load("2e-3"), str) and study.file.pretraining.lr == 0.002


def test_names_in_another_shape_are_no_crash(values):
    for key in (
        "target",
        "model.name",
        "evaluation.classes",
        "evaluation.dataset",
        "lexicon",
        "attacks.badnet.location",
    ):
        with pytest.raises(UserError):
            Study(change(values, key, {"a": 1}), FILE)


def test_an_attack_changes_the_poisoning_recipe(values):
    study = Study(change(values, "attacks.badnet.training", {"lr": 0.5}), FILE)
    assert study.poisoning("badnet").lr == 0.5 and study.poisoning("blended").lr == 0.001


def test_an_attack_with_a_loss_of_its_own_takes_nothing_from_the_poisoning_recipe(values):
    values["poisoning"] |= {"crop_scale": [0.5, 1.0], "flip": 0.5, "precision": "bf16", "accumulate": 2}
    values["attacks"]["encoder"] = {
        "method": "badencoder",
        "preset": "cifar10",
        "poisons": 20,
        "training": {"epochs": 3},
    }
    study = Study(values, "study.yaml")
    assert study.poisoning("badnet").crop_scale == (0.5, 1.0)
    own = study.poisoning("encoder")
    assert (own.crop_scale, own.flip, own.precision, own.accumulate, own.start) == (None, 0, "fp32", 1, "clean")
    assert (own.epochs, own.optimizer, own.momentum) == (3, "sgd", 0.9)


def test_data_files_behind_names(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert names_file("classes", "scenes") == ["data/classes/scenes.json"], "relative, so that a clone reruns nothing"
    assert names_file("templates", "openai_imagenet") == []
    monkeypatch.chdir(tmp_path)
    assert names_file("classes", "scenes") == [str(ROOT / "data/classes/scenes.json")]


def test_a_training_set_that_is_not_poisoned_is_no_cell(values):
    """Who owns the training set finds nothing there of an attack on the encoder."""
    pools = values["pools"] | {"poison": {"pairs": 64, "target_pairs": 5}}
    attacks = {
        "encoder": {"method": "badencoder", "preset": "cifar10", "poisons": 20, "training": {"epochs": 3}},
        "badnet": values["attacks"]["badnet"],
    }
    defenses = {"finetune": values["defenses"]["finetune"], "ubt": {"method": "ubt"}}
    study = Study({**values, "pools": pools, "attacks": attacks, "defenses": defenses}, FILE)
    assert ("encoder", "ubt", "badencoder poisons no training set") in study.blank
    assert {cell for cell in study.cells if cell[0] == "encoder"} == {("encoder", "none"), ("encoder", "finetune")}
    assert ("badnet", "ubt") in study.cells
    recipe = study.poisoning("encoder")
    assert (recipe.optimizer, recipe.epochs, recipe.lr) == ("sgd", 3, 1e-3), "its own recipe, single keys changed"
    own = json.loads(training_slice(study.file.model, recipe, study.attacks["encoder"]))
    assert own["attack"]["method"] == "badencoder"
    assert "attack" not in json.loads(
        training_slice(study.file.model, study.poisoning("badnet"), study.attacks["badnet"])
    )


# --- reading is light -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "wrong"), [
    ("defenses", "defences"), ("pools.training", "pools.trainng"), ("evaluation.dataset", "evaluation.dataste"),
])  # fmt: skip
def test_a_misspelled_key_that_is_needed_is_unknown_and_not_missing(values, key, wrong):
    with pytest.raises(UserError) as error:
        Study(change(change(values, key, GONE), wrong, {}), FILE)
    assert str(error.value) == f"{FILE}: {wrong}: unknown key; did you mean {key.rpartition('.')[2]!r}?"


def test_reading_a_study_imports_nothing_heavy():
    code = (
        "import sys; from antidote.base.settings import read_mapping; from antidote.study.study import Study;"
        f"import antidote.study.slices as w, antidote.study.jobs; study = Study(read_mapping({FILE!r}), 'x'); w.summary_plan(study);"
        "heavy = {'torch', 'torchvision', 'open_clip', 'transformers', 'matplotlib', 'nltk'} & set(sys.modules);"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_check_a_study_without_running_it(tmp_path):
    def check(*files: str | Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "scripts.check", *map(str, files)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = check("config.yaml", FILE)
    assert done.returncode == 0 and "study 'tiny'" in done.stdout and "badnet, blended" in done.stdout
    for text, wrong in [
        ("", ": should hold keys and values, holds nothing"),
        ("- a", ": should hold keys and values, holds list"),
        ("a:\n  b: 1\n c: 2", ", line 3, column 2: not valid YAML or JSON ("),
        ("a:\n\tb: 1", ", line 2, column 1: not valid YAML or JSON (while scanning for the next token, found charac"),
        ("study: a\nstudy: b", ", line 2, column 1: not valid YAML or JSON ('study' stands there twice)"),
        (
            "attacks:\n  a: {method: badnet}\n  a: {method: blended}",
            ", line 3, column 3: not valid YAML or JSON ('a' st",
        ),
    ]:
        (tmp_path / "s.yaml").write_text(text)
        done = check(tmp_path / "s.yaml")
        assert done.returncode == 1 and done.stderr.startswith(f"error: {tmp_path / 's.yaml'}{wrong}"), done.stderr
        assert done.stderr.count("\n") == 1
    assert check("nowhere.yaml").stderr == "error: nowhere.yaml: cannot be read (No such file or directory)\n"


def test_spans_that_are_right(values):
    for method, key in (("ubt", "crop_area"), ("par", "square")):
        entry = {"method": method, key: [0.5, 1], "training": {"batch_size": 32}}
        found = Study(change(values, "defenses.finetune", entry), FILE)
        assert getattr(found.defenses["finetune"], key) == (0.5, 1.0)


def test_a_list_of_classes_that_lies_beside_the_study_is_told_from_one_that_is_nowhere(values, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.json").write_text('["cup"]')
    with pytest.raises(
        UserError, match=r"unknown name .own.; .*; own\.json here counts once it is in data/ of a checkout"
    ):
        Study(change(values, "evaluation.classes", "own"), FILE)
