"""ASR@1 during a short benign fine-tuning of every model under test: one panel per attack, one line per defense."""

import math
from pathlib import Path
from typing import Annotated

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from pydantic import ConfigDict, Field

from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.base.settings import Settings
from antidote.study.layout import Layout
from antidote.summary import style
from antidote.summary.plan import SummarySettings

Rate = Annotated[float, Field(ge=0, le=1)]


class Point(Settings):
    """One measurement; rates are fractions."""

    step: int
    ca1: Rate
    score: Rate


class Rebound(Settings):
    """The fields of `rebound.json` that the summary reads."""

    model_config = ConfigDict(extra="ignore")

    rebound: Rate
    curve: list[Point] = Field(min_length=1)


def read_rebound(results: Path, attack: str, seed: int, defense: str) -> Rebound | None:
    """Return the rebound of one cell; None if not measured.

    Raises:
        UserError: a `rebound.json` exists but does not hold a curve.
    """
    path = Layout(results).path("rebound", "curve", attack=attack, seed=seed, defense=defense)
    if not path.exists():
        return None
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold keys and values, not {type(values).__name__}")
    return Rebound.read(values, str(path))


def rebounds(plan: SummarySettings, results: Path, table: pd.DataFrame, path: Path) -> None:
    """Plot means over seeds from the defended model (step 0) on; for a sweep, only the picked setting.

    Args:
        table: one row per attack and defense, as `tables.summarise` returns it.
    """
    attacks = [attack.name for attack in plan.attacks] if plan.rebound else []
    panels = {attack: _lines(plan, results, table, attack) for attack in attacks}
    panels = {attack: lines for attack, lines in panels.items() if lines}
    if not panels:
        return style.nothing(path, "no rebound was measured")
    columns = min(len(panels), 2 if len(panels) <= 4 else 3)
    rows = math.ceil(len(panels) / columns)
    side = {1: 5.5, 2: 4.2, 3: 3.3}[columns]
    numbers = style.numbers(plan)
    drawn = {number: name for lines in panels.values() for name, number, _ in lines}
    handles = [Line2D([], [], label=drawn[n], **_look(n)) for n in sorted(set(numbers.values()) & set(drawn))]
    width = max(columns * side, 7)
    with style.picture(path, width, rows * side * 0.66 + style.legend_height(handles, width)) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, (attack, lines) in zip(axes, panels.items(), strict=False):
            _panel(panel, attack, lines)
        for i, panel in enumerate(axes):
            panel.set_visible(i < len(panels))
            if i % columns == 0:
                panel.set_ylabel("ASR@1, percent")
            if i + columns >= len(panels):
                panel.set_xlabel("steps of benign fine-tuning")
        style.legend(figure, handles)
    return None


def _lines(plan: SummarySettings, results: Path, table: pd.DataFrame, attack: str) -> list[tuple[str, int, pd.Series]]:
    """Return name, number and curve (percent by step) of each measured defense."""
    numbers, found = style.numbers(plan), []
    cells = table[table["attack"] == attack].set_index("defense")
    for defense in plan.defenses:
        cell = cells.loc[defense.name]
        if defense.sweep and cell["picked"] != "yes":
            continue
        curves = [read_rebound(results, attack, seed, defense.name) for seed in plan.seeds]
        points = [(point.step, point.score) for curve in curves if curve for point in curve.curve]
        if points:
            start = [(0, cell["score_mean"])]
            line = pd.DataFrame(start + points, columns=["step", "score"]).groupby("step")["score"].mean() * 100
            label = "no defense" if defense.name == "none" else defense.sweep or defense.name
            found.append((label, numbers[defense.name], line))
    return found


def _panel(axes: Axes, attack: str, lines: list[tuple[str, int, pd.Series]]) -> None:
    axes.set_title(attack)
    for _, number, line in lines:
        axes.plot(line.index, line.to_numpy(), **_look(number), markersize=3.5)
    axes.set(ylim=(-4, 104))
    axes.margins(x=0.03)
    axes.locator_params(axis="x", integer=True, nbins=6)


def _look(number: int) -> dict:
    colour, marker = style.look(number)
    return {"color": colour, "marker": marker, "linewidth": 1.3}
