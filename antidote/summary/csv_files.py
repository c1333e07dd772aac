"""Reproducible CSV files: equal numbers give equal bytes, on every machine and with every version of pandas."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from antidote.base.errors import UserError


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame: nine significant digits, whole numbers without a point, missing values as empty fields."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(frame.columns)
        for row in frame.astype(object).itertuples(index=False):
            writer.writerow([text(value) for value in row])


def text(value: Any) -> str:
    """Return one value in the notation of the CSV files."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if float(value).is_integer():
        return str(int(value))
    return f"{value:.9g}"


def read_frame(path: Path, needed: Sequence[str] = ("attack", "defense")) -> pd.DataFrame:
    """Read a CSV file of a summary; names are text (`NA` is a valid name of a defense), empty fields are missing.

    Args:
        needed: names of columns.

    Raises:
        UserError: the file cannot be read, or a column is missing.
    """
    names = dict.fromkeys(("attack", "defense", "detector", "adaptation"), str)
    try:
        frame = pd.read_csv(path, dtype=names, keep_default_na=False, na_values=[""])
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run the study first") from None
    except ValueError as error:
        raise UserError(f"{path}: is no table ({error}); run the summary again") from None
    if missing := [name for name in needed if name not in frame]:
        raise UserError(f"{path}: column {missing[0]} is missing; run the summary again")
    return frame


def read_table(path: Path) -> pd.DataFrame:
    """Read `table.csv`: numbers as floats, text unchanged (`NA` is a valid name of a defense, not a missing value).

    Raises:
        UserError: the file does not hold the table of a summary.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    missing = [
        name
        for name in (
            "attack",
            "defense",
            "score_mean",
            "ca1_n",
            "gate",
            "note",
            "sweep",
            "worst_mean",
            "access",
            "within",
        )
        if name not in table.columns
    ]
    if missing:
        raise UserError(f"{path}: column {missing[0]} is missing; run the summary again")
    numbers = [name for name in table.columns if name.endswith(("_mean", "_std", "_n", "_low", "_high"))]
    return table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in numbers})
