"""Cells brought down to one row per attack and defense: mean and spread over seeds, gate, best defense."""

import pandas as pd

from antidote.summary.plan import SummarySettings

ASR = "asr1"
FIGURES = ["ca1", ASR, "score"]  # score: ASR@1, or what stands in its place for an attack that has none
COLUMNS = [
    *("attack", "defense", "score"),
    *(f"{figure}_{what}" for figure in FIGURES for what in ("mean", "std", "n", "low", "high")),
    *("floor_mean", "gate", "gate_reason", "best", "reconstruction", "note"),
]


def summarise(cells: pd.DataFrame, plan: SummarySettings) -> pd.DataFrame:
    """Return the table: rates as fractions, std over seeds (n - 1), interval ends averaged over seeds.

    `score` names the figure that the attack is judged by: ASR@1, or one of its own. `gate` is `passed`, `failed` or
    `not measured`, with its reason; `best` and `reconstruction` are `yes` or empty; `note` says why a cell is empty or
    rests on fewer seeds than planned.
    """
    matrix = [("clean", "none")] + [(a.name, d.name) for a in plan.attacks for d in plan.defenses]
    groups = dict(tuple(cells.groupby(["attack", "defense"])))
    table = pd.DataFrame([_row(groups[cell], cell, plan) for cell in matrix])
    for attack in plan.attacks:
        mine = table["attack"] == attack.name
        gate, reason = _gate(table[mine].iloc[0], plan)
        table.loc[mine, "gate"], table.loc[mine, "gate_reason"] = gate, reason
        table.loc[_best(table[mine], plan.accuracy_budget), "best"] = "yes"
    return table[COLUMNS]


def _row(cells: pd.DataFrame, cell: tuple[str, str], plan: SummarySettings) -> dict:
    score = next((attack.score for attack in plan.attacks if attack.name == cell[0]), ASR)
    row = {"attack": cell[0], "defense": cell[1], "score": score, "gate": "", "gate_reason": "", "best": ""}
    unmeasured = pd.Series(float("nan"), cells.index)
    for figure in FIGURES:
        column = score if figure == "score" else figure
        rates = cells.get(column, unmeasured)
        row |= {f"{figure}_mean": rates.mean(), f"{figure}_std": rates.std(), f"{figure}_n": int(rates.count())}
        row |= {f"{figure}_{end}": cells.get(f"{column}_{end}", unmeasured).mean() for end in ("low", "high")}
    row["floor_mean"] = cells["floor"].mean()
    row["reconstruction"] = "yes" if any(d.reconstruction for d in plan.defenses if d.name == cell[1]) else ""
    return {**row, "note": _note(row["ca1_n"], len(plan.seeds), plan.reasons.get(cell))}


def _note(run: int, planned: int, reason: str | None) -> str:
    if reason is not None:
        return f"not applicable: {reason}"
    if run == 0:
        return "not run"
    return f"{run} of {planned} seeds" if run < planned else ""


def _gate(undefended: pd.Series, plan: SummarySettings) -> tuple[str, str]:
    """Return whether an attack has taken, and the numbers that say so."""
    asr, floor, gate = undefended["score_mean"], undefended["floor_mean"], plan.gate
    score, reasons = score_name(undefended["score"]), []
    alone = "its trigger alone" if undefended["score"] == ASR else f"{score} without the attack"
    if asr < gate.asr:
        reasons.append(f"{score} without a defense is {percent(asr)} %, below the gate of {100 * gate.asr:g} %")
    if floor > gate.floor:
        reasons.append(f"{alone} reaches {percent(floor)} % on the clean model, above {100 * gate.floor:g} %")
    if reasons:
        return "failed", "; ".join(reasons)
    missing = [name for name, rate in ((f"{score} without a defense", asr), ("the floor", floor)) if pd.isna(rate)]
    if missing:
        return "not measured", f"{' and '.join(missing)} not measured"
    return "passed", f"{score} without a defense {percent(asr)} %, floor {percent(floor)} %"


def _best(rows: pd.DataFrame, budget: float) -> list[int]:
    """Return the index of the lowest score (every one of a tie) below the undefended one and within the budget."""
    none = rows.iloc[0]
    kept = rows["ca1_mean"] >= none["ca1_mean"] - budget - 1e-9
    better = rows["score_mean"] < none["score_mean"]
    asr = rows.loc[kept & better, "score_mean"]
    return list(asr.index[asr == asr.min()])


def score_name(score: str) -> str:
    """Return the name of a score as a reader knows it; that of an attack's own figure is its column's."""
    return "ASR@1" if score == ASR else score


def percent(rate: float) -> str:
    """Return a fraction as a percentage with one decimal; nothing for what was not measured."""
    return "" if pd.isna(rate) else f"{100 * rate:.1f}"
