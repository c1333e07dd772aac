"""What would run next: the jobs of a study whose results the summary reads and that have no result."""

from __future__ import annotations

from pathlib import Path

from antidote.study.layout import STAGES, Layout
from antidote.summary.plan import SummarySettings

FURTHER = ("detector", "adaptation", "surrogate")


def pending(plan: SummarySettings, results: Path) -> list[dict[str, str]]:
    """Return a row per stage and cell without a result, with `stage`, `attack`, `defense`, `further` and `seeds`.

    Args:
        results: the study's folder.
    """
    kept, found = Layout(results), {}
    for stage, known in STAGES.items():
        for names in plan.matrix.jobs(stage) if known.summarised else ():
            if not kept.path(stage, known.summarised, **names).exists():
                cell = {key: str(value) for key, value in names.items() if key != "seed"}
                found.setdefault((stage, *cell.items()), []).append(str(names["seed"]))
    rows = []
    for (stage, *cell), seeds in found.items():
        names = dict(cell)
        further = ", ".join(f"{key} {names[key]}" for key in FURTHER if key in names)
        own = {"attack": names.get("attack", ""), "defense": names.get("defense", ""), "further": further}
        rows.append({"stage": stage.replace("_", " "), **own, "seeds": ", ".join(seeds)})
    return rows
