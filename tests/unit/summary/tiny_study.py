"""A tiny made-up study for the tests of the summary: its plan, its scores, its files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

ROOT = Path(__file__).parents[3]
WEIRD = "<script>alert(1)</script> & $x^2$ | `y`"
PLAN = {
    "study": "tiny",
    "target": "banana",
    "model": "RN50",
    "seeds": [0, 1],
    "attacks": [
        {"name": "patch", "method": "badnet", "label": WEIRD, "threat_model": "data-poisoning", "poisons": 30},
        {"name": "weak", "method": "blended", "threat_model": "data-poisoning", "poisons": None},
    ],
    "defenses": [
        {"name": "none", "method": "none", "label": "no defense"},
        {"name": "tune", "method": "finetune", "label": "Fine-tuning", "access": "clean-pairs"},
        {"name": "harsh", "method": "finetune", "access": "clean-pairs"},
        {"name": "filter", "method": "filter", "access": "poisoned-training-set", "reconstruction": True},
    ],
    "blank": [{"attack": "weak", "defense": "filter", "reason": f"no poisoned pairs {WEIRD}"}],
    "datasets": [["scenes", "train"]],
}
# CA@1 and ASR@1 by attack, defense and seed. `harsh` has the lowest ASR but loses 11 points; `filter` of seed 1 and
# `harsh` on `weak` were never run.
SCORES = {
    ("clean", "none"): [(0.62, None), (0.64, None)],
    ("patch", "floor"): [(0.62, 0.01), (0.64, 0.03)],
    ("patch", "none"): [(0.60, 0.96), (0.62, 0.92)],
    ("patch", "tune"): [(0.57, 0.20), (0.59, 0.30)],
    ("patch", "harsh"): [(0.50, 0.02), (0.50, 0.04)],
    ("patch", "filter"): [(0.60, 0.40), None],
    ("weak", "floor"): [(0.62, 0.10), (0.64, 0.10)],
    ("weak", "none"): [(0.60, 0.50), (0.60, 0.60)],
    ("weak", "tune"): [(0.60, 0.70), (0.60, 0.80)],
}


def put(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def make_study(root: Path) -> Path:
    results = root / "results" / "tiny"
    for (attack, defense), seeds in SCORES.items():
        for seed, rates in enumerate(seeds):
            if rates is None:
                continue
            ca1, asr1 = rates
            scores = {"ca1": ca1, "ca5": 0.9, "asr1": asr1, "intervals": {"ca1": [ca1 - 0.02, ca1 + 0.04]}}
            scores |= {"attack": attack, "defense": defense, "seed": seed, "pictures": 1000, "pictures_asr": 900}
            if defense == "tune":
                scores["extra"] = {"recall": 0.5}
            put(results / attack / f"seed{seed}" / defense / "scores.json", scores)
    for seed in (0, 1):
        cost = {"seconds": 100.5, "peak_memory_bytes": 3 * 2**30, "threads": 2, "device": "a CPU"}
        put(results / f"clean/seed{seed}/model/cost.json", cost)
        cost = {"seconds": 10, "trained_parameters": 38316897, "pairs": 50, "shared": True}
        put(results / f"patch/seed{seed}/tune/model/cost.json", cost)
        log = results / f"clean/seed{seed}/model/train.jsonl"
        log.write_text("".join(json.dumps({"step": i, "loss": 3 - i / 10}) + "\n" for i in range(10)))
    put(root / "data/scenes/train/cost.json", {"seconds": 5})
    pictures = np.random.default_rng(0).integers(0, 200, (2, 8, 8, 8, 3), dtype=np.uint8)
    pictures[1] = pictures[0] + 12
    sheet = pictures.swapaxes(1, 2).reshape(16, 64, 3)
    Image.fromarray(sheet).save(results / "patch/seed0/floor/examples.png")
    return results


def cell(table: pd.DataFrame, attack: str, defense: str) -> pd.Series:
    return table[(table["attack"] == attack) & (table["defense"] == defense)].iloc[0]
