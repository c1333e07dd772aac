"""Shared style of the plots: size, font, colours for colour-blind readers, files without a date."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from antidote.summary.plan import SummarySettings

DPI = 150
INK, MUTED, FAINT = "#1a1a1a", "#6b6b6b", "#d9d9d9"

# Okabe and Ito's palette without yellow (invisible on white) and black (used for "no defense").
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4FBF"]
MARKERS = ["o", "s", "^"]
DASHES = ["-", (0, (5, 1.5)), (0, (1.2, 1.2))]

_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.06,
}


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure, size in inches; at the end of the block it is written as a PNG without date or version."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, dpi=DPI, format="png", metadata={"Software": None})


def nothing(path: Path, text: str) -> None:
    """Write a placeholder picture that gives the reason why no data is shown."""
    with picture(path, 6, 1.2) as figure:
        figure.text(0.5, 0.5, text, ha="center", va="center", color=MUTED, size=10)


def legend_columns(handles: list[Line2D], width: float) -> int:
    """Return the number of legend columns, 1 to 4, that fit into a width in inches."""
    longest = max(len(handle.get_label()) for handle in handles)
    return max(1, min(4, len(handles), int(width / (0.55 + 0.082 * longest))))


def legend_height(handles: list[Line2D], width: float) -> float:
    """Return the height in inches of a legend below the panels."""
    return 0.22 * math.ceil(len(handles) / legend_columns(handles, width)) + 0.3


def legend(figure: Figure, handles: list[Line2D]) -> None:
    """Put a legend below the panels."""
    columns = legend_columns(handles, figure.get_figwidth())
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8.5)


def pick(styles: list, index: int) -> str:
    """Return a colour for an index; colours repeat after the last."""
    return styles[index % len(styles)]


def turn(styles: list, index: int) -> str:
    """Return a marker or dash for an index; the style changes each time the colours repeat."""
    return styles[index // len(COLOURS) % len(styles)]


def numbers(plan: SummarySettings) -> dict[str, int]:
    """Return the number of each defense entry; 0 is no defense. The values of a sweep share a number."""
    groups = list(dict.fromkeys(d.sweep or d.name for d in plan.defenses))
    return {d.name: groups.index(d.sweep or d.name) for d in plan.defenses}


def look(number: int) -> tuple[str, str]:
    """Return colour and marker of a defense by its number; 0 is no defense."""
    return ("black", "D") if number == 0 else (pick(COLOURS, number - 1), turn(MARKERS, number - 1))
