"""The models of a study as DVC artifacts, named like their folders and labelled with what they are."""

from typing import Any

from antidote.study.study import Study

BACKDOORED = "BACKDOORED, for the study of defenses. Do not deploy it."


def artifacts(study: Study) -> dict[str, dict[str, Any]]:
    """Return `artifacts` of dvc.yaml: name to path, type, description and labels."""
    found = {}
    for seed in study.file.seeds:
        found |= _model(study, f"clean/seed{seed}", "The clean reference.", ["clean"])
    for attack, settings in study.attacks.items():
        for seed in study.file.seeds:
            folder = f"{attack}/seed{seed}"
            found |= _model(study, folder, BACKDOORED, ["backdoored", settings.method])
            for defense, used in study.defenses.items():
                if defense != "none":
                    text = f"Defended by {used.method}; what is left of the backdoor is measured, not known."
                    found |= _model(study, f"{folder}/{defense}", text, ["defended", settings.method, used.method])
    return found


def _model(study: Study, folder: str, description: str, labels: list[str]) -> dict[str, dict[str, Any]]:
    path = f"results/{study.name}/{folder}/model"
    name = folder.replace(".", "-")  # DVC takes no dot in a name
    return {name: {"path": path, "type": "model", "desc": description, "labels": ["clip", *labels]}}
