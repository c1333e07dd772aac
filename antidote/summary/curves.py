"""Training loss of every model: one panel for pretrained models, then one panel per defense; one line per attack.

The plot shows CLIP's contrastive loss if the log holds it: the contrastive loss is comparable across panels, while a
method's total loss has terms that differ between steps.
"""

import json
import math
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from antidote.base.errors import UserError
from antidote.study.layout import Layout
from antidote.summary import style
from antidote.summary.plan import SummarySettings

POINTS = 200  # per line; a longer log is averaged over equal segments


def curves(plan: SummarySettings, results: Path, path: Path) -> None:
    """Plot the loss against the step, one line per seed.

    Raises:
        UserError: a line of an existing `train.jsonl` is not JSON.
    """
    panels = _panels(plan, results)
    if not panels:
        return style.nothing(path, "no training log yet")
    columns = min(len(panels), 2 if len(panels) <= 4 else 3)
    rows = math.ceil(len(panels) / columns)
    side = {1: 5.5, 2: 4.2, 3: 3.3}[columns]
    attacks = [a.name for a in plan.attacks]
    drawn = {name for lines in panels.values() for name, _ in lines}
    handles = [Line2D([], [], label=n, **_look(n, attacks)) for n in ("clean", *attacks) if n in drawn]
    width = columns * side
    with style.picture(path, width, rows * side * 0.66 + style.legend_height(handles, width)) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, (title, lines) in zip(axes, panels.items(), strict=False):
            _panel(panel, title, lines, attacks)
        for i, panel in enumerate(axes):
            panel.set_visible(i < len(panels))
            if i % columns == 0:
                panel.set_ylabel("loss")
            if i + columns >= len(panels):
                panel.set_xlabel("step")
        style.legend(figure, handles)
    return None


def _panels(plan: SummarySettings, results: Path) -> dict[str, list[tuple[str, pd.DataFrame]]]:
    """Return the lines of each panel as (attack, log); panels without a log are left out."""
    attacks, kept = [attack.name for attack in plan.attacks], Layout(results)
    backdoored = [("backdoored_model", {"attack": attack}) for attack in attacks]
    trained = {"clean and backdoored models": [("clean_model", {}), *backdoored]}
    for defense in plan.defenses:
        trained[defense.name] = [("defend", {"attack": attack, "defense": defense.name}) for attack in attacks]
    panels = {}
    for title, lines in trained.items():
        jobs = [(stage, {**names, "seed": seed}) for stage, names in lines for seed in plan.seeds]
        files = [(names.get("attack", "clean"), kept.path(stage, "log", **names)) for stage, names in jobs]
        logs = [(attack, read_log(file)) for attack, file in files if file.exists()]
        panels[title] = [(attack, log) for attack, log in logs if not log.empty]
    return {title: logs for title, logs in panels.items() if logs}


def read_log(path: Path) -> pd.DataFrame:
    """Return the columns `step` and `loss` (contrastive if logged, else total) of a log, at most `POINTS` rows."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append((float(row["step"]), float(row.get("contrastive", row["loss"]))))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: line {number}: should be a JSON object with step and loss") from None
    log = pd.DataFrame(rows, columns=["step", "loss"])
    stretch = max(1, math.ceil(len(log) / POINTS))
    return log.groupby(log.index // stretch).mean()


def _panel(axes: Axes, title: str, lines: list[tuple[str, pd.DataFrame]], attacks: list[str]) -> None:
    axes.set_title(title)
    for attack, log in lines:
        axes.plot(log["step"], log["loss"], **_look(attack, attacks), alpha=0.9)
    axes.margins(x=0.02)
    axes.locator_params(axis="x", nbins=5)


def _look(attack: str, attacks: list[str]) -> dict:
    if attack == "clean":
        return {"color": "black", "linewidth": 2.4, "zorder": 1.5}
    index = attacks.index(attack)
    colour, dash = style.pick(style.COLOURS, index), style.turn(style.DASHES, index)
    return {"color": colour, "linestyle": dash, "linewidth": 1.1}
