"""Markdown tables for the documentation, from the summary of a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.evaluation.trajectory import revival_step
from antidote.study.layout import Layout
from antidote.summary.exchange import Curve
from antidote.summary.page import duration, size
from antidote.summary.persistence import BACKDOORED, CLEAN, FIGURES
from antidote.summary.plan import AdaptationFacts, AttackFacts, DefenseFacts, SummarySettings
from antidote.summary.tables import ASR, DISPUTED, percent, score_name, shown, spread
from antidote.summary.text import RECONSTRUCTION, attack_mark, blank_reasons, cell_text, escaped, marks, notes, picks

PERTURBATIONS = ("noise", "blur", "jitter", "flip")


def attacks(plan: SummarySettings, table: pd.DataFrame, cells: pd.DataFrame) -> str:
    """Return one row per attack on the undefended model: number of poisons, score, floor, visibility."""
    rows = [["attack", "entry", "threat model", "poisons", "score", "floor", "CA@1", "PSNR, dB", "SSIM"]]
    rows.append(["---"] * 3 + ["---:"] * 6)
    undefended = table[table["defense"] == "none"].set_index("attack", drop=False)
    reasons = blank_reasons(undefended)
    for attack in plan.attacks:
        row = undefended.loc[attack.name]
        mine = cells[(cells["attack"] == attack.name) & (cells["defense"] == "none")]
        floor = pd.to_numeric(mine["floor"], errors="coerce").std()
        score = spread(row["score_mean"], row["score_std"]) + (
            "" if row["score"] == "asr1" else f" ({score_name(row['score'])})"
        )
        score = _blank(row, reasons) or score
        seen = [_mean(mine, name, digits) for name, digits in (("psnr", 1), ("ssim", 3))]
        poisons = "all shots" if attack.poisons is None else str(attack.poisons)
        title = _name(attack) + attack_mark(row["gate"])
        rows.append([title, f"`{attack.name}`", attack.threat_model, poisons, score,
                     spread(row["floor_mean"], floor), spread(row["ca1_mean"], row["ca1_std"]), *seen])  # fmt: skip
    clean = spread(*table.loc[table["attack"] == "clean", ["ca1_mean", "ca1_std"]].iloc[0])
    head = f"Clean reference: CA@1 {clean}. Rates in percent; the score is ASR@1 where nothing else is said.\n\n"
    return head + _markdown(rows) + _notes(table[table["defense"] == "none"])


def resistance(plan: SummarySettings, table: pd.DataFrame, cells: pd.DataFrame, folder: Path) -> str:
    """Return one row per attack and model: resistance of picture features to the trigger and other perturbations.

    Raises:
        UserError: the study did not measure perturbation resistance.
    """
    if "resistance_noise" not in cells:
        raise UserError(
            f"{folder / 'cells.csv'}: has no perturbation resistance; the study needs evaluation.resistance"
        )
    facts = {defense.name: defense for defense in plan.defenses}
    clean = [_mean(cells[cells["attack"] == "clean"], f"resistance_{name}", 3) for name in PERTURBATIONS]
    rows = [["attack", "model", "trigger", *PERTURBATIONS, "trigger, after each block"]]
    rows.append(["---"] * 2 + ["---:"] * (1 + len(PERTURBATIONS)) + ["---"])
    for attack in plan.attacks:
        mine, title = cells[cells["attack"] == attack.name], _name(attack)
        floor = _mean(mine, "floor_resistance", 3)
        rows.append([title, "clean reference", floor, *clean, _layers(plan, folder, attack.name, "floor")])
        for name in _shown(table, attack.name)["defense"]:
            found = mine[mine["defense"] == name]
            means = [_mean(found, f"resistance_{perturbation}", 3) for perturbation in ("trigger", *PERTURBATIONS)]
            if any(means):  # skip cells that were not run
                rows.append([title, _title(facts[name]), *means, _layers(plan, folder, attack.name, name)])
    return _markdown(rows) + "\n"


def _layers(plan: SummarySettings, folder: Path, attack: str, defense: str) -> str:
    """Return the trigger's resistance after each block, means over seeds; empty for models without class tokens."""
    kept, names = Layout(folder.parent), {"attack": attack, "defense": defense}
    stage = "floor" if defense == "floor" else "evaluate"
    paths = [kept.path(stage, "scores", **names, seed=seed) for seed in plan.seeds]
    found = [read_json(path).get("resistance_layers", {}).get("trigger", []) for path in paths if path.is_file()]
    return ", ".join(f"{sum(values) / len(values):.3f}" for values in zip(*found, strict=True))


def single(rows: list[dict[str, str]]) -> str:
    """Return one row per figure of a single attack."""
    lines = [["attack", "score", "figure", "value", "what it says"], ["---", "---:", "---", "---:", "---"]]
    lines += [[escaped(r["label"]), r["score"], f"`{r['figure']}`", r["value"], r["meaning"]] for r in rows]
    return _markdown(lines) + "\n"


def defenses(plan: SummarySettings, table: pd.DataFrame, cells: pd.DataFrame, costs: pd.DataFrame) -> str:
    """Return one table per attack, one row per defense: accuracy, attack success, also after adaptation, cost.

    For a sweep these tables show the picked setting; a further table shows all settings. An attack of which nothing was
    run has no table. The figure after adaptation is left out where the study measures none.
    """
    parts, absent = [], []
    adapted = table["worst_mean"].notna().any()
    facts = {defense.name: defense for defense in plan.defenses}
    for attack in plan.attacks:
        mine = _shown(table, attack.name)
        if not mine["ca1_n"].sum() and DISPUTED not in set(mine["note"]):
            absent.append(_name(attack))
            continue
        names = ["CA@1", "ASR@1", "PA", *(["worst"] if adapted else []), "time", "memory", "trained", "pairs"]
        rows = [["defense", "access", *names], ["---"] * 2 + ["---:"] * len(names)]
        for _, row in mine.iterrows():
            defense = facts[row["defense"]]
            asr = _blank(row, blank_reasons(table)) or cell_text(row, "score", [])
            pa = _mean(cells[(cells["attack"] == attack.name) & (cells["defense"] == row["defense"])], "pa", 1, 100)
            name = _title(defense)
            rows.append([name, defense.access, cell_text(row, "ca1", []), f"**{asr}**" if row["best"] else asr, pa,
                         *([percent(row["worst_mean"])] if adapted else []),
                         *_cost(costs, attack.name, row["defense"])])  # fmt: skip
        floor = percent(mine.iloc[0]["floor_mean"])
        title = f"{_name(attack)}{attack_mark(mine.iloc[0]['gate'])}"
        parts += [f"### {title}", *([f"Floor {floor}."] if floor else []), _markdown(rows)]
    parts += [f"Not run: {', '.join(absent)}."] if absent else []
    meaning = "- PA: triggered pictures that still get their own class, in percent\n"
    meaning += "- worst: highest ASR@1 during the adaptations\n" if adapted else ""
    return "\n\n".join([*parts, *_sweeps(plan, table)]) + _notes(shown(table)) + meaning


def persistence(plan: SummarySettings, table: pd.DataFrame, curves: Mapping[tuple[str, str], list[Curve]]) -> str:
    """Return two tables per attack: figures by defense and adaptation with the control, and the rise of each seed.

    Empty if nothing was measured. For a sweep only the picked setting is shown.

    Args:
        table: one row per attack and defense, as `tables.summarise` returns it.
        curves: those of a cell, by attack and defense.
    """
    facts = {defense.name: defense for defense in plan.defenses}
    adapted = table[table["attack"].isin({attack for attack, _, _ in plan.adapted})]
    parts, absent, blank = [], [], False
    for attack in (attack for attack in plan.attacks if attack.name in set(adapted["attack"])):
        mine = _shown(adapted, attack.name)
        names = list(mine["defense"])
        found = {name: {(c.adaptation, c.model): c for c in curves.get((attack.name, name), [])} for name in names}
        planned = [(name, one) for name in names for one in plan.adaptations
                   if (attack.name, name, one.name) in plan.adapted]  # fmt: skip
        disputed = {name for name, _ in planned if DISPUTED in set(mine.loc[mine["defense"] == name, "note"])}
        if not any(found.values()) and not disputed:
            absent.append(_name(attack))
            continue
        lines = []
        for name, one in planned:
            under_test, control = (found[name].get((one.name, model)) for model in (BACKDOORED, CLEAN))
            kind = escaped(one.name + ("" if one.name == one.kind else f" ({one.kind})"))
            kind += _fewer(under_test, plan)
            own = [_figure(under_test, figure) for figure in FIGURES]
            own = ["disputed", *own[1:]] if name in disputed else own
            lines.append([_title(facts[name]), kind, *own, _revived(under_test, plan.revival_margin),
                          _figure(control, "worst") + _fewer(control, plan), _figure(control, "delta")])  # fmt: skip
            blank = blank or ("" in lines[-1] and name not in disputed)
        head = ["defense", "adaptation", *FIGURES, "revival step", "control: worst", "control: delta"]
        parts.append(f"### {_name(attack)}{attack_mark(mine.iloc[0]['gate'])}")
        parts += [] if attack.score == ASR else [f"Scored by `{attack.score}` in the place of ASR@1."]
        parts.append(_markdown([head, ["---"] * 2 + ["---:"] * (len(head) - 2), *lines]))
        parts += _by_seed(plan, facts, found, planned, disputed) if len(plan.seeds) > 1 else []
    if not parts:
        return ""
    parts += [f"Not measured: {', '.join(absent)}."] if absent else []
    last = [*_persistence_notes(plan, shown(adapted)), *(["empty: not measured, or no such control"] if blank else [])]
    return "\n\n".join([*parts, "\n".join(f"- {escaped(note)}" for note in last)]) + "\n"


def _by_seed(
    plan: SummarySettings,
    facts: dict[str, DefenseFacts],
    found: dict[str, dict[tuple[str, str], Curve]],
    planned: list[tuple[str, AdaptationFacts]],
    disputed: set[str],
) -> list[str]:
    """Return head and table of delivered and of the rise under each adaptation, seed by seed."""
    adaptations = [one.name for one in plan.adaptations if any(one is other for _, other in planned)]
    lines = [["defense", "delivered", *map(escaped, adaptations)], ["---", *["---:"] * (1 + len(adaptations))]]
    for name in dict.fromkeys(name for name, _ in planned):
        mine = [found[name].get((adaptation, BACKDOORED)) for adaptation in adaptations]
        delivered = next((text for text in (_seeds(curve, "delivered", plan.seeds) for curve in mine) if text), "")
        delivered = "disputed" if name in disputed else delivered
        lines.append([_title(facts[name]), delivered, *(_seeds(curve, "delta", plan.seeds) for curve in mine)])
    return [
        f"Delivered, and delta under each adaptation, by seed ({', '.join(map(str, plan.seeds))}):",
        _markdown(lines),
    ]


def _seeds(curve: Curve | None, name: str, seeds: list[int]) -> str:
    """Return the figure of each seed, `-` for a seed without it; empty without any."""
    figure = curve.figures.get(name) if curve else None
    if figure is None or not figure.seeds:
        return ""
    values = [figure.seeds.get(str(seed)) for seed in seeds]
    return " / ".join("-" if value is None else _points(name, value) for value in values)


def _fewer(curve: Curve | None, plan: SummarySettings) -> str:
    """Return the number of seeds behind a curve where it is fewer than planned."""
    return f" (n={curve.seeds})" if curve and curve.seeds < len(plan.seeds) else ""


def _figure(curve: Curve | None, name: str) -> str:
    """Return a figure of a curve, mean ± standard deviation over seeds, in percent; empty where it was not measured."""
    figure = curve.figures.get(name) if curve else None
    if figure is None:
        return ""
    return _points(name, figure.mean) + ("" if figure.std is None else f" ± {percent(figure.std)}")


def _points(name: str, value: float) -> str:
    """Return a fraction in percent; of `delta` with its sign."""
    return f"{100 * value:+z.1f}" if name == "delta" else percent(value)


def _revived(curve: Curve | None, margin: float) -> str:
    """Return the revival step of the mean over seeds, and in how many seeds the backdoor came back at any step."""
    if curve is None:
        return ""
    step = revival_step([point.step for point in curve.points], [point.score for point in curve.points], margin)
    text = "-" if step is None else str(step)
    first, highest = (curve.figures[name].seeds if name in curve.figures else {} for name in ("delivered", "worst"))
    came = [revival_step([0, 1], [first[seed], highest[seed]], margin) for seed in first if seed in highest]
    count = len(came) - came.count(None)
    return f"{text} ({count} of {len(came)})" if len(came) > 1 and count else text


def _persistence_notes(plan: SummarySettings, rows: pd.DataFrame) -> list[str]:
    """Return what the columns of the tables of persistence mean, and the footnotes of their marks."""
    several = len(plan.seeds) > 1
    rise = (
        f"{'a mean over seeds' if several else 'a rate'} more than {100 * plan.revival_margin:g} points above delivered"
    )
    return [
        "ASR@1 in percent while the model is adapted to clean pairs, delivered: before the first step",
        "worst: the highest afterwards; delta: worst minus delivered, in points; area: mean over steps",
        f"revival step: first measured step with {rise}; -: none",
        *(["(1 of 3): seeds that rise as much at any step; left out where none does"] if several else []),
        "control: the clean model under the same defense, with the same trigger and adaptation",
        *marks(rows),
        *(["±: standard deviation over seeds; n: seeds run, where fewer than planned"] if several else []),
        *picks(rows),
    ]


def _shown(table: pd.DataFrame, attack: str) -> pd.DataFrame:
    """Return the rows of an attack, of a sweep the picked setting alone."""
    return table[(table["attack"] == attack) & ((table["sweep"] == "") | (table["picked"] == "yes"))]


def _sweeps(plan: SummarySettings, table: pd.DataFrame) -> list[str]:
    """Return a table of all settings of each sweep, in the order of the study; empty without a sweep."""
    swept = [defense for defense in plan.defenses if defense.sweep]
    if not swept:
        return []
    cells = {(row["attack"], row["defense"]): row for _, row in table.iterrows()}
    rows = [["setting", *map(_name, plan.attacks)]]
    rows.append(["---", *("---:" for _ in plan.attacks)])
    for defense in swept:
        found = [_both(cells[attack.name, defense.name], blank_reasons(table)) for attack in plan.attacks]
        mark = f" {RECONSTRUCTION}" if defense.reconstruction else ""
        rows.append([escaped(f"{defense.label or defense.sweep}, {defense.setting}") + mark, *found])
    head = "CA@1 / ASR@1 in percent, settings from weak to strong; *: the one that the tables above show."
    return [f"### Every setting of the sweeps\n\n{head}\n\n{_markdown(rows)}"]


def _both(row: pd.Series, reasons: list[str]) -> str:
    """Return CA@1 and ASR@1 of a cell, starred if picked; for a blank, the number of its reason; else nothing."""
    if number := _blank(row, reasons):
        return number
    if pd.isna(row["ca1_mean"]):
        return ""
    return f"{cell_text(row, 'ca1', [])} / {cell_text(row, 'score', [])}" + (" \\*" if row["picked"] else "")


def _blank(row: pd.Series, reasons: list[str]) -> str:
    """Return the number of the reason why a cell is blank, in brackets; "" for another cell."""
    return f"[{reasons.index(row['note']) + 1}]" if row["note"] in reasons else ""


def _cost(costs: pd.DataFrame, attack: str, defense: str) -> list[str]:
    """Return mean seconds and largest memory, trained parameters and pairs of a defense's job over seeds."""
    mine = costs[(costs["stage"] == "defend") & (costs["attack"] == attack) & (costs["defense"] == defense)]
    if mine.empty:
        return [""] * 4
    numbers = {name: pd.to_numeric(mine[name], errors="coerce") for name in
               ("seconds", "peak_memory_bytes", "trained_parameters", "pairs")}  # fmt: skip
    whole = ["" if pd.isna(numbers[n].max()) else f"{int(numbers[n].max()):,}" for n in ("trained_parameters", "pairs")]
    return [duration(numbers["seconds"].mean()), size(numbers["peak_memory_bytes"].max()), *whole]


def _name(attack: AttackFacts) -> str:
    """Return an attack's display name, escaped for Markdown."""
    return escaped(attack.label or attack.name)


def _title(defense: DefenseFacts) -> str:
    """Return a defense's display name, escaped: with the setting in a sweep, and with a mark for a reconstruction."""
    setting = f", {defense.setting}" if defense.setting else ""
    return escaped((defense.label or defense.name) + setting) + (f" {RECONSTRUCTION}" if defense.reconstruction else "")


def _mean(cells: pd.DataFrame, column: str, digits: int, factor: float = 1) -> str:
    values = pd.to_numeric(cells[column], errors="coerce") if column in cells else pd.Series(dtype=float)
    return "" if values.isna().all() else f"{factor * values.mean():.{digits}f}"


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _notes(table: pd.DataFrame) -> str:
    return "\n\n" + "\n".join(f"- {escaped(note)}" for note in notes(table, "bold")) + "\n"
