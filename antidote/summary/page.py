"""The report: one self-contained page that can be opened offline and sent to others."""

import base64
from pathlib import Path

import jinja2
import pandas as pd

from antidote.summary.cells import COLUMNS, INTERVALS
from antidote.summary.costs import STAGES
from antidote.summary.csv_files import text
from antidote.summary.labels import Labels
from antidote.summary.plan import SummarySettings
from antidote.summary.published import beside
from antidote.summary.tables import percent, shown
from antidote.summary.text import FAILED, RECONSTRUCTION, attack_title, blank_reasons, cell_text, notes

PLOTS = {
    "heatmap.png": "ASR@1 and CA@1 of every attack against every defense, mean over seeds. A frame marks the lowest "
    "ASR@1 within the accuracy budget, controls left out; hatched cells do not apply; empty cells were not run.",
    "plane.png": "What a defense gains (down) against what it costs (left). Lines start at the undefended model; one "
    "joins the settings of a sweep, of which the table shows the framed one; the dotted line is the floor; the tinted "
    "band is the accuracy budget; grey dots are the cells of the other attacks.",
    "gallery.png": "Pictures of the evaluation set without and with each trigger, and the amplified difference. "
    "Pixels are enlarged by whole factors, not smoothed. Without a trigger: what the captions say, and what is laid "
    "there.",
    "curves.png": "Training loss of every model, one line per attack and seed. Losses of different defenses are sums "
    "of different terms and compare only within a panel.",
}
PERSISTENCE_PLOTS = {
    "persistence.png": "ASR@1 while models are adapted to clean pairs, from the model as delivered (step 0) on: a "
    "backdoor that was hidden and not removed comes back. Dashed: the clean model under the same defense, with the "
    "same trigger.",
}
DETECTION_PLOTS = {
    "detection.png": "AUROC of every detector on every attack, mean over seeds. `random` and `oracle` are controls: no "
    "information, and the truth.",
    "roc.png": "ROC curves, means over seeds: true positives by false positives.",
}


def render(
    plan: SummarySettings,
    cells: pd.DataFrame,
    costs: pd.DataFrame,
    table: pd.DataFrame,
    pictures: tuple[int, int],
    triggers: list[dict],
    own: list[dict],
    folder: Path,
    detections: list[dict] | None = None,
    persistence: list[dict] | None = None,
    pending: list[dict] | None = None,
) -> str:
    """Return the page. `folder`: the plots; `triggers`: triggers that defenses found; `own`: attacks' own figures.

    `detections`: the tables of detectors, if the study has detectors; `persistence`: those of adaptations;
    `pending`: the jobs without a result; None leaves the section out.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    plots = {**PLOTS, **(DETECTION_PLOTS if detections is not None else {})}
    plots |= PERSISTENCE_PLOTS if persistence is not None else {}
    return environment.get_template("page.html.j2").render(
        plan=plan,
        pictures=pictures,
        labels=Labels.of(plan),
        access={defense.name: defense.access for defense in plan.defenses},
        pending=pending,
        triggers=triggers,
        own=own,
        detections=detections or [],
        persistence=persistence or [],
        heads=_heads(shown(table)),
        matrix=_matrix(shown(table)),
        notes=notes(shown(table), "frame"),
        attacks=_attacks(plan, table),
        published=beside(plan, table),
        reconstruction=RECONSTRUCTION,
        clean=_clean(table),
        cells=_cells(cells),
        stages=_stages(costs),
        defense_costs=_defense_costs(plan, costs),
        counts=_counts(table),
        blanks=_blanks(table),
        plots=[(name, caption, _data_uri(folder / name)) for name, caption in plots.items()],
    )


def _heads(table: pd.DataFrame) -> list[tuple[str, bool]]:
    """Return (name, is a reconstruction) of each defense column of the main table."""
    return [(row.defense, row.reconstruction == "yes") for row in table.drop_duplicates("defense").itertuples()
            if row.attack != "clean" or row.defense == "none"]  # fmt: skip


def _matrix(table: pd.DataFrame) -> list[dict]:
    """Return one row per attack for the main table; a cell holds ASR@1, CA@1, worst, share of the tint, best."""
    reasons, rows = blank_reasons(table), []
    for _, cells in table[table["attack"] != "clean"].groupby("attack", sort=False):
        found = []
        for _, cell in cells.iterrows():
            share = "" if pd.isna(cell["score_mean"]) else f"{cell['score_mean']:.3f}"
            asr, ca = (cell_text(cell, figure, reasons) for figure in ("score", "ca1"))
            ca = "" if cell["note"] in reasons else ca
            worst = percent(cell["worst_mean"])
            found.append({"asr": asr, "ca": ca, "share": share, "best": cell["best"] == "yes", "worst": worst})
        first = cells.iloc[0]
        mark = attack_title(first).removeprefix(first["attack"])
        floor = percent(first["floor_mean"])
        rows.append({"attack": first["attack"], "mark": mark, "floor": floor, "cells": found})
    return rows


def _attacks(plan: SummarySettings, table: pd.DataFrame) -> list[dict]:
    """Return the facts and the gate result of each attack."""
    firsts = table.drop_duplicates("attack").set_index("attack")
    verdicts = {"passed": "has taken", "failed": f"{FAILED} has not taken", "not measured": "not known"}
    rows = []
    for attack in plan.attacks:
        first = firsts.loc[attack.name]
        poisons = {"True": "yes", "False": "none", "None": ""}.get(str(attack.poisons), attack.poisons)
        verdict = {"verdict": verdicts[first["gate"]], "reason": first["gate_reason"]}
        rows.append({"facts": attack, "poisons": poisons, **verdict})
    return rows


def _clean(table: pd.DataFrame) -> str:
    return cell_text(table.iloc[0], "ca1", [])


def _cells(cells: pd.DataFrame) -> dict:
    """Return all non-empty columns: rates in percent, then intervals, then a method's own figures."""
    columns = {name: cells[name].map(text) for name in ("attack", "defense", "seed")}
    columns |= {head: cells[name].map(percent) for name, head in _RATES.items() if name in cells}
    for name in INTERVALS:
        low, high = cells[f"{name}_low"].map(percent), cells[f"{name}_high"].map(percent)
        columns[f"{_RATES[name]}, 95 %"] = (low + " to " + high).where(low != "", "")
    columns |= {name: cells[name].map(text) for name in cells.columns[len(COLUMNS) :] if name not in _RATES}
    shown = pd.DataFrame({name: values for name, values in columns.items() if (values != "").any()})
    return {"columns": list(shown.columns), "rows": shown.to_numpy().tolist()}


_RATES = {
    "ca1": "CA@1", "ca5": "CA@5", "asr1": "ASR@1", "asr3": "ASR@3", "asr5": "ASR@5", "asr10": "ASR@10",
    "asr1_all": "ASR_all@1", "asr3_all": "ASR_all@3", "asr5_all": "ASR_all@5", "asr10_all": "ASR_all@10",
    "pa": "PA", "pa_all": "PA_all", "floor": "floor", "target_ca1": "target CA@1", "worst": "worst",
}  # fmt: skip


def _stages(costs: pd.DataFrame) -> list[dict]:
    """Return number of jobs, seconds and peak memory per stage, and the total."""
    rows = []
    for stage in STAGES:
        mine = costs[costs["stage"] == stage]
        if len(mine):
            rows.append({"stage": stage, **_sums(mine)})
    return [*rows, {"stage": "total", **_sums(costs)}] if rows else []


def _sums(costs: pd.DataFrame) -> dict:
    seconds = costs["seconds"].dropna().astype(float)
    return {
        "jobs": len(costs),
        "total": duration(seconds.sum()),
        "longest": duration(seconds.max()),
        "memory": size(costs["peak_memory_bytes"].dropna().max()),
        "gpu": size(costs["peak_gpu_memory_bytes"].dropna().max()),
    }


def _defense_costs(plan: SummarySettings, costs: pd.DataFrame) -> list[dict]:
    """Return the cost of one run of each defense over attacks and seeds: mean seconds, maximum of other columns."""
    rows = []
    for defense in plan.defenses:
        mine = costs[(costs["stage"] == "defend") & (costs["defense"] == defense.name)]
        if len(mine):
            largest = {name: mine[name].dropna().max() for name in ("trained_parameters", "pairs", "steps")}
            row = {name: "" if pd.isna(value) else f"{int(value):,}" for name, value in largest.items()}
            seconds = mine["seconds"].dropna().astype(float)
            rows.append({"defense": defense, "seconds": duration(seconds.mean()), **row, **_sums(mine)})
    return rows


def _counts(table: pd.DataFrame) -> dict:
    """Return the numbers of cells of the matrix that were run, do not apply, or are missing."""
    matrix = table[table["attack"] != "clean"]
    blank = matrix["note"].str.startswith("not applicable").sum()
    missing = (matrix["note"] == "not run").sum()
    return {"planned": len(matrix), "run": len(matrix) - blank - missing, "blank": blank, "missing": missing}


def _blanks(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    noted = table[table["note"] != ""]
    return [(row.attack, row.defense, row.note) for row in noted.itertuples()]


def duration(seconds: float) -> str:
    """Return a duration in readable form: `4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if pd.isna(seconds):
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def size(count: float) -> str:
    """Return a number of bytes in MiB or GiB."""
    if pd.isna(count):
        return ""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
