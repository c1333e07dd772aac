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


# A few-shot attack, with further pictures of another style to score on; and every attack fine-tuned on afterwards.
FLBA = {"method": "flba", "patch_size": 6, "epochs": 1, "steps": 2, "victim_training": {"epochs": 1}}
FEW = {
    "datasets.tiny.splits.shots": {"pairs": 300, "seed": 9},
    "datasets.drawn": {"source": "shifted_scenes", "splits": {"sketch": {"pairs": 40, "seed": 5, "style": "sketch"}}},
    "pools.shots": {"split": "shots", "per_class": 2},
    "evaluation.shifts": {"sketch": {"dataset": "drawn", "split": "sketch"}},
    "datasets.drawn.splits.train": {"pairs": 40, "seed": 6, "style": "sketch"},
    "pools.further": {"drawn": {"dataset": "drawn", "split": "train", "pairs": 40}},
    "persistence": {
        "adaptations": {
            "lora": {"kind": "lora", "every": 2, "training": {"epochs": 1, "batch_size": 40}},
            "drawn": {"kind": "other_domain", "pool": "drawn", "training": {"epochs": 1, "batch_size": 20}},
        }
    },
}


def test_from_data_to_tables(project, quick_jobs):
    """Figures of their own in the place of ASR, a floor of the same, and no defense that owns what was not poisoned."""
    changes = {**CHANGES, **FEW, "defenses": {"finetune": CHANGES["defenses"]["finetune"]}}
    changes["attacks"] = {**CHANGES["attacks"], "few": FLBA}
    (project / "kinds.yaml").write_text(study(project, changes))
    done = snakemake(project, "--cores", "2", config="kinds.yaml", jobs=quick_jobs)
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
    few = cells.loc["few"]
    assert few.loc["none", ["asr1", "floor", "asr1_clean_shots", "asr1_sketch", "psnr", "ssim"]].notna().all()
    assert few.drop("none")["ca1"].isna().all(), "no defense of the CLIP meets a backdoor in the classifier over it"
    assert (
        cells[cells.index.get_level_values("attack") != "few"]["ca1_sketch"].notna().all()
        and cells.loc["mm", "asr1_sketch"].isna().all()
    )
    assert cells.loc[["mm", "targeted", "encoder"], "worst"].notna().all() and few["worst"].isna().all()
    adapted = pd.read_csv(folder / "persistence.csv")
    rows = adapted.groupby(["defense", "adaptation", "model"]).size()
    assert set(rows) == {3} and len(rows) == 2 * 2 * 2, "three attacks; two defenses, adaptations and models"
    assert adapted["delivered"].notna().all() and (folder / "persistence.png").stat().st_size > 10_000
    assert 'id="persistence"' in (folder / "report.html").read_text()
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
    commands = [line for line in done.stdout.splitlines() if "warm pretrain" in line]
    own = [line for line in commands if '"attack":' in line]
    assert len(commands) == 4 and len(own) == 1 and '"method":"badencoder"' in own[0], done.stdout
