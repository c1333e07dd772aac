"""CSV files that are the same bytes for the same numbers, on every machine and with every version of pandas."""

import csv
import math
from pathlib import Path
from typing import Any

import pandas as pd


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame: nine significant digits, whole numbers without a point, nothing where nothing was measured."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(frame.columns)
        for row in frame.astype(object).itertuples(index=False):
            writer.writerow([text(value) for value in row])


def text(value: Any) -> str:
    """Return one value as it stands in a CSV file."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, str):
        return value
    if float(value).is_integer():
        return str(int(value))
    return f"{value:.9g}"
