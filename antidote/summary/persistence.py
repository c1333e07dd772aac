"""Persistence: ASR@1 while models are adapted to clean pairs, as a frame, tables and a plot with the controls."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from pydantic import ConfigDict, Field

from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.base.settings import Settings
from antidote.evaluation.trajectory import figures, revival_step
from antidote.study.layout import NO_DEFENSE, Layout
from antidote.summary import style
from antidote.summary.plan import SummarySettings
from antidote.summary.tables import percent

WORST = "worst"  # column of the cells: the highest ASR@1 over all adaptations
BACKDOORED, CLEAN = "backdoored", "clean"
STAGES = {BACKDOORED: "persistence", CLEAN: "persistence_clean"}
FIGURES = ["delivered", "worst", "delta", "area"]
ACCURACIES = ["ca1_delivered", "ca1_lowest", "ca1_last"]
COLUMNS = ["attack", "defense", "adaptation", "kind", "pool", "model", "seed", *FIGURES, "revival_step", *ACCURACIES]
NOTE = (
    "ASR@1 in percent while the model is adapted to clean pairs, means over seeds. delivered: before the first step; "
    "worst: the highest afterwards; delta: worst minus delivered; area: mean over steps; revival step: the first that "
    "exceeds delivered by more than the margin. The controls are adapted in the same way: a rise that they share is no "
    "backdoor that comes back. Empty: not measured, or no such control."
)
Rate = Annotated[float, Field(ge=0, le=1)]


class Point(Settings):
    """One measurement; rates are fractions."""

    step: int
    ca1: Rate
    score: Rate


class Trajectory(Settings):
    """The fields of a measurement of persistence that the summary reads."""

    model_config = ConfigDict(extra="ignore")

    curve: list[Point] = Field(min_length=1)

    @property
    def steps(self) -> list[int]:
        return [point.step for point in self.curve]

    @property
    def scores(self) -> list[float]:
        return [point.score for point in self.curve]

    def figures(self, margin: float) -> dict[str, float | None]:
        """Return the figures of the attack's score, and CA@1 of the first, the lowest and the last measurement."""
        accuracies = [point.ca1 for point in self.curve]
        return {
            **figures(self.steps, self.scores),
            "revival_step": revival_step(self.steps, self.scores, margin),
            **dict(zip(ACCURACIES, (accuracies[0], min(accuracies), accuracies[-1]), strict=True)),
        }


def read_trajectory(results: Path, model: str, **names: Any) -> Trajectory | None:
    """Return one measurement of the model under test (`backdoored`) or of its control (`clean`); None if not measured.

    Args:
        results: the study's folder.
        names: attack, defense, adaptation and seed.

    Raises:
        UserError: the file exists but does not hold a curve.
    """
    path = Layout(results).path(STAGES[model], "curve", **names)
    if not path.exists():
        return None
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold keys and values, not {type(values).__name__}")
    return Trajectory.read(values, str(path))


def worst(plan: SummarySettings, results: Path, attack: str, defense: str, seed: int) -> float | None:
    """Return the highest worst ASR@1 of a cell over the study's adaptations; None if none was measured."""
    names = [name for a, d, name in plan.adapted if (a, d) == (attack, defense)]
    cell = {"attack": attack, "defense": defense, "seed": seed}
    found = [read_trajectory(results, BACKDOORED, **cell, adaptation=name) for name in names]
    return max((figures(one.steps, one.scores)[WORST] for one in found if one), default=None)


def read_persistence(plan: SummarySettings, results: Path) -> pd.DataFrame:
    """Return one row per attack, defense, adaptation, model and seed that was measured, with `COLUMNS`.

    `model` is `backdoored` for the model under test, and `clean` for the clean reference under the same defense; the
    latter with the defense `none` is the clean reference itself.
    """
    rows, facts = [], {one.name: one for one in plan.adaptations}
    for (attack, defense, name), model, seed in product(plan.adapted, STAGES, plan.seeds):
        names = {"attack": attack, "defense": defense, "adaptation": name, "seed": seed}
        found = read_trajectory(results, model, **names) if _planned(plan, model, defense) else None
        if found:
            own = {"kind": facts[name].kind, "pool": facts[name].pool, "model": model}
            rows.append({**names, **own, **found.figures(plan.revival_margin)})
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype(dict.fromkeys(["seed", *COLUMNS[COLUMNS.index("delivered") :]], float))


def _planned(plan: SummarySettings, model: str, defense: str) -> bool:
    return model == BACKDOORED or defense in plan.clean_defenses


def tables(plan: SummarySettings, frame: pd.DataFrame) -> list[dict]:
    """Return a table per attack for the page: the first row is the head; means over seeds, rates in percent.

    A revival step is shown if the backdoor came back in any seed, as the mean over those seeds, with their number if it
    did not in all.
    """
    head = ["defense", "adaptation", *FIGURES, "revival step", "CA@1 delivered", "CA@1 last"]
    head += ["clean model: worst", "clean model, same defense: worst"]
    found = []
    for attack in dict.fromkeys(frame["attack"]):
        rows = [_line(frame[frame["attack"] == attack], *cell[1:]) for cell in plan.adapted if cell[0] == attack]
        found.append({"title": f"Persistence: {attack}", "attack": attack, "note": NOTE, "rows": [head, *rows]})
    return found


def _line(mine: pd.DataFrame, defense: str, adaptation: str) -> list[str]:
    mine = mine[mine["adaptation"] == adaptation]
    under_test = mine[(mine["defense"] == defense) & (mine["model"] == BACKDOORED)]
    clean = mine[mine["model"] == CLEAN]
    controls = [percent(clean.loc[clean["defense"] == name, "worst"].mean()) for name in (NO_DEFENSE, defense)]
    revived = under_test["revival_step"].dropna()
    step = "" if revived.empty else f"{revived.mean():.0f}"
    step += f" ({len(revived)} of {len(under_test)} seeds)" if 0 < len(revived) < len(under_test) else ""
    rates = [percent(under_test[name].mean()) for name in FIGURES]
    accuracies = [percent(under_test[name].mean()) for name in ("ca1_delivered", "ca1_last")]
    return [defense, adaptation, *rates, step, *accuracies, *controls]


# --- plot ------------------------------------------------------------------------------------------------------------


def plot(plan: SummarySettings, results: Path, table: pd.DataFrame, path: Path) -> None:
    """Plot means over seeds from the delivered model (step 0) on: one row per attack, one column per adaptation.

    A solid line is a model under test, the dashed line of the same colour its control. For a sweep, only the picked
    setting is shown.

    Args:
        table: one row per attack and defense, as `tables.summarise` returns it.
    """
    cells = [(attack.name, one.name) for attack in plan.attacks for one in plan.adaptations]
    panels = {cell: _lines(plan, results, table, *cell) for cell in cells}
    attacks = [a.name for a in plan.attacks if any(panels[a.name, one.name] for one in plan.adaptations)]
    if not attacks:
        return style.nothing(path, "no persistence was measured")
    columns = [one.name for one in plan.adaptations]
    drawn = {number: name for lines in panels.values() for name, number, model, _ in lines if model == BACKDOORED}
    handles = [Line2D([], [], label=drawn[n], **_look(n, BACKDOORED)) for n in sorted(drawn)]
    if any(model == CLEAN for lines in panels.values() for *_, model, _ in lines):
        handles.append(Line2D([], [], label="clean model, same defense", **_look(0, CLEAN)))
    side = {1: 5.5, 2: 4.2, 3: 3.3}.get(len(columns), 2.8)
    width = max(len(columns) * side, 7)
    height = len(attacks) * side * 0.66 + style.legend_height(handles, width)
    with style.picture(path, width, height) as figure:
        grid = figure.subplots(len(attacks), len(columns), squeeze=False)
        for (i, attack), (j, name) in product(enumerate(attacks), enumerate(columns)):
            _panel(grid[i, j], f"{attack}, {name}", panels[attack, name])
            if j == 0:
                grid[i, j].set_ylabel("ASR@1, percent")
            if i == len(attacks) - 1:
                grid[i, j].set_xlabel("steps")
        style.legend(figure, handles)
    return None


def _lines(
    plan: SummarySettings, results: Path, table: pd.DataFrame, attack: str, adaptation: str
) -> list[tuple[str, int, str, pd.Series]]:
    """Return name, number, model and curve (percent by step) of each measured defense and of its control."""
    numbers, found = style.numbers(plan), []
    cells = table[table["attack"] == attack].set_index("defense")
    for defense, model in product(plan.defenses, STAGES):
        planned = (attack, defense.name, adaptation) in plan.adapted and _planned(plan, model, defense.name)
        if not planned or (defense.sweep and cells.loc[defense.name, "picked"] != "yes"):
            continue
        names = {"attack": attack, "defense": defense.name, "adaptation": adaptation}
        curves = [read_trajectory(results, model, **names, seed=seed) for seed in plan.seeds]
        points = [(point.step, point.score) for curve in curves if curve for point in curve.curve]
        if points:
            line = pd.DataFrame(points, columns=["step", "score"]).groupby("step")["score"].mean() * 100
            label = "no defense" if defense.name == NO_DEFENSE else defense.sweep or defense.name
            found.append((label, numbers[defense.name], model, line))
    return found


def _panel(axes: Axes, title: str, lines: list[tuple[str, int, str, pd.Series]]) -> None:
    axes.set_title(title)
    for _, number, model, line in lines:
        axes.plot(line.index, line.to_numpy(), **_look(number, model), markersize=3.5)
    axes.set(ylim=(-4, 104))
    axes.margins(x=0.03)
    axes.locator_params(axis="x", integer=True, nbins=6)


def _look(number: int, model: str) -> dict:
    colour, marker = style.look(number)
    if model == CLEAN:
        return {"color": colour, "linestyle": style.DASHES[1], "linewidth": 1.1}
    return {"color": colour, "marker": marker, "linewidth": 1.3}
