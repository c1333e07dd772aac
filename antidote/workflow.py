"""What the rules pass on: for each job the slice of the study it depends on, as canonical JSON."""

from __future__ import annotations

import json
from typing import Any

from antidote.registry import method
from antidote.study import Study
from antidote.training import TrainSettings


def json_slice(values: Any) -> str:
    """Return values as canonical JSON: the same settings give the same text."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def dataset_slice(study: Study, dataset: str, split: str) -> str:
    """Return the definition of a dataset with one split alone: another split's change is not its business."""
    values = study.sources[dataset].model_dump(mode="json")
    return json_slice({**values, "splits": {split: values["splits"][split]}})


def pools_slice(study: Study) -> str:
    """Return which pairs serve for what."""
    return study.file.pools.slice()


def training_slice(study: Study, training: TrainSettings) -> str:
    """Return the initial model and a recipe; where the recipe starts is seen from the job's inputs."""
    recipe = training.model_dump(mode="json", include=set(TrainSettings.model_fields))
    return json_slice({"model": study.file.model.model_dump(mode="json"), "training": recipe})


def summary_plan(study: Study) -> str:
    """Return the matrix and what the tables say about it."""
    attacks = [
        {
            "name": name,
            "method": settings.method,
            "label": settings.label or name,
            "threat_model": method("attack", settings.method).threat_model,
            "poisons": settings.poisons,
        }
        for name, settings in study.attacks.items()
    ]
    defenses = [
        {
            "name": name,
            "method": settings.method,
            "label": settings.label or name,
            "access": method("defense", settings.method).access,
            "reconstruction": method("defense", settings.method).reconstruction,
        }
        for name, settings in study.defenses.items()
    ]
    return json_slice(
        {
            "study": study.name,
            "target": study.file.target,
            "model": study.file.model.name,
            "seeds": study.file.seeds,
            "attacks": attacks,
            "defenses": defenses,
            "blank": [],
            "gate": study.file.gate.model_dump(),
            "datasets": study.splits(),
            "accuracy_budget": study.file.accuracy_budget,
        }
    )
