"""Names as people give them, with blanks, quotes, dollars, braces and other letters, reach every job as they are."""

from __future__ import annotations

import html
import json
import shlex
import subprocess
import sys
from pathlib import Path

import harness
import numpy as np
import pytest
import yaml
from PIL import Image

ODD = '{seed} it\'s $HOME `id` "q" $(touch ran) {} {{w}} ü 猫'
FILE = ODD.replace("{seed}", "{").replace("{{w}}", "}}")  # Snakemake has no way to name a file with a word in braces
CLASSES, TEMPLATES = f"classes {FILE}", "prompts $x ü"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
TRAINING = {"epochs": 1, "batch_size": 8, "lr": 1e-3, "warmup": 1}


def odd_study() -> dict:
    """Return a study whose every name that may hold any character holds many."""
    return {
        "study": "odd",
        "target": ODD,
        "model": {"name": "tiny-rn", "pretrained": f"weights {FILE}.pt"},
        "datasets": {
            "wds/flickr30k": {
                "source": "folder", "root": f"pictures {ODD}", "classes": CLASSES, "templates": TEMPLATES,
                "names": {"a": ODD, "b": "banana"}, "splits": {"train-1": f"train {ODD}", "test": f"train {ODD}"},
            }
        },
        "pools": {
            "training": {"dataset": "wds/flickr30k", "split": "train-1", "pairs": 16, "target_pairs": 4},
            "poison": {"pairs": 12}, "defense": {"pairs": 8}, "inversion": {"pairs": 4},
        },
        "pretraining": TRAINING, "poisoning": TRAINING,
        "evaluation": {"dataset": "wds/flickr30k", "split": "test", "classes": CLASSES, "templates": TEMPLATES, "bootstrap": 100},
        "attacks": {"badnet": {"method": "badnet", "label": f"Bad {ODD}", "patch_size": 6, "poisons": 4}},
        "defenses": {"finetune": {"method": "finetune", "label": f"Fine {ODD}", "training": TRAINING}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from antidote.clip.configs import ModelSettings
    from antidote.clip.folder import create_model, save_model

    project = harness.new_project(tmp_path_factory.mktemp("odd") / "project")
    words = {"classes": (CLASSES, [ODD, "banana"]), "templates": (TEMPLATES, ["a photo of {}", "{} here"])}
    for kind, (name, texts) in words.items():
        (project / "data" / kind / f"{name}.json").write_text(json.dumps(texts), encoding="utf-8")
    colours = np.random.default_rng(0)
    for name in [f"{kind}/{number}.png" for kind in "ab" for number in range(20)]:
        path = project / f"pictures {ODD}" / f"train {ODD}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours.integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    clip = create_model(ModelSettings(), 0)
    torch.save(clip.network.state_dict(), project / f"weights {FILE}.pt")
    save_model(project / f"surrogate {FILE}", clip, {})
    return project


def write(project: Path, study: dict) -> str:
    (project / "odd.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    return "odd.yaml"


def commands(output: str) -> list[list[str]]:
    """Return the words of each command that starts a script, as the shell reads them."""
    output = output.replace("-m antidote.base.warm ", "-m scripts.")
    found = [line.partition("python -m ")[2] for line in output.splitlines() if "python -m " in line]
    return [shlex.split(line.partition(" 2>&1")[0]) for line in found]


def after(words: list[str], option: str) -> str | None:
    return words[words.index(option) + 1] if option in words else None


def dry_run(project: Path, study: dict, **more: str) -> list[list[str]]:
    """Return the commands of a dry run; they are printed."""
    done = subprocess.run(
        [Path(sys.executable).with_name("snakemake"), "--cores", "1", "-n", "-p", "--forceall", "--configfile", write(project, study)],
        cwd=project, env=harness.environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    output = done.stdout.decode(errors="surrogateescape")
    assert done.returncode == 0 and "Logging error" not in output, output
    return commands(output)


def test_every_command_holds_them_as_they_are(odd):
    """Fitted triggers, few-shot attacks and test-time defenses hand over more names than the study that runs."""
    study = odd_study()
    study["pools"]["shots"] = {"per_class": 1}
    study["attacks"] |= {
        "patch": {"method": "siba", "poisons": 4, "surrogate": f"surrogate {FILE}"},
        "flba": {"method": "flba", "label": f"FLBA {ODD}"},
    }
    study["defenses"] |= {"cbpt": {"method": "cbpt", "label": f"CBPT {ODD}"}}
    found = dry_run(odd, study)
    scripts = {words[0] for words in found}
    assert {
        "scripts.dataset",
        "scripts.trigger",
        "scripts.attack_shots",
        "scripts.few_shot",
        "scripts.defend",
    } <= scripts
    for words in found:
        given = {option: after(words, option) for option in ("--target", "--classes", "--templates", "--name")}
        assert given["--target"] in (ODD, None) and given["--classes"] in (CLASSES, None), words
        assert given["--templates"] in (TEMPLATES, None), words
        assert given["--name"] in ("wds/flickr30k", *study["attacks"], None), words
        if "--settings" in words:
            json.loads(after(words, "--settings"))
    dataset = next(json.loads(after(words, "--settings")) for words in found if words[0] == "scripts.dataset")
    assert dataset["root"] == f"pictures {ODD}" and dataset["names"]["a"] == ODD
    trigger = next(words for words in found if words[0] == "scripts.trigger" and after(words, "--name") == "patch")
    assert after(trigger, "--surrogate") == f"surrogate {FILE}"
    plan = next(json.loads(after(words, "--settings")) for words in found if words[0] == "scripts.summarise")
    assert plan["target"] == ODD and f"FLBA {ODD}" in [attack["label"] for attack in plan["attacks"]]


def test_a_locale_without_the_letters_prints_the_commands(odd):
    """Snakemake's own names of files are its business: the study names none with such letters."""
    study = odd_study()
    scenes = {"source": "scenes", "splits": {"train-1": {"pairs": 40, "seed": 1}, "test": {"pairs": 20, "seed": 2}}}
    study |= {"model": {"name": "tiny-rn"}, "datasets": {"wds/flickr30k": scenes}, "target": "\u00fc banana"}
    study["evaluation"] |= {"classes": "letters", "templates": "simple"}
    (odd / "data/classes/letters.json").write_text(json.dumps(["\u00fc banana", "apple"]), encoding="utf-8")
    found = dry_run(odd, study, **ASCII)
    assert {after(words, "--target") for words in found} == {None, "\\udcc3\\udcbc banana"}  # UTF-8, byte by byte


def test_odd_names_run(odd):
    done = harness.snakemake(odd, "--cores", "2", config=write(odd, odd_study()))
    assert done.returncode == 0, done.stdout
    scores = json.loads((odd / "results/odd/badnet/seed0/finetune/scores.json").read_text(encoding="utf-8"))
    assert (scores["attack"], scores["defense"]) == ("badnet", "finetune")
    assert f"Fine {ODD}" in html.unescape((odd / "results/odd/summary/report.html").read_text(encoding="utf-8"))
    assert not list(odd.rglob("ran"))
    again = harness.snakemake(odd, "--cores", "2", "-n", config="odd.yaml")
    assert "Nothing to be done" in again.stdout, again.stdout
