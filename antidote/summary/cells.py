"""All `scores.json` files of a study as one frame: one row per cell, in the order of the plan."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import ConfigDict, Field

from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.base.settings import Settings
from antidote.study.layout import Layout
from antidote.summary.persistence import WORST, worst
from antidote.summary.plan import SummarySettings

Rate = Annotated[float, Field(ge=0, le=1)]

RATES = [
    *("ca1", "ca5", "asr1", "asr3", "asr5", "asr10"),
    *("asr1_all", "asr3_all", "asr5_all", "asr10_all", "pa", "pa_all"),
]
VISIBILITY = ["psnr", "ssim"]
INTERVALS = ["ca1", "asr1"]
COLUMNS = [
    *("attack", "defense", "seed"),
    *RATES,
    *("floor", "target_ca1"),
    *(f"{rate}_{end}" for rate in INTERVALS for end in ("low", "high")),
]


class Scores(Settings):
    """The fields of `scores.json` that the summary reads; rates are fractions, null if not applicable."""

    model_config = ConfigDict(extra="ignore")

    ca1: Rate | None
    ca5: Rate | None = None
    asr1: Rate | None
    asr3: Rate | None = None
    asr5: Rate | None = None
    asr10: Rate | None = None
    asr1_all: Rate | None = None
    asr3_all: Rate | None = None
    asr5_all: Rate | None = None
    asr10_all: Rate | None = None
    pa: Rate | None = None
    pa_all: Rate | None = None
    target_ca1: Rate | None = None
    intervals: dict[str, tuple[Rate, Rate] | None] = {}
    pictures: int | None = None
    pictures_asr: int | None = None
    extra: dict[str, float | None] = {}

    def figure(self, name: str) -> float | None:
        """Return a rate, or one of the attack's own figures, by name."""
        return getattr(self, name) if name in RATES else self.extra.get(name)


def read_cells(plan: SummarySettings, results: Path) -> pd.DataFrame:
    """Return one row per cell, `clean, none` first; cells without results hold NaN. `results`: the study's folder.

    Raises:
        UserError: a `scores.json` exists but does not hold scores.
    """
    kept = Layout(results)
    clean = {seed: _read(kept.path("evaluate_clean", "scores", seed=seed)) for seed in plan.seeds}
    rows = [_row("clean", "none", seed, scores) for seed, scores in clean.items()]
    for attack in plan.attacks:
        floors = {seed: _read(kept.path("floor", "scores", attack=attack.name, seed=seed)) for seed in plan.seeds}
        for defense in plan.defenses:
            applies = (attack.name, defense.name) not in plan.reasons
            for seed in plan.seeds:
                names = {"attack": attack.name, "defense": defense.name, "seed": seed}
                scores = _read(kept.path("evaluate", "scores", **names)) if applies else None
                row = _row(attack.name, defense.name, seed, scores)
                row |= {**_floors(floors[seed], attack.score), **_visibility(floors[seed])}
                found = worst(plan, results, **names)
                rows.append(row if found is None else {**row, WORST: found})
    extra = sorted({name for row in rows for name in row} - set(COLUMNS))
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *extra])
    numbers = [*COLUMNS[3:], *extra]
    return frame.astype(dict.fromkeys(numbers, float))


def pictures(plan: SummarySettings, results: Path) -> tuple[int, int]:
    """Return the numbers of pictures behind CA and ASR, of the cell with the most for ASR; (0, 0) without scores."""
    cells = [{"attack": a.name, "defense": "none", "seed": s} for a in plan.attacks for s in plan.seeds]
    found = [_read(Layout(results).path("evaluate", "scores", **names)) for names in cells]
    counts = [(s.pictures or 0, s.pictures_asr or 0) for s in found if s]
    return max(counts, key=lambda count: count[1], default=(0, 0))


def _visibility(floor: Scores | None) -> dict[str, float | None]:
    """Return the visibility of the trigger, measured together with the floor."""
    return {name: floor.extra[name] for name in VISIBILITY if floor and name in floor.extra}


def _read(path: Path) -> Scores | None:
    if not path.exists():
        return None
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold keys and values, not {type(values).__name__}")
    scores = Scores.read(values, str(path))
    taken = sorted(set(scores.extra) & {*COLUMNS, WORST})
    if taken:
        raise UserError(f"{path}: extra.{taken[0]}: this is the name of a column that has its meaning already")
    return scores


def _floors(scores: Scores | None, figure: str) -> dict[str, float | None]:
    """Return the floor, the attack's figure on the clean reference, and the floors on other domains."""
    if scores is None:
        return {"floor": None}
    return {
        "floor": scores.figure(figure),
        **{name: rate for name, rate in scores.extra.items() if name.startswith("floor_")},
    }


def _row(attack: str, defense: str, seed: int, scores: Scores | None) -> dict:
    row = {"attack": attack, "defense": defense, "seed": seed}
    if scores is None:
        return row
    for rate in INTERVALS:
        row[f"{rate}_low"], row[f"{rate}_high"] = scores.intervals.get(rate) or (None, None)
    rates = {name: getattr(scores, name) for name in (*RATES, "target_ca1")}
    return {**row, **rates, **scores.extra}
