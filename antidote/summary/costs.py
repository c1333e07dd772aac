"""Every `cost.json` of a study as one frame: a row per stage and cell that was run."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from pydantic import ConfigDict, Field

from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.base.settings import Settings
from antidote.summary.plan import SummarySettings

STAGES = ["dataset", "pools", "pretrain", "trigger", "poison", "backdoor", "defend", "pictures", "evaluate", "floor",
          "rebound"]  # fmt: skip


class CostFacts(Settings):
    """What the summary reads of a `cost.json`."""

    model_config = ConfigDict(extra="ignore")

    seconds: float | None = None
    peak_memory_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None
    trained_parameters: int | None = None
    pairs: int | None = None
    steps: int | None = None
    threads: int | None = None
    shared: bool | None = Field(None, description="taken from the shared place; the cost is that of the first run")


COLUMNS = ["stage", "attack", "defense", "seed", *CostFacts.model_fields, "dataset"]


def read_costs(plan: SummarySettings, results: Path, data: Path) -> pd.DataFrame:
    """Return one row per stage that left its cost. Values stay whole numbers or None, hence the dtype object.

    Raises:
        UserError: a `cost.json` is there but does not hold a cost.
    """
    rows = []
    for where, path in _places(plan, results, data):
        if not path.exists():
            continue
        values = read_json(path)
        if not isinstance(values, dict):
            raise UserError(f"{path}: should hold keys and values, not {type(values).__name__}")
        rows.append({**where, **CostFacts.read(values, str(path)).model_dump()})
    rows.sort(key=lambda row: STAGES.index(row["stage"]))
    return pd.DataFrame([[row.get(name) for name in COLUMNS] for row in rows], columns=COLUMNS, dtype=object)


def _places(plan: SummarySettings, results: Path, data: Path) -> Iterator[tuple[dict, Path]]:
    """Yield what a cost belongs to and where it lies, in the order of the plan."""
    for dataset, split in plan.datasets:
        yield {"stage": "dataset", "dataset": f"{dataset}/{split}"}, data / dataset / split / "cost.json"
    for dataset, split, fit in plan.scored:
        where = {"stage": "pictures", "dataset": f"{dataset}/{split}"}
        yield where, data / dataset / split / f"pictures-{fit}.cost.json"
    for path in sorted((results / "pools").glob("*.cost.json")):
        yield {"stage": "pools"}, path
    for seed in plan.seeds:
        clean, where = results / "clean" / f"seed{seed}", {"attack": "clean", "seed": seed}
        yield {"stage": "pretrain", **where}, clean / "model" / "cost.json"
        yield {"stage": "evaluate", **where, "defense": "none"}, clean / "none" / "cost.json"
    for attack in plan.attacks:
        for seed in plan.seeds:
            folder, where = results / attack.name / f"seed{seed}", {"attack": attack.name, "seed": seed}
            yield {"stage": "trigger", **where}, folder / "trigger" / "cost.json"
            yield {"stage": "poison", **where}, folder / "poison" / "cost.json"
            yield {"stage": "backdoor", **where}, folder / "model" / "cost.json"
            yield {"stage": "floor", **where}, folder / "floor" / "cost.json"
        for defense in plan.defenses:
            if (attack.name, defense.name) in plan.reasons:
                continue
            for seed in plan.seeds:
                folder = results / attack.name / f"seed{seed}" / defense.name
                where = {"attack": attack.name, "defense": defense.name, "seed": seed}
                if defense.name != "none":
                    yield {"stage": "defend", **where}, folder / "model" / "cost.json"
                yield {"stage": "evaluate", **where}, folder / "cost.json"
                if plan.rebound:
                    yield {"stage": "rebound", **where}, folder / "rebound.cost.json"
