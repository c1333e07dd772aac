"""The clean-accuracy/ASR plane: attack success against clean accuracy under each defense, one panel per attack.

A point is one cell; its number is the defense. A line connects the undefended model to each defense. The line of a
sweep passes through its settings in order, as a curve. Grey dots are the same defenses against other attacks. A cell
that loses more than `LOSS` points of clean accuracy is an arrow on the left edge, at its ASR, so that one useless model
does not press all others together.
"""

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from antidote.summary import style
from antidote.summary.plan import SummarySettings
from antidote.summary.text import RECONSTRUCTION, attack_title

LOSS = 30  # points of CA@1 that the axis shows below the lowest undefended model
ANGLES = np.linspace(0, 2 * math.pi, 16, endpoint=False)
OFFSETS = [
    radius * np.array([math.cos(angle), math.sin(angle)]) for radius in (10, 14, 19, 25, 32, 40) for angle in ANGLES
]  # candidate positions (in points) of a number around its mark, nearest first


def plane(table: pd.DataFrame, plan: SummarySettings, path: Path) -> None:
    """Plot ASR@1 (y) against CA@1 (x) in percent; cells that were not run have no point."""
    cells = table[(table["attack"] != "clean") & table["score_mean"].notna() & table["ca1_mean"].notna()]
    if cells.empty:
        return style.nothing(path, "no cell has been measured yet")
    cells = cells.assign(x=100 * cells["ca1_mean"], y=100 * cells["score_mean"])
    left, right = _limits(cells, plan)
    cells = cells.assign(beyond=cells["x"] < left, x=cells["x"].clip(lower=left))
    attacks = list(cells["attack"].unique())
    columns = min(len(attacks), 2 if len(attacks) in (1, 2, 4) else 3)
    rows = math.ceil(len(attacks) / columns)
    side = {1: 5.0, 2: 4.2, 3: 3.3}[columns]
    width, handles = max(columns * side, 7), _handles(plan, set(cells["defense"]), cells["beyond"].any())
    with style.picture(path, width, rows * side * 0.86 + style.legend_height(handles, width)) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        edge = max(2.0, 0.09 * (right - left))
        for axes in panels:
            axes.set(xlim=(left - edge, right + edge), ylim=(-7, 107))
            axes.set_visible(False)
        for axes, attack in zip(panels, attacks, strict=False):
            _panel(axes, cells, attack, plan)
        _axis_titles(panels, len(attacks), columns)
        style.legend(figure, handles)
        figure.draw_without_rendering()  # fixes the size of the panels; numbers are placed in pixels
        for axes, attack in zip(panels, attacks, strict=False):
            _number(axes, _points(cells, attack), plan)
    return None


def _limits(cells: pd.DataFrame, plan: SummarySettings) -> tuple[float, float]:
    """Return the lowest and the highest CA@1 that the axis shows."""
    right, undefended = cells["x"].max(), cells.loc[cells["defense"] == "none", "x"]
    lowest = min([right, *undefended]) - max(LOSS, 100 * plan.accuracy_budget)
    return max(min([*cells["x"], *(undefended - 100 * plan.accuracy_budget)]), lowest), right


def _panel(axes: Axes, cells: pd.DataFrame, attack: str, plan: SummarySettings) -> None:
    axes.set_visible(True)
    mine, others = cells[cells["attack"] == attack], cells[cells["attack"] != attack]
    axes.plot(others["x"], others["y"], ".", color=style.FAINT, markersize=4, zorder=1)
    axes.set_title(attack_title(mine.iloc[0]))
    points = _points(cells, attack)
    start = points.get("none")
    if start:
        limit = start[0] - 100 * plan.accuracy_budget
        axes.axvspan(limit, axes.get_xlim()[1], color="#f1f6f1", zorder=0, linewidth=0)
        axes.axvline(limit, color="#9dbb9d", linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
    floor = mine["floor_mean"].iloc[0]
    if not pd.isna(floor):
        axes.axhline(100 * floor, color=style.MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    numbers = style.numbers(plan)
    picked = set(mine.loc[mine["picked"] == "yes", "defense"])
    for line, index in _lines(points, plan):
        axes.plot(*zip(*line, strict=True), "-", color=style.pick(style.COLOURS, index), linewidth=0.9, alpha=0.55)
    beyond = set(mine.loc[mine["beyond"], "defense"])
    for name, (x, y) in points.items():
        face, marker = style.look(numbers[name])
        marker = "<" if name in beyond else marker
        size = 8 if name == "none" else 6.5
        edge = {"markeredgecolor": style.INK if name in picked else "white", "markeredgewidth": 0.7}
        axes.plot(x, y, marker, color=face, markersize=size, **edge, zorder=5)


def _points(cells: pd.DataFrame, attack: str) -> dict[str, tuple[float, float]]:
    """Return (CA@1, ASR@1) in percent of an attack's cells by defense."""
    return {row.defense: (row.x, row.y) for row in cells[cells["attack"] == attack].itertuples()}


def _lines(points: dict[str, tuple], plan: SummarySettings) -> list[tuple[list[tuple], int]]:
    """Return line (from the undefended point, in the order of the plan) and colour of each entry or sweep."""
    start, lines = [points["none"]] if "none" in points else [], {}
    for defense in plan.defenses:
        if defense.name in points and defense.name != "none":
            lines.setdefault(style.numbers(plan)[defense.name] - 1, list(start)).append(points[defense.name])
    return [(line, index) for index, line in lines.items()]


def _number(axes: Axes, points: dict[str, tuple], plan: SummarySettings) -> None:
    """Place each point's number clear of points, numbers and lines; a distant number gets a line to its point."""
    unit = axes.figure.dpi / 72
    pixels = {name: axes.transData.transform(point) for name, point in points.items()}
    low, high = axes.transAxes.transform([(0, 0), (1, 1)])
    taken = [(spot, 10.0) for spot in pixels.values()]
    for line, _ in _lines(points, plan):
        ends = axes.transData.transform(line)
        taken += [(a + t * (b - a), 4.5) for a, b in itertools.pairwise(ends) for t in np.linspace(0, 1, 25)]
    numbers = style.numbers(plan)
    for name in sorted(set(points) - {"none"}, key=lambda name: points[name]):
        spots = [pixels[name] + unit * offset for offset in OFFSETS]
        spots = [s for s in spots if (s > low + 5 * unit).all() and (s < high - 5 * unit).all()] or spots[:1]
        where, room = np.array([spot for spot, _ in taken]), np.array([room for _, room in taken]) * unit
        near = [np.clip(1 - np.hypot(*(where - spot).T) / room, 0, None).sum() for spot in spots]
        spot = spots[int(np.argmin(near))]
        taken.append((spot, 12.0))
        colour = style.look(numbers[name])[0]
        shift = (spot - pixels[name]) / unit
        thread = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 4, "shrinkB": 2}
        place = {"xytext": shift, "textcoords": "offset points", "ha": "center", "va": "center"}
        look = {"size": 8, "weight": "bold", "color": colour, "zorder": 6}
        far = np.hypot(*shift) > 12
        axes.annotate(str(numbers[name]), points[name], **place, **look, arrowprops=thread if far else None)


def _axis_titles(panels: np.ndarray, count: int, columns: int) -> None:
    for i in range(count):
        if i % columns == 0:
            panels[i].set_ylabel("ASR@1, percent")
        if i + columns >= count:
            panels[i].set_xlabel("CA@1, percent")


def _handles(plan: SummarySettings, drawn: set[str], beyond: bool) -> list[Line2D]:
    handles, named = [], set()
    for defense in plan.defenses:
        number = style.numbers(plan)[defense.name]
        if defense.name in drawn and number not in named:
            named.add(number)
            colour, marker = style.look(number)
            name = f"{number}  {defense.sweep or defense.name}" if number else "no defense"
            mark = f" {RECONSTRUCTION}" if defense.reconstruction else ""
            handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6.5, label=name + mark))
    handles.append(Line2D([], [], color=style.MUTED, linewidth=0.8, linestyle=(0, (1, 2)), label="floor"))
    if beyond:
        left = f"loses over {LOSS} points of CA@1"
        handles.append(Line2D([], [], color=style.MUTED, marker="<", linestyle="", markersize=6.5, label=left))
    budget = f"loses at most {100 * plan.accuracy_budget:g} points of CA@1"
    return [*handles, Line2D([], [], color="#cfe0cf", linewidth=7, label=budget)]
