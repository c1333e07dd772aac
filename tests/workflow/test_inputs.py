"""What each kind of job is handed: all that it reads, so that a change runs it again, and nothing above its access."""

from __future__ import annotations

import re

import pytest
from harness import edited, new_project, scheduled, snakemake, study
from PIL import Image

MODEL = ("open_clip_config.json", "open_clip_model.safetensors", "adapter.json", "adapter.safetensors")
WORDS = {"data/classes/scenes.json", "data/templates/scenes.json"}


def split(*names: str) -> set[str]:
    return {f"data/tiny/{name}/{file}" for name in names for file in ("index.parquet", "manifest.json")}


def scored(name: str) -> set[str]:
    """What is read of a split that models are scored on."""
    return split(name) | {f"data/tiny/{name}/pictures-32.json"}


def pools(*names: str) -> set[str]:
    return {f"results/tiny/pools/{name}.parquet" for name in names}


def model(folder: str) -> set[str]:
    return {f"results/tiny/{folder}/model/{file}" for file in MODEL}


def poison(attack: str) -> set[str]:
    return {f"results/tiny/{attack}/seed0/poison/{file}" for file in ("manifest.parquet", "poisoned.tar")}


@pytest.fixture(scope="module")
def inputs(linked):
    """The input files of every job of a study with learned triggers and defenses of every access, by rule and names."""
    project = linked()
    changes = {
        "pools.inversion": {"split": "defense", "pairs": 20},
        "pools.defense": {"split": "defense", "pairs": 100},
        "pools.shots": {"split": "defense", "per_class": 1},
        "attacks": {
            "badnet": {"method": "badnet", "poisons": 20, "location": "center"},
            "siba": {"method": "siba", "poisons": 20},
            "issba": {"method": "issba", "poisons": 20},
            "few": {"method": "flba"},
        },
        "defenses": {
            "cleanclip": {"method": "cleanclip"},
            "finetune": {"method": "finetune"},
            "probe": {"method": "linear_probe"},
            "ubt": {"method": "ubt"},
        },
    }
    with edited(project, {"wide.yaml": study(project, changes)}):
        done = snakemake(project, "-n", "--forceall", config="wide.yaml")
    assert done.returncode == 0, done.stdout
    found = {}
    for rule, details in re.findall(r"^rule (\w+):\n((?: {4}.*\n)*)", done.stdout, re.MULTILINE):
        lines = dict(line.strip().partition(": ")[::2] for line in details.splitlines())
        names = [part.partition("=")[2] for part in lines.get("wildcards", "").split(", ") if part]
        found[" ".join([rule, *names])] = set(filter(None, lines.get("input", "").split(", ")))
    return found


def test_a_table_that_a_user_edits_is_read_again(tmp_path):
    project, table, file = new_project(tmp_path / "project"), "pairs.csv", "data/own/train/manifest.json"
    for colour in ("red", "blue"):
        Image.new("RGB", (32, 32), colour).save(project / f"{colour}.png")
    own = {"source": "table", "path": "image", "caption": "caption", "splits": {"train": table}}
    changes = {"datasets.own": own, "pools.further": {"own": {"dataset": "own", "split": "train", "pairs": 1}}}
    (project / "study.yaml").write_text(study(project, changes))
    (project / table).write_text("image,caption\nred.png,red\n")
    done = snakemake(project, file, "--cores", "1", config="study.yaml")
    assert done.returncode == 0, done.stdout
    assert scheduled(project, file, config="study.yaml") == set()
    (project / table).write_text("image,caption\nred.png,red\nblue.png,blue\n")
    assert scheduled(project, file, config="study.yaml") == {"dataset own train"}


def test_a_trigger(inputs):
    assert inputs["trigger badnet 0"] == set(), "what is drawn needs nothing"
    fitted = pools("inversion", "poison") | split("defense", "train") | WORDS
    assert inputs["trigger issba 0"] == fitted, "fitted on pictures alone"
    assert inputs["trigger siba 0"] == fitted | model("clean/seed0"), "fitted on a surrogate"


def test_training(inputs):
    pairs = pools("training", "poison") | split("train") | {"data/models/tiny-rn.json"}
    assert inputs["clean_model 0"] == pairs
    assert inputs["backdoored_model siba 0"] == pairs | model("clean/seed0") | poison("siba")


def test_an_attack_on_the_shots(inputs):
    """Its encoder is the clean reference; no defense of a CLIP applies to the classifier over it."""
    shots = pools("shots") | split("defense") | {"data/classes/scenes.json"} | model("clean/seed0")
    trigger = {f"results/tiny/few/seed0/trigger/{file}" for file in ("trigger.json", "trigger.safetensors")}
    assert inputs["attack_shots few 0"] == shots | trigger
    assert inputs["few_shot_model few 0"] == shots | poison("few")
    assert inputs["evaluate few 0 none"] == trigger | scored("test") | WORDS | model("few/seed0")
    assert inputs["floor few 0"] == trigger | scored("test") | WORDS | model("clean/seed0")
    others = {job for job in inputs if " few " in job} - {
        f"{rule} few 0" for rule in ("attack_shots", "few_shot_model")
    }
    assert others == {"trigger few 0", "floor few 0", "evaluate few 0 none"}


def test_a_defense_gets_the_model_and_what_its_access_grants(inputs):
    suspicious = model("siba/seed0")
    clean = suspicious | pools("defense") | split("defense")
    assert inputs["defend siba 0 finetune"] == clean
    assert inputs["defend siba 0 cleanclip"] == clean | {"data/lexicons/scenes.json"}
    assert inputs["defend siba 0 probe"] == suspicious | pools("shots") | split("defense") | WORDS
    owned = pools("training", "poison") | split("train") | poison("siba")
    assert inputs["defend_with_finding siba 0 ubt"] == suspicious | owned
    defended = {file for job, files in inputs.items() if job.startswith("defend") for file in files}
    assert not any("/trigger/" in file or "scores" in file for file in defended), "no defense sees a trigger"


def test_evaluation(inputs):
    trigger = {f"results/tiny/siba/seed0/trigger/{file}" for file in ("trigger.json", "trigger.safetensors")}
    shared = trigger | scored("test") | WORDS
    assert inputs["evaluate siba 0 none"] == shared | model("siba/seed0")
    assert inputs["floor siba 0"] == shared | model("clean/seed0")
    assert inputs["evaluate siba 0 probe"] == shared | model("siba/seed0/probe")
    assert inputs["evaluate_clean 0"] == scored("test") | WORDS | model("clean/seed0")
