"""AUROC of every detector on every attack as a heatmap, and ROC curves."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from antidote.evaluation.ranking import GRID
from antidote.summary import style
from antidote.summary.detections import TITLES, Detections
from antidote.summary.plan import SummarySettings
from antidote.summary.tables import percent

COLUMNS = 3  # panels side by side


def auroc_map(plan: SummarySettings, found: Detections, path: Path) -> None:
    """Plot mean AUROC: one row per detector, grouped by subject; one column per attack and model under test."""
    means = found.frame.groupby(["attack", "defense", "detector"])["auroc"].mean().dropna()
    if means.empty:
        return style.nothing(path, "no detection was measured")
    columns = list(dict.fromkeys(cell[:2] for cell in plan.detections))
    rows = [f for subject in TITLES for f in plan.detectors if f.subject == subject]
    names = [attack if defense == "none" else f"{attack}, {defense}" for attack, defense in columns]
    width = max(5.2, 0.72 * len(names) + 0.085 * max(len(f.name) for f in rows) + 2.2)
    height = 0.3 * len(rows) + 0.06 * max(map(len, names)) + 1.1
    with style.picture(path, width, height) as figure:
        axes = figure.subplots()
        for y, facts in enumerate(rows):
            for x, cell in enumerate(columns):
                _tile(axes, x, y, means.get((*cell, facts.name), float("nan")))
        axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
        axes.set_title("AUROC, percent; 50: as at random", pad=8)
        turn = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 9 else {}
        axes.set_xticks([x + 0.5 for x in range(len(columns))], names, color=style.INK, **turn)
        labels = [f.name if f.name.endswith(f"_{f.subject}") else f"{f.name}, {f.subject}" for f in rows]
        axes.set_yticks([y + 0.5 for y in range(len(rows))], labels, color=style.INK)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
    return None


def _tile(axes: Axes, x: int, y: int, rate: float) -> None:
    face = (1.0, 1.0, 1.0, 1.0) if np.isnan(rate) else colormaps["PuOr"](0.1 + 0.8 * rate)
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor=style.FAINT, linewidth=0.8))
    ink = style.INK if np.dot(face[:3], (0.3, 0.59, 0.11)) > 0.52 else "white"
    axes.text(x + 0.5, y + 0.5, percent(rate), ha="center", va="center", color=ink, size=9)


def roc_curves(plan: SummarySettings, found: Detections, path: Path) -> None:
    """Plot mean curves over seeds: one panel per subject, attack and model under test; one line per detector."""
    facts = {f.name: f for f in plan.detectors}
    panels: dict[tuple[str, str, str], list[tuple[str, np.ndarray]]] = {}
    for (attack, defense, detector), curves in found.curves.items():
        if curves:
            line = np.mean(curves, axis=0)
            panels.setdefault((facts[detector].subject, attack, defense), []).append((detector, line))
    if not panels:
        return style.nothing(path, "no detection was measured")
    looks = {name: _look(place, bool(facts[name].control)) for place, name in enumerate(facts)}
    drawn = [name for name in facts if any(name == line for lines in panels.values() for line, _ in lines)]
    handles = [Line2D([], [], label=name, **looks[name]) for name in drawn if not facts[name].control]
    handles += [Line2D([], [], label="controls", **looks[name]) for name in drawn if facts[name].control][:1]
    columns = min(COLUMNS, len(panels))
    rows, width = -(-len(panels) // columns), max(5.0, 2.7 * columns)
    with style.picture(path, width, 2.6 * rows + style.legend_height(handles, width)) as figure:
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for panel in axes[len(panels) :]:
            panel.set_visible(False)
        for panel, ((subject, attack, defense), lines) in zip(axes, panels.items(), strict=False):
            panel.set_title(f"{attack}{'' if defense == 'none' else f', {defense}'}: {subject}")
            for name, line in lines:
                panel.plot(np.linspace(0, 1, GRID + 1), line, **looks[name])
            panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="false positives", ylabel="true positives")
        style.legend(figure, handles)
    return None


def _look(place: int, control: bool) -> dict:
    if control:
        return {"color": style.MUTED, "linestyle": ":", "linewidth": 1.1}
    return {"color": style.pick(style.COLOURS, place), "linestyle": style.turn(style.DASHES, place), "linewidth": 1.3}
