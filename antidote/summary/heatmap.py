"""ASR@1 and CA@1 of every attack against every defense, as two annotated heatmaps.

Colours show the remaining attack success and the accuracy that the defense has cost.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from antidote.summary import style
from antidote.summary.tables import percent
from antidote.summary.text import RECONSTRUCTION, attack_title

COLOURS = {"score": "Oranges", "ca1": "Blues"}
LOSS = 0.1  # loss of CA@1 at the dark end of the colour scale, unless a defense loses more


def heatmap(table: pd.DataFrame, path: Path) -> None:
    """Draw the two heatmaps one above the other, so that both stay legible with many defenses."""
    attacked = table[table["attack"] != "clean"]
    if attacked.empty:
        return style.nothing(path, "no attack in this study")
    attacks, defenses = attacked["attack"].unique(), attacked["defense"].unique()
    width = max(5.2, 0.72 * len(defenses) + 0.085 * max(map(len, attacks)) + 1.1)
    height = 2 * (0.36 * len(attacks) + 0.06 * max(map(len, defenses)) + 0.85)
    clean = percent(table.loc[table["attack"] == "clean", "ca1_mean"].iloc[0]) or "not run"
    lost = _lost(attacked)
    shares = {"score": attacked["score_mean"], "ca1": lost / max(LOSS, lost.max())}
    titles = {
        "score": "ASR@1, percent",
        "ca1": f"CA@1, percent (clean model: {clean})\ncolour: points lost against the undefended model",
    }
    with style.picture(path, width, height) as figure:
        figure.get_layout_engine().set(hspace=0.06)
        for axes, name in zip(figure.subplots(2, 1), titles, strict=True):
            _draw(axes, attacked.assign(share=shares[name]), name)
            axes.set_title(titles[name], pad=8)
    return None


def _lost(table: pd.DataFrame) -> pd.Series:
    """Return each cell's loss of CA@1 relative to the undefended model of the same attack; gains count as 0."""
    none = table[table["defense"] == "none"].set_index("attack")["ca1_mean"]
    return (table["attack"].map(none) - table["ca1_mean"]).clip(lower=0)


def _draw(axes: Axes, table: pd.DataFrame, figure: str) -> None:
    attacks, defenses = list(table["attack"].unique()), list(table["defense"].unique())
    for _, cell in table.iterrows():
        x, y = defenses.index(cell["defense"]), attacks.index(cell["attack"])
        face = (1.0, 1.0, 1.0, 1.0)
        if not pd.isna(cell["share"]):
            face = colormaps[COLOURS[figure]](0.02 + 0.83 * cell["share"])
        hatch = "////" if cell["note"].startswith("not applicable") else None
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor=style.FAINT, hatch=hatch, linewidth=0.8))
        best = figure == "score" and cell["best"] == "yes"
        ink = style.INK if np.dot(face[:3], (0.3, 0.59, 0.11)) > 0.52 else "white"
        look = {"color": ink, "weight": "bold" if best else "normal", "size": 9}
        words = percent(cell[f"{figure}_mean"])
        axes.text(x + 0.5, y + 0.5, words, ha="center", va="center", **look)
        if best:
            inner = {"facecolor": "none", "edgecolor": style.INK, "linewidth": 1.4}
            axes.add_patch(Rectangle((x + 0.05, y + 0.07), 0.9, 0.86, **inner))
    firsts = table.drop_duplicates("attack")
    rows = [attack_title(row) for _, row in firsts.iterrows()]
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
