"""Figures of single attacks. The tables of all attacks have no column for these figures."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd

from antidote.base.files import read_json
from antidote.study.layout import Layout
from antidote.summary.plan import SummarySettings
from antidote.summary.tables import ASR, percent, score_name


def figures(plan: SummarySettings, cells: pd.DataFrame, results: Path) -> list[dict[str, str]]:
    """Return `attack`, `label`, `score`, `figure`, `value` and `meaning` of each measured figure, undefended.

    Values are means over seeds: rates in percent, others with three decimals. Figures that are not a column of the
    cells are read from the trigger's facts; `results` is the study's folder.
    """
    rows = []
    for attack in plan.attacks:
        mine = cells[(cells["attack"] == attack.name) & (cells["defense"] == "none")]
        paths = [Layout(results).path("trigger", "description", attack=attack.name, seed=seed) for seed in plan.seeds]
        facts = pd.DataFrame([_facts(path) for path in paths])
        score = percent(pd.to_numeric(mine[attack.score], errors="coerce").mean()) if attack.score in mine else ""
        score += "" if attack.score == ASR else f" ({score_name(attack.score)})"
        for wanted in attack.figures:
            for frame in (mine, facts):
                names = [name for name in frame.columns if fnmatchcase(name, wanted.name)]
                values = {name: pd.to_numeric(frame[name], errors="coerce").mean() for name in names}
                known = {name: value for name, value in values.items() if pd.notna(value)}
                for name, value in known.items():
                    text = percent(value) if wanted.rate else f"{value:.3f}"
                    title = attack.label or attack.name
                    found = {"attack": attack.name, "label": title, "score": score, "figure": name}
                    rows.append({**found, "value": text, "meaning": wanted.meaning})
                if known:
                    break
    return rows


def _facts(path: Path) -> dict[str, Any]:
    return read_json(path).get("facts", {}) if path.is_file() else {}
