"""ASR@1 and CA@1 of every attack against every defense, as two annotated heatmaps."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from antidote.summary import style
from antidote.summary.tables import percent
from antidote.summary.text import RECONSTRUCTION, attack_mark

TITLES = {"asr1": ("ASR@1, percent", "Oranges"), "ca1": ("CA@1, percent", "Blues")}


def heatmap(table: pd.DataFrame, path: Path) -> None:
    """Draw the two heatmaps, one above the other so that both stay legible with many defenses."""
    attacked = table[table["attack"] != "clean"]
    if attacked.empty:
        return style.nothing(path, "no attack in this study")
    attacks, defenses = attacked["attack"].unique(), attacked["defense"].unique()
    width = max(5.2, 0.72 * len(defenses) + 0.085 * max(map(len, attacks)) + 1.1)
    height = 2 * (0.36 * len(attacks) + 0.06 * max(map(len, defenses)) + 0.75)
    clean = table.loc[table["attack"] == "clean", "ca1_mean"].iloc[0]
    with style.picture(path, width, height) as figure:
        figure.get_layout_engine().set(hspace=0.06)
        for axes, figure_name in zip(figure.subplots(2, 1), TITLES, strict=True):
            title, colours = TITLES[figure_name]
            top = 1.0 if figure_name == "asr1" else np.nanmax([*attacked["ca1_mean"], clean, 1e-9])
            _draw(axes, attacked, figure_name, colours, float(top))
            reference = "" if pd.isna(clean) else f" (clean reference model {percent(clean)})"
            axes.set_title(title + (reference if figure_name == "ca1" else ""), pad=8)
    return None


def _draw(axes: Axes, table: pd.DataFrame, figure: str, colours: str, top: float) -> None:
    attacks, defenses = list(table["attack"].unique()), list(table["defense"].unique())
    for _, cell in table.iterrows():
        x, y = defenses.index(cell["defense"]), attacks.index(cell["attack"])
        rate = cell[f"{figure}_mean"]
        share = 0.0 if pd.isna(rate) else rate / top
        # Half of the map's range at most at the dark end, so that the numbers keep their contrast.
        face = "white" if pd.isna(rate) else colormaps[colours](0.05 + 0.85 * share)
        hatch = "////" if cell["note"].startswith("not applicable") else None
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor=style.FAINT, hatch=hatch, linewidth=0.8))
        best = figure == "asr1" and cell["best"] == "yes"
        ink = "white" if share > 0.62 else style.INK
        weight = "bold" if best else "normal"
        axes.text(x + 0.5, y + 0.5, percent(rate), ha="center", va="center", color=ink, weight=weight, size=9)
        if best:
            inner = {"facecolor": "none", "edgecolor": style.INK, "linewidth": 1.4}
            axes.add_patch(Rectangle((x + 0.05, y + 0.07), 0.9, 0.86, **inner))
    firsts = table.drop_duplicates("attack")
    rows = [row.attack + attack_mark(row.gate) for row in firsts.itertuples()]
    recon = set(table.loc[table["reconstruction"] == "yes", "defense"])
    columns = [f"{name} {RECONSTRUCTION}" if name in recon else name for name in defenses]
    axes.set(xlim=(0, len(defenses)), ylim=(len(attacks), 0))
    slanted = max(map(len, columns)) > 9
    turn = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks([x + 0.5 for x in range(len(defenses))], columns, color=style.INK, **turn)
    axes.set_yticks([y + 0.5 for y in range(len(attacks))], rows, color=style.INK)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
