"""The table's means as nested numbers, the form in which DVC reads and compares metrics."""

import pandas as pd

from antidote.summary.tables import ASR


def metrics(table: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Return {attack: {defense: {"ca1": ..., "asr1": ...}}}, fractions; what was not measured is left out.

    An attack that is judged by a figure of its own has that in the place of `asr1`.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in table.itertuples():
        rates = {"ca1": row.ca1_mean, ASR: row.asr1_mean, row.score: row.score_mean}
        known = {figure: float(f"{rate:.9g}") for figure, rate in rates.items() if not pd.isna(rate)}
        if known:
            found.setdefault(row.attack, {})[row.defense] = known
    return found
