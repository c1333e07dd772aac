"""Results files in the shape of CLIP_benchmark's, there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.summary.exchange import Result

FIGURES = {"acc1": "ca1", "acc5": "ca5"}  # CLIP_benchmark's names
DATASETS = {  # CLIP_benchmark's names of evaluation sets whose names differ here
    "imagenet1k": "imagenet",
    "imagenetv2": "imagenet_v2",
    "imagenet-a": "imagenet_a",
    "imagenet-r": "imagenet_r",
}
SHARDS = "wds/"  # before the name of a set that CLIP_benchmark reads from tar shards
TASK = "zeroshot_classification"


def to_clip_benchmark(result: Result) -> dict[str, Any]:
    """Return a result in the shape of a file of CLIP_benchmark: `pretrained` names attack and defense."""
    ours, datasets = ({ours: theirs for theirs, ours in names.items()} for names in (FIGURES, DATASETS))
    return {
        "dataset": datasets.get(result.evaluation, result.evaluation),
        "model": result.model,
        "pretrained": f"{result.attack.name}-{result.defense.name}",
        "task": TASK,
        "language": "en",
        "metrics": {ours.get(name, name): figure.mean for name, figure in result.figures.items()},
    }


def from_clip_benchmark(path: Path, facts: dict[str, Any]) -> Result:
    """Return a foreign evaluation, a file in CLIP_benchmark's shape, as a `reported` result.

    Args:
        facts: `track`, `attack`, `defense` and `source`, which the file does not give.

    Raises:
        UserError: the file is not in that shape, a figure is no number, or the dataset no name.
    """
    values = read_json(path)
    keys = ("dataset", "model", "metrics")
    missing = [key for key in keys if not isinstance(values, dict) or not values.get(key)]
    if missing or not isinstance(values["metrics"], dict):
        raise UserError(f"{path}: {(missing or ['metrics'])[0]}: is missing; a file of CLIP_benchmark has {keys}")
    figures = {}
    for name, value in values["metrics"].items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(f"{path}: metrics.{name}: should be a number, not {value!r}")
        figures[FIGURES.get(name, name)] = {"mean": value}
    dataset = values["dataset"]
    if not isinstance(dataset, str):
        raise UserError(f"{path}: dataset: should be a name, not {dataset!r}")
    dataset = dataset.removeprefix(SHARDS)
    evaluation = DATASETS.get(dataset, dataset)
    own = {"status": "reported", "model": values["model"], "evaluation": evaluation, "figures": figures}
    return Result.read({**own, **facts}, str(path))
