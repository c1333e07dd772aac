"""The means of the table as nested numbers, in the format of DVC metrics."""

import pandas as pd

from antidote.summary.tables import ASR


def metrics(table: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Return {attack: {defense: {"ca1": ..., "asr1": ...}}}, as fractions, without missing values.

    For an attack with its own score, the name of this score takes the place of `asr1`.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in table.itertuples():
        rates = {"ca1": row.ca1_mean, ASR: row.asr1_mean, row.score: row.score_mean}
        known = {figure: float(f"{rate:.9g}") for figure, rate in rates.items() if not pd.isna(rate)}
        if known:
            found.setdefault(row.attack, {})[row.defense] = known
    return found
