"""All `cost.json` files of a study as one frame: one row per stage and cell that was run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
from pydantic import ConfigDict, Field

from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.base.settings import Settings
from antidote.study.layout import COSTLY, NO_DEFENSE, Layout
from antidote.summary.plan import SummarySettings

STAGES = list(dict.fromkeys(COSTLY.values()))
# Values of the columns for which a stage has no wildcard.
CLEAN = {
    "clean_model": {"attack": "clean"},
    "evaluate_clean": {"attack": "clean", "defense": NO_DEFENSE},
    "detect_clean": {"attack": "clean", "defense": NO_DEFENSE},
    "defend_clean": {"attack": "clean"},
    "detect_population": {"attack": "clean", "defense": NO_DEFENSE},
}


class CostFacts(Settings):
    """The fields of `cost.json` that the summary reads."""

    model_config = ConfigDict(extra="ignore")

    seconds: float | None = None
    peak_memory_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None
    trained_parameters: int | None = None
    pairs: int | None = None
    steps: int | None = None
    threads: int | None = None
    device: str | None = None
    shared: bool | None = Field(
        None, description="result copied from the shared cache; the cost is the cost of the first run"
    )


COLUMNS = ["stage", "attack", "defense", "seed", *CostFacts.model_fields, "dataset"]


def read_costs(plan: SummarySettings, results: Path, data: Path) -> pd.DataFrame:
    """Return one row per recorded cost. The dtype is object, so that integers and None are kept.

    Raises:
        UserError: a `cost.json` exists but does not hold a cost.
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
    columns = [*COLUMNS, *(["adaptation"] if plan.adapted else []), *(["detector"] if plan.detectors else [])]
    return pd.DataFrame([[row.get(name) for name in columns] for row in rows], columns=columns, dtype=object)


def _places(plan: SummarySettings, results: Path, data: Path) -> Iterator[tuple[dict, Path]]:
    """Yield (stage and cell, path) of each cost file, in the order of the plan."""
    kept = Layout(results, data)
    pools = tuple(path.name.removesuffix(".cost.json") for path in kept.found("pool", "cost"))
    matrix = replace(plan.matrix, pools=pools)
    for stage, name in COSTLY.items():
        for names in matrix.jobs(stage):
            where = {"stage": name, **CLEAN.get(stage, {}), **names}
            if "dataset" in names:
                where["dataset"] = f"{names['dataset']}/{names['split']}"
            yield where, kept.path(stage, "cost", **names)
