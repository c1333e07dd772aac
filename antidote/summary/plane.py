"""The clean-accuracy/ASR plane: what a defense gains against what it costs, one panel per attack.

A point is one cell, its number is the defense. A line leads from the undefended model to each defense and on through
the entries of one method, so that a sweep shows as a curve. Grey dots are the same defenses against other attacks.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from antidote.summary import style
from antidote.summary.plan import SummarySettings
from antidote.summary.text import RECONSTRUCTION, attack_mark


def plane(table: pd.DataFrame, plan: SummarySettings, path: Path) -> None:
    """Draw CA@1 (x) against ASR@1 (y) in percent; cells that were not run have no point."""
    cells = table[(table["attack"] != "clean") & table["asr1_mean"].notna() & table["ca1_mean"].notna()]
    if cells.empty:
        return style.nothing(path, "no cell has been measured yet")
    cells = cells.assign(x=100 * cells["ca1_mean"], y=100 * cells["asr1_mean"])
    attacks = list(cells["attack"].unique())
    columns = min(len(attacks), 2 if len(attacks) <= 4 else 3)
    rows = math.ceil(len(attacks) / columns)
    side = {1: 5.0, 2: 4.2, 3: 3.3}[columns]
    legend = 0.22 * math.ceil((len(plan.defenses) + 2) / 4) + 0.3
    with style.picture(path, max(columns * side, 7), rows * side * 0.86 + legend) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        left, right = cells["x"].min(), cells["x"].max()
        edge = max(2.0, 0.09 * (right - left))
        for axes in panels:
            axes.set(xlim=(left - edge, right + edge), ylim=(-7, 107))
            axes.set_visible(False)
        for axes, attack in zip(panels, attacks, strict=False):
            _panel(axes, cells, attack, plan)
        _axis_titles(panels, len(attacks), columns)
        _legend(figure, plan, set(cells["defense"]))
    return None


def _panel(axes: Axes, cells: pd.DataFrame, attack: str, plan: SummarySettings) -> None:
    axes.set_visible(True)
    mine, others = cells[cells["attack"] == attack], cells[cells["attack"] != attack]
    axes.plot(others["x"], others["y"], ".", color=style.FAINT, markersize=4, zorder=1)
    axes.set_title(attack + attack_mark(mine["gate"].iloc[0]))
    points = {row.defense: (row.x, row.y) for row in mine.itertuples()}
    start = points.get("none")
    if start:
        limit = start[0] - 100 * plan.accuracy_budget
        axes.axvspan(limit, axes.get_xlim()[1], color="#f1f6f1", zorder=0, linewidth=0)
        axes.axvline(limit, color="#9dbb9d", linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
    floor = mine["floor_mean"].iloc[0]
    if not pd.isna(floor):
        axes.axhline(100 * floor, color=style.MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    numbers = {d.name: i for i, d in enumerate(plan.defenses)}
    for line, index in _lines(points, plan):
        axes.plot(*zip(*line, strict=True), "-", color=style.pick(style.COLOURS, index), linewidth=0.9, alpha=0.55)
    for name, (x, y) in points.items():
        face, marker = _look(numbers[name])
        size = 8 if name == "none" else 6.5
        axes.plot(x, y, marker, color=face, markersize=size, markeredgecolor="white", markeredgewidth=0.7, zorder=5)
    labels = {numbers[name]: point for name, point in points.items() if name != "none"}
    _number(axes, labels, list(points.values()))


def _lines(points: dict[str, tuple], plan: SummarySettings) -> list[tuple[list[tuple], int]]:
    """Return for each method its line (from the undefended point, then by falling CA) and its first entry's number."""
    methods: dict[str, list[int]] = {}
    for index, defense in enumerate(plan.defenses):
        if defense.name in points and defense.name != "none":
            methods.setdefault(defense.method or defense.name, []).append(index)
    start = [points["none"]] if "none" in points else []
    found = []
    for indices in methods.values():
        through = sorted((points[plan.defenses[i].name] for i in indices), reverse=True)
        found.append((start + through, indices[0] - 1))
    return found


def _number(axes: Axes, labels: dict[int, tuple], points: list[tuple]) -> None:
    """Put each point's number where it hides no point and no other number, tied to its point where it stands off."""
    scale = axes.transData.transform
    taken = [np.array(scale(point)) for point in points]
    low, high = axes.transAxes.transform([(0, 0), (1, 1)])
    unit = axes.figure.dpi / 72
    offsets = [
        unit * radius * np.array([math.cos(angle), math.sin(angle)])
        for radius in (10, 15, 21, 28, 36, 45)
        for angle in np.linspace(0, 2 * math.pi, 16, endpoint=False) + math.pi / 8
    ]
    for number, point in sorted(labels.items(), key=lambda item: item[1]):
        origin = np.array(scale(point))
        spots = [s for s in (origin + o for o in offsets) if (s > low + 4 * unit).all() and (s < high - 4 * unit).all()]
        crowd = [sum(max(0.0, 11.5 * unit - math.dist(spot, other)) for other in taken) for spot in spots]
        spot = spots[int(np.argmin(crowd))] if spots else origin
        taken.append(spot)
        colour = _look(number)[0]
        far = math.dist(spot, origin) > 12 * unit
        axes.annotate(
            str(number), point, xytext=(spot - origin) / unit, textcoords="offset points", ha="center", va="center",
            size=8, weight="bold", color=colour, zorder=6,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 4, "shrinkB": 2} if far else None,
        )  # fmt: skip


def _look(number: int) -> tuple[str, str]:
    """Return colour and marker of a defense by its place in the plan; 0 is no defense."""
    if number == 0:
        return "black", "D"
    return style.pick(style.COLOURS, number - 1), style.turn(style.MARKERS, number - 1)


def _axis_titles(panels: np.ndarray, count: int, columns: int) -> None:
    for i in range(count):
        if i % columns == 0:
            panels[i].set_ylabel("ASR@1, percent")
        if i + columns >= count:
            panels[i].set_xlabel("CA@1, percent")


def _legend(figure: Figure, plan: SummarySettings, drawn: set[str]) -> None:
    handles = []
    for number, defense in enumerate(plan.defenses):
        if defense.name in drawn:
            colour, marker = _look(number)
            name = f"{number}  {defense.name}" if number else "no defense"
            mark = f" {RECONSTRUCTION}" if defense.reconstruction else ""
            handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6.5, label=name + mark))
    handles.append(Line2D([], [], color=style.MUTED, linewidth=0.8, linestyle=(0, (1, 2)), label="floor"))
    budget = f"within {100 * plan.accuracy_budget:g} points of CA@1"
    handles.append(Line2D([], [], color="#cfe0cf", linewidth=7, label=budget))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=8.5)
