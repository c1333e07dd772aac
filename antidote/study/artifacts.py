"""The models of a study as DVC artifacts, named after their folders and labelled by role."""

from pathlib import Path
from typing import Any

from antidote.study.dvc_names import dvc_name
from antidote.study.layout import NO_DEFENSE, Layout
from antidote.study.study import Study

BACKDOORED = "BACKDOORED, for the study of defenses. Do not deploy it."


def artifacts(study: Study) -> dict[str, dict[str, Any]]:
    """Return `artifacts` of dvc.yaml: name to path, type, description and labels."""
    kept = Layout(Path("results", study.name))

    def model(stage: str, text: str, labels: list[str], **names: Any) -> dict[str, dict[str, Any]]:
        path = kept.path(stage, **names)
        name = dvc_name(str(path.parent.relative_to(kept.results)))
        return {name: {"path": str(path), "type": "model", "desc": text, "labels": ["clip", *labels]}}

    found, applied = {}, set(study.cells)
    for seed in study.file.seeds:
        found |= model("clean_model", "The clean reference.", ["clean"], seed=seed)
    for attack, settings in study.attacks.items():
        for seed in study.file.seeds:
            job = {"attack": attack, "seed": seed}
            if not study.few_shot(attack):
                found |= model("backdoored_model", BACKDOORED, ["backdoored", settings.method], **job)
            for defense, used in study.defenses.items():
                if defense != NO_DEFENSE and (attack, defense) in applied:
                    text = f"Defended by {used.method}; what is left of the backdoor is measured, not known."
                    labels = ["defended", settings.method, used.method]
                    found |= model("defend", text, labels, **job, defense=defense)
    return found
