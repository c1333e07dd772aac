"""Gallery of triggers: clean picture, triggered picture, and the amplified difference, pixel for pixel.

A sheet holds two rows (clean, triggered) of eight square pictures at the model's resolution. For an attack without a
trigger, the rows hold pictures of the captions' class and the attack's replacements; no difference is shown. Pictures
are enlarged by integer factors without smoothing, so that triggers of a few levels or a few pixels stay exact.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from antidote.base.errors import UserError
from antidote.study.layout import Layout
from antidote.summary import style
from antidote.summary.plan import AttackFacts, SummarySettings
from antidote.summary.text import attack_mark

TILE = 128  # largest side of an enlarged picture, in pixels
SHEET = (2, 8)  # rows and columns of an examples sheet
FACTORS = [100, 50, 20, 10, 5, 2, 1]
LAID = "no trigger: class said, class shown"
MARGIN, GAP, BETWEEN, HEAD = 24, 6, 22, 44  # pixels


def gallery(plan: SummarySettings, results: Path, table: pd.DataFrame, path: Path) -> None:
    """Draw one row per attack with an examples sheet.

    Raises:
        UserError: an `examples.png` exists but is not a sheet of examples.
    """
    gates = dict(zip(table["attack"], table["gate"], strict=True))
    rows = []
    for attack in plan.attacks:
        sheets = (Layout(results).path("floor", "examples", attack=attack.name, seed=seed) for seed in plan.seeds)
        sheet = next((s for s in sheets if s.exists()), None)
        if sheet:
            name = attack.name + attack_mark(gates.get(attack.name, ""))
            rows.append((name, attack, read_sheet(sheet)))
    if not rows:
        return style.nothing(path, "no examples yet")
    _draw(rows, path)
    return None


def read_sheet(path: Path) -> np.ndarray:
    """Return the pictures of a sheet, uint8 (2, 8, side, side, 3)."""
    try:
        with Image.open(path) as image:
            sheet = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read as a picture ({error})") from None
    rows, columns = SHEET
    height, width = sheet.shape[0] // rows, sheet.shape[1] // columns
    if not height or height != width or (height * rows, width * columns) != sheet.shape[:2]:
        is_ = f"{sheet.shape[1]} x {sheet.shape[0]} pixels"
        raise UserError(f"{path}: should be {columns} x {rows} square pictures of one size, not {is_}")
    return sheet.reshape(rows, height, columns, width, 3).swapaxes(1, 2)


def difference(clean: np.ndarray, triggered: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Return the amplified |difference|, the factor (largest without clipping), and the largest change in levels."""
    change = np.abs(clean.astype(int) - triggered.astype(int))
    largest = int(change.max())
    factor = next(f for f in FACTORS if f * largest <= 255)
    return (change * factor).astype(np.uint8), factor, largest


def _draw(rows: list[tuple[str, AttackFacts, np.ndarray]], path: Path) -> None:
    sides = [max(pictures.shape[2:4]) for _, _, pictures in rows]
    shown = 3 if max(sides) <= TILE else 2
    tile = max(side * _enlargement(side) for side in sides)
    group = 3 * tile + 2 * GAP
    label = max(330, 24 + 14 * max(len(name) for name, _, _ in rows))
    width = 2 * MARGIN + label + shown * group + (shown - 1) * BETWEEN
    height = MARGIN + HEAD + len(rows) * (tile + GAP) - GAP + MARGIN
    canvas = np.full((height, width, 3), 255, np.uint8)
    with style.picture(path, width / style.DPI, height / style.DPI) as figure:
        figure.set_layout_engine("none")
        figure.set_dpi(style.DPI)
        text = lambda x, y, words, **more: figure.text(x / width, 1 - y / height, words, **more)
        for i in range(shown):
            for j, head in enumerate(("clean", "triggered", "difference")):
                x = MARGIN + label + i * (group + BETWEEN) + j * (tile + GAP)
                text(x + tile / 2, MARGIN + HEAD / 2, head, size=9, ha="center", va="center", color=style.MUTED)
        for row, (name, attack, pictures) in enumerate(rows):
            y = MARGIN + HEAD + row * (tile + GAP)
            amplified, factor, largest = difference(pictures[0, :shown], pictures[1, :shown])
            text(MARGIN, y + tile / 2 - 28, name, size=10, weight="bold", va="center")
            text(MARGIN, y + tile / 2, attack.threat_model, size=8.5, va="center", color=style.MUTED)
            change = f"largest change {largest} of 255" if largest else "no change in these pictures"
            change = f"{change}, shown ×{factor}" if attack.triggered else LAID
            text(MARGIN, y + tile / 2 + 26, change, size=8, va="center", color=style.MUTED)
            for i in range(shown):
                shown_here = [pictures[0, i], pictures[1, i], *([amplified[i]] if attack.triggered else [])]
                for j, tile_picture in enumerate(shown_here):
                    x = MARGIN + label + i * (group + BETWEEN) + j * (tile + GAP)
                    _paste(canvas, tile_picture, x, y)
        figure.figimage(canvas, zorder=-1)


def enlarged(picture: np.ndarray) -> np.ndarray:
    """Enlarge a picture (height, width, 3) by an integer factor, chosen by its height, without smoothing."""
    by = _enlargement(picture.shape[0])
    return picture.repeat(by, axis=0).repeat(by, axis=1)


def _enlargement(side: int) -> int:
    return max(1, TILE // side)


def _paste(canvas: np.ndarray, picture: np.ndarray, x: int, y: int) -> None:
    large = enlarged(picture)
    canvas[y : y + large.shape[0], x : x + large.shape[1]] = large
