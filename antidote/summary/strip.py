"""Strip of triggers for the front page: a clean picture above the triggered picture, one attack per column."""

from pathlib import Path

import numpy as np

from antidote.base.errors import UserError
from antidote.study.layout import Layout
from antidote.summary import style
from antidote.summary.gallery import enlarged, read_sheet
from antidote.summary.plan import SummarySettings

MARGIN, GAP, HEAD, SIDE = 16, 8, 34, 108  # pixels


def strip(plan: SummarySettings, results: Path, names: list[str], path: Path) -> None:
    """Draw attacks in the given order, each on another of its eight example pictures.

    Args:
        results: folder of the study.
        names: entries of the study; of the seeds, the first with examples is shown.

    Raises:
        UserError: the study has no such entry, or no examples of the entry yet.
    """
    known = {attack.name: attack for attack in plan.attacks}
    columns = []
    for i, name in enumerate(names):
        if name not in known:
            raise UserError(f"{name}: no attack of the study; its attacks are {', '.join(known)}")
        sheets = [Layout(results).path("floor", "examples", attack=name, seed=seed) for seed in plan.seeds]
        sheet = next((file for file in sheets if file.exists()), None)
        if sheet is None:
            raise UserError(f"{sheets[0]}: no such file; run the study first")
        pictures = read_sheet(sheet)
        title = (known[name].label or name).partition(",")[0]
        columns.append((title, [enlarged(pictures[row, i % pictures.shape[1]]) for row in (0, 1)]))
    tile = max(picture.shape[0] for _, pair in columns for picture in pair)
    width = 2 * MARGIN + SIDE + len(columns) * (tile + GAP) - GAP
    height = 2 * MARGIN + HEAD + 2 * tile + GAP
    canvas = np.full((height, width, 3), 255, np.uint8)
    with style.picture(path, width / style.DPI, height / style.DPI) as figure:
        figure.set_layout_engine("none")
        figure.set_dpi(style.DPI)
        for row, word in enumerate(("clean", "triggered")):
            y = MARGIN + HEAD + row * (tile + GAP)
            figure.text(MARGIN / width, 1 - (y + tile / 2) / height, word, size=9, va="center", color=style.MUTED)
            for column, (_, pair) in enumerate(columns):
                x = MARGIN + SIDE + column * (tile + GAP)
                canvas[y : y + pair[row].shape[0], x : x + pair[row].shape[1]] = pair[row]
        for column, (label, _) in enumerate(columns):
            x = MARGIN + SIDE + column * (tile + GAP) + tile / 2
            figure.text(x / width, 1 - (MARGIN + HEAD / 2) / height, label, size=9, ha="center", va="center")
        figure.figimage(canvas, zorder=-1)
