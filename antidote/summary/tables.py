"""Cells aggregated to one row per attack and defense: mean and spread over seeds, gate, best defense."""

from collections.abc import Collection

import pandas as pd

from antidote.study.layout import NO_DEFENSE
from antidote.summary.plan import DefenseFacts, SummarySettings

ASR = "asr1"
CONTROL = "oracle"  # access of a control; a control is not a defense
DISPUTED = "disputed: left out while the dispute is open"  # note of such a cell
ROUNDING = 1e-9  # tolerance, so that a mean exactly at the limit is within it
FIGURES = ["ca1", ASR, "score"]  # score: ASR@1, or the own figure of an attack without ASR
COLUMNS = [
    *("attack", "defense", "score"),
    *(f"{figure}_{what}" for figure in FIGURES for what in ("mean", "std", "n", "low", "high")),
    *(
        "floor_mean",
        "worst_mean",
        "gate",
        "gate_reason",
        "best",
        "reconstruction",
        "note",
        "sweep",
        "setting",
        "picked",
        "access",
        "within",
    ),
]


def summarise(cells: pd.DataFrame, plan: SummarySettings) -> pd.DataFrame:
    """Return the table: rates as fractions, std over seeds (n - 1), interval ends averaged over seeds.

    `score` is the name of the attack's success rate: ASR@1, or the attack's own figure. `gate` is `passed`, `failed` or
    `not measured`, with its reason. `best` and `reconstruction` are `yes` or empty. `note` gives the reason why a cell
    is empty or has fewer seeds than planned. `within` is `yes` if CA@1 is within the accuracy budget, over the
    seeds that the undefended model has as well. For a swept
    defense (`sweep`, `setting`) one row per attack is `picked`, by clean accuracy alone: the strongest setting within
    the budget, in the order of the study. A control (`access` oracle) is never `best`.
    """
    matrix = [("clean", "none")] + [(a.name, d.name) for a in plan.attacks for d in plan.defenses]
    groups = dict(tuple(cells.groupby(["attack", "defense"])))
    table = pd.DataFrame([_row(groups[cell], cell, plan) for cell in matrix])
    for attack in plan.attacks:
        mine = table["attack"] == attack.name
        gate, reason = _gate(table[mine].iloc[0], plan)
        table.loc[mine, "gate"], table.loc[mine, "gate_reason"] = gate, reason
        lost = table.loc[mine, "defense"].map(losses_by_defense(cells, attack.name))
        table.loc[lost.index[lost <= plan.accuracy_budget + ROUNDING], "within"] = "yes"
        for _, swept in table[mine & (table["sweep"] != "")].groupby("sweep", sort=False):
            table.loc[_picked(swept), "picked"] = "yes"
        compared = mine & ((table["sweep"] == "") | (table["picked"] == "yes")) & (table["access"] != CONTROL)
        table.loc[_best(table[compared]), "best"] = "yes"
    return table[COLUMNS]


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with one row per attack and defense; a swept defense has the picked setting and its own name."""
    rows = table[(table["sweep"] == "") | (table["picked"] == "yes")]
    swept = rows["sweep"] != ""
    return rows.assign(defense=rows["defense"].where(~swept, rows["sweep"])).reset_index(drop=True)


def with_disputes(table: pd.DataFrame, disputed: Collection[tuple[str, str]]) -> pd.DataFrame:
    """Return the table of a study from its results files, which says of disputed cells why they are empty.

    Args:
        table: one row per attack and defense, as `summarise` returns it.
        disputed: attack and defense of the cells that are left out.
    """
    found = [cell in disputed for cell in zip(table["attack"], table["defense"], strict=True)]
    table = table.assign(note=table["note"].mask(found, DISPUTED))
    attacks = {attack for attack, defense in disputed if defense == NO_DEFENSE}
    unknown = (table["gate"] == "not measured") & table["attack"].isin(attacks)
    return table.assign(gate_reason=table["gate_reason"].mask(unknown, "the cell without a defense is disputed"))


def losses_by_defense(cells: pd.DataFrame, attack: str) -> pd.Series:
    """Return by defense the loss of CA@1 against the undefended model, a fraction, as a mean over seeds that have both.

    A defense without any such seed has no value or NaN.
    """
    ca = cells[cells["attack"] == attack].pivot(index="seed", columns="defense", values="ca1")
    return ca.rsub(ca[NO_DEFENSE], axis=0).mean() if NO_DEFENSE in ca else pd.Series(dtype=float)


def _row(cells: pd.DataFrame, cell: tuple[str, str], plan: SummarySettings) -> dict:
    score = next((attack.score for attack in plan.attacks if attack.name == cell[0]), ASR)
    facts = next((d for d in plan.defenses if d.name == cell[1]), DefenseFacts(name=cell[1]))
    row = {"attack": cell[0], "defense": cell[1], "score": score, "gate": "", "gate_reason": "", "best": ""}
    row |= {"sweep": facts.sweep, "setting": facts.setting, "picked": "", "access": facts.access, "within": ""}
    unmeasured = pd.Series(float("nan"), cells.index)
    for figure in FIGURES:
        column = score if figure == "score" else figure
        rates = cells.get(column, unmeasured)
        row |= {f"{figure}_mean": rates.mean(), f"{figure}_std": rates.std(), f"{figure}_n": int(rates.count())}
        row |= {f"{figure}_{end}": cells.get(f"{column}_{end}", unmeasured).mean() for end in ("low", "high")}
    row["floor_mean"] = cells["floor"].mean()
    row["worst_mean"] = cells["worst"].mean() if "worst" in cells else float("nan")
    row["reconstruction"] = "yes" if facts.reconstruction else ""
    return {**row, "note": _note(row["ca1_n"], len(plan.seeds), plan.reasons.get(cell))}


def _note(run: int, planned: int, reason: str | None) -> str:
    if reason is not None:
        return f"not applicable: {reason}"
    if run == 0:
        return "not run"
    return f"{run} of {planned} seeds" if run < planned else ""


def _gate(undefended: pd.Series, plan: SummarySettings) -> tuple[str, str]:
    """Return whether an attack passes the gate, and the numbers behind the result.

    A trigger that is fitted on the clean model also works on the clean model, so the gate compares ASR@1 minus floor.
    """
    asr, floor, gate = undefended["score_mean"], undefended["floor_mean"], plan.gate
    score, reasons = score_name(undefended["score"]), []
    fitted = any(attack.fitted for attack in plan.attacks if attack.name == undefended["attack"])
    alone = "its trigger alone" if undefended["score"] == ASR else f"{score} without the attack"
    if fitted and asr - floor < gate.asr - ROUNDING:
        reasons.append(
            f"{score} without a defense is {percent(asr)} %, {percent(asr - floor)} points above the floor of a "
            f"trigger that is fitted on the clean model; the gate asks for {100 * gate.asr:g}"
        )
    if not fitted and asr < gate.asr - ROUNDING:
        reasons.append(f"{score} without a defense is {percent(asr)} %, below the gate of {100 * gate.asr:g} %")
    if not fitted and floor > gate.floor + ROUNDING:
        reasons.append(f"{alone} reaches {percent(floor)} % on the clean model, above {100 * gate.floor:g} %")
    if reasons:
        return "failed", "; ".join(reasons)
    missing = [name for name, rate in ((f"{score} without a defense", asr), ("the floor", floor)) if pd.isna(rate)]
    if missing:
        return "not measured", f"{' and '.join(missing)} not measured"
    return "passed", f"{score} without a defense {percent(asr)} %, floor {percent(floor)} %"


def _best(rows: pd.DataFrame) -> list[int]:
    """Return the indexes of the lowest score (all of a tie) below the undefended score and within the budget."""
    better = rows["score_mean"] < rows.iloc[0]["score_mean"]
    asr = rows.loc[(rows["within"] == "yes") & better, "score_mean"]
    return list(asr.index[asr == asr.min()])


def _picked(rows: pd.DataFrame) -> int:
    """Return the index of a sweep's last row within the budget; if no row is, of the row with the highest CA@1.

    The study lists the settings from weak to strong. CA@1 cannot replace this order, since CA@1 need not decrease with
    strength.
    """
    within = rows.index[rows["within"] == "yes"]
    if len(within):
        return within[-1]
    measured = rows["ca1_mean"].dropna()
    return rows.index[0] if measured.empty else measured.idxmax()


def score_name(score: str) -> str:
    """Return the display name of a score; for an attack's own figure, the name of the column."""
    return "ASR@1" if score == ASR else score


def percent(rate: float) -> str:
    """Return a fraction as a percentage with one decimal; empty for a missing value."""
    return "" if pd.isna(rate) else f"{100 * rate:.1f}"


def spread(mean: float, deviation: float) -> str:
    """Return mean ± standard deviation over seeds, fractions, in percent; without a deviation the mean alone."""
    return percent(mean) + ("" if pd.isna(deviation) else f" ± {percent(deviation)}")
