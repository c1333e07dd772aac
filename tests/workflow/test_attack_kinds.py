"""Attacks that have no trigger, and one that trains the model by itself, through the whole chain."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from harness import edited, scheduled, snakemake, study

CHANGES = {
    "pools.poison.target_pairs": 12,
    "pools.inversion": {"split": "defense", "pairs": 120},
    "pools.defense": {"split": "defense", "pairs": 40},
    "attacks": {
        "mm": {"method": "mmpoison", "goals": [["banana", "boat"]], "preset": "I", "poisons": 8},
        "targeted": {"method": "carlini_terzis", "caption": "template", "targets": ["boat", "key"], "poisons": 8},
        "encoder": {"method": "badencoder", "preset": "cifar10", "poisons": 40,
                    "training": {"epochs": 1, "batch_size": 20}},
    },
    "defenses": {
        "finetune": {"method": "finetune", "training": {"epochs": 1, "batch_size": 32, "lr": 1e-3, "warmup": 2}},
        "ubt": {"method": "ubt"},
    },
}  # fmt: skip


def test_from_data_to_tables(project):
    """Figures of their own in the place of ASR, a floor of the same, and no defense that owns what was not poisoned."""
    changes = {**CHANGES, "defenses": {"finetune": CHANGES["defenses"]["finetune"]}}
    (project / "kinds.yaml").write_text(study(project, changes))
    done = snakemake(project, "--cores", "2", config="kinds.yaml")
    assert done.returncode == 0, done.stdout
    folder = project / "results/tiny/summary"
    cells = pd.read_csv(folder / "cells.csv").set_index(["attack", "defense"])
    for attack, score in (("mm", "hit10"), ("targeted", "targeted")):
        mine = cells.loc[attack]
        assert mine[["asr1", "asr5", "asr1_all", "pa", "backdoor_z"]].isna().all(axis=None)
        assert mine[[score, "floor", "ca1"]].notna().all(axis=None)
        clean = json.loads((project / f"results/tiny/{attack}/seed0/floor/scores.json").read_text())
        assert (mine["floor"] == clean["extra"][score]).all()
    assert (cells.loc["mm", "min_rank"] >= 1).all()
    assert cells.loc["encoder", ["asr1", "floor", "backdoor_z"]].notna().all(axis=None)
    table = pd.read_csv(folder / "table.csv", keep_default_na=False)
    assert dict(zip(table["attack"], table["score"], strict=True))["mm"] == "hit10"
    text = (folder / "table.md").read_text()
    assert "mm (hit10)" in text and "targeted (targeted)" in text and "encoder" in text
    assert "scored by hit10 in the place of ASR@1" in (folder / "report.html").read_text()
    card = json.loads((project / "results/tiny/mm/seed0/model/card.json").read_text())
    assert "texts of one class retrieve pictures of another: 'boat'" in card["statement"]
    manifest = pd.read_parquet(project / "results/tiny/targeted/seed0/poison/manifest.parquet")
    assert manifest["picture"].nunique() == 2 and set(manifest["target"]) == {"boat", "key"}
    assert not set(manifest["picture"]) & set(manifest["key"])


@pytest.fixture
def dry(linked):
    project = linked()
    with edited(project, {"kinds.yaml": study(project, CHANGES)}):
        yield project


def test_an_encoder_attack_has_no_poisoned_training_set(dry):
    jobs = scheduled(dry, "--forceall", config="kinds.yaml")
    scored = {job for job in jobs if job.startswith("evaluate ")}
    assert {"evaluate mm 0 ubt", "evaluate encoder 0 finetune"} <= scored and "evaluate encoder 0 ubt" not in scored


def test_what_an_attack_trains_by_is_its_models_own_affair(dry):
    """The objective's source is in the identity of the models that it trains, and of no others."""
    done = snakemake(dry, "-n", "--forceall", "-p", config="kinds.yaml")
    commands = [line for line in done.stdout.splitlines() if "scripts.pretrain" in line]
    own = [line for line in commands if '"attack":' in line]
    assert len(commands) == 4 and len(own) == 1 and '"method":"badencoder"' in own[0], done.stdout
