"""Whether a relation of figures holds in a finished study: by a t interval over seeds, or by the noise floor.

A stronger setting of a defense leaves a lower ASR@1 for more clean accuracy. At matched accuracy, therefore:

- two defenses are compared only where at least one of them was swept;
- several attacks under one swept defense, also in a mean over attacks, count at one setting, the strongest within the
  budget on all of them: whoever defends does not know the attack;
- a defense beyond the accuracy budget would leave more at a weaker setting: the study can show that even beyond the
  budget it leaves too much, not that it leaves little;
- what a defense costs in clean accuracy, against the undefended model, is decided within the budget or beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from antidote.base.errors import UserError
from antidote.base.settings import read_mapping
from antidote.study.layout import DETECTIONS, NO_DEFENSE, PERSISTENCE, Layout
from antidote.study.study import Study
from antidote.study.tracks import Noise, tracks
from antidote.summary.csv_files import read_table
from antidote.summary.relations import CONTROLS, DETECTED, PERSISTED, VISIBLE, Relation, Term

HOLDS, FAILS, UNDECIDED, UNMEASURED = "holds", "does not hold", "undecided", "not measured"
UNTESTABLE = "cannot be tested"
LEFT = ("delivered", "worst", "area")  # like ASR, lower at a stronger setting of a defense
CONFIDENCE = 0.95
ENOUGH = 3  # seeds from which a spread is taken as it is


@dataclass
class Finished:
    """A finished study: its settings by entry, and the tables of its summary."""

    study: Study
    cells: pd.DataFrame
    table: pd.DataFrame
    costs: pd.DataFrame
    detections: pd.DataFrame | None
    persistence: pd.DataFrame | None
    noise: Noise | None
    swept: dict[str, str] = field(default_factory=dict)

    @property
    def track(self) -> str:
        return str(self.study.file.track) if self.study.file.track else ""

    @classmethod
    def read(cls, file: Path, results: Path) -> Finished:
        """Read a study file and the summary of the study.

        Raises:
            UserError: the study is not valid, names no track, has no summary, or one of other entries or seeds.
        """
        study = Study(read_mapping(str(file)), str(file))
        if study.file.track is None:
            raise UserError(f"{file}: track: is missing; results are compared within a track")
        kept = Layout(results / study.name)
        folder, cells = kept.path("summary"), kept.path("summary", "cells")
        if not cells.is_file():
            raise UserError(f"{cells}: no such file; run {file} first")
        table = _frame(cells)
        _same_cells(study, table, cells, file)
        further = [folder / DETECTIONS["detections"], folder / PERSISTENCE["persistence"]]
        return cls(
            study,
            table,
            read_table(kept.path("summary", "table")),
            _frame(kept.path("summary", "costs")),
            *(_frame(path) if path.is_file() else None for path in further),
            noise=tracks()[study.file.track.name].noise,
            swept={entry.name: entry.sweep for entry in study.entries["defense"]},
        )


def _same_cells(study: Study, table: pd.DataFrame, path: Path, file: Path) -> None:
    """Refuse a summary that was made before entries or seeds of the study changed."""
    seeds = study.file.seeds
    wanted = {("clean", "none", seed) for seed in seeds}
    wanted |= {(attack, defense, seed) for attack in study.attacks for defense in study.defenses for seed in seeds}
    there = set(zip(table["attack"], table["defense"], table["seed"].astype(int), strict=True))
    if different := sorted(wanted ^ there):
        attack, defense, seed = different[0]
        where, other = (file, path) if different[0] in wanted else (path, file)
        raise UserError(
            f"{path}: is a summary of another state of {file}: {attack}, {defense}, seed {seed} is only in {where}, "
            f"not in {other}; run the study again, or name its seeds in the file"
        )


@dataclass(frozen=True)
class Verdict:
    """The verdict of one relation in one study; `difference` (left minus right) and `half` in percentage points."""

    word: str
    reason: str = ""
    difference: float | None = None
    half: float | None = None
    sides: tuple[str, ...] = ()
    seeds: int = 0
    decimals: int = 1


class Missing(Exception):
    """A figure that the study did not measure, with the reason."""


@dataclass(frozen=True)
class Measured:
    """A term as a study measured it.

    Attributes:
        values: by seed, in percentage points; PSNR in dB, SSIM as it is.
        attacks, entries: names of the cells; each value is a mean over them.
        beyond: entries of a defense that is outside the study's accuracy budget.
    """

    term: Term
    values: pd.Series
    attacks: list[str]
    entries: list[str]
    beyond: list[str]


def judge(relation: Relation, done: Finished, matched: bool, gated: bool = True) -> Verdict:
    """Return the verdict of a relation.

    Args:
        matched: compare at matched clean accuracy: a swept defense by its picked setting, and see this module's text.
        gated: only attacks that pass the gate count.
    """
    try:
        common = _common(relation, done, gated)
        found = [_measured(term, done, gated, common) for term in relation.terms if term.figure]
    except Missing as missing:
        return Verdict(UNMEASURED, str(missing))
    by_seed = pd.concat([one.values for one in found], axis=1, join="inner").dropna()
    if by_seed.empty:
        return Verdict(UNMEASURED, "no seed has all figures")
    constant = sum(term.sign * term.constant for term in relation.terms)
    total = constant + sum(one.term.sign * by_seed.iloc[:, i] for i, one in enumerate(found))
    variance = sum(_variance(one.term.figure, done.noise, len(one.attacks)) for one in found)
    mean, half = float(total.mean()), _half(total, variance, done.noise)
    decimals = max(VISIBLE.get(one.term.figure, 1) for one in found)
    sides = tuple(_side(one, by_seed.iloc[:, i].mean(), decimals) for i, one in enumerate(found))
    facts = {"difference": mean, "half": half, "sides": sides, "seeds": len(total), "decimals": decimals}
    down = 1 if relation.mark in ("<", "<=") else -1
    if _out_of_reach(found, by_seed.iloc[:, 0].mean(), mean, down):
        return Verdict(UNTESTABLE, "what it is compared with leaves less than the margin", **facts)
    if matched and _compares(found) and not any(done.swept.get(name) for one in found for name in one.entries):
        return Verdict(UNDECIDED, "no setting was swept, so the defenses are not at matched accuracy", **facts)
    if half is None:
        return Verdict(
            UNDECIDED, f"fewer than {ENOUGH} seeds, and the track states no noise floor of these figures", **facts
        )
    verdict = _decided(relation.mark, mean, half, facts)
    outside = _in_doubt(found, mean) if matched and verdict.word != UNDECIDED else []
    return Verdict(UNDECIDED, f"outside the accuracy budget: {', '.join(outside)}", **facts) if outside else verdict


def _side(one: Measured, mean: float, decimals: int) -> str:
    """Return a figure as text, with the attack's entry where the relation's name does not say it."""
    wanted = one.term.word("attack")
    entry = "" if wanted in (None, "*", one.attacks[0]) else f" of {one.attacks[0]}"
    return f"{one.term.figure}{entry} {mean:.{decimals}f}"


def _compares(found: list[Measured]) -> bool:
    """Return whether a relation is about two defenses or more."""
    return len({one.term.defense for one in found} - {NO_DEFENSE}) > 1


def _out_of_reach(found: list[Measured], first_mean: float, mean: float, down: int) -> bool:
    """Return whether no value of the first figure could fulfil the relation, since another figure is too low.

    Args:
        first_mean: mean of the first figure, over the seeds of `mean`.
        mean: mean of left minus right.
        down: 1 if the relation asks for a low value, otherwise -1.

    "52 points lower than after CleanCLIP" says nothing where CleanCLIP leaves 9.
    """
    first = found[0]
    if len(found) == 1 or first.term.figure in VISIBLE:
        return False
    at_best = 0.0 if down * first.term.sign > 0 else 100.0
    return down * (mean + first.term.sign * (at_best - first_mean)) > 0


def _in_doubt(found: list[Measured], mean: float) -> list[str]:
    """Return the entries beyond the budget that would, at a weaker setting, move a total away from its sign."""
    doubtful = []
    for one in found:
        if one.term.figure.startswith("ca"):
            against = _compares(found)
        elif one.term.figure.startswith("asr") or one.term.figure in LEFT:
            against = one.term.sign * mean < 0  # a weaker setting leaves more
        else:
            against = True
        doubtful += one.beyond if against else []
    return list(dict.fromkeys(doubtful))


def _decided(mark: str, mean: float, half: float, facts: dict) -> Verdict:
    """Return the verdict on the sign of a mean with an interval of `half` points on either side."""
    down = mean if mark in ("<", "<=") else -mean
    if down + half < 0 or (half == 0 and down == 0 and mark in ("<=", ">=")):
        return Verdict(HOLDS, **facts)
    if down - half > 0 or (half == 0 and down == 0):
        return Verdict(FAILS, **facts)
    return Verdict(UNDECIDED, "the difference is within the spread", **facts)


def _half(total: pd.Series, variance: float, noise: Noise | None) -> float | None:
    """Return half of the 95 % interval of the mean: over seeds; below `ENOUGH` not less than by the noise floor.

    None if neither is known. Two seeds that happen to agree would decide anything. The noise floor is itself estimated
    from a few seeds, hence Student's t.
    """
    from scipy.stats import t  # takes a second

    quantile, count = (1 + CONFIDENCE) / 2, len(total)
    spread = t.ppf(quantile, count - 1) * total.std() / math.sqrt(count) if count > 1 else math.nan
    floor = t.ppf(quantile, noise.seeds - 1) * math.sqrt(variance / count) if noise else math.nan
    if count >= ENOUGH:
        return float(spread)
    known = [half for half in (spread, floor) if not math.isnan(half)]
    return float(max(known)) if not math.isnan(floor) else None


def _variance(figure: str, noise: Noise | None, cells: int) -> float:
    """Return the variance of the mean of some cells by the noise floor; NaN without a noise floor of the figure."""
    known = noise.figures.get(figure) if noise else None
    return math.nan if known is None else known**2 / cells


def one_setting(done: Finished, entries: Sequence[str], attacks: Iterable[str]) -> str | None:
    """Return the entry of a sweep that counts for several attacks: the strongest within the budget on all of them.

    If none is, the one with the highest mean CA@1; None if no entry was measured.

    Args:
        entries: the entries of the sweep, from weak to strong.
    """
    rows = done.table[done.table["attack"].isin(list(attacks)) & done.table["defense"].isin(entries)]
    rows = rows[rows["ca1_mean"].notna()]
    if rows.empty:
        return None
    within = (rows["within"] == "yes").groupby(rows["defense"]).all()
    kept = [name for name in entries if within.get(name, False)]
    return kept[-1] if kept else str(rows.groupby("defense")["ca1_mean"].mean().idxmax())


def _common(relation: Relation, done: Finished, gated: bool) -> dict[tuple, str]:
    """Return the entry of each swept defense that a relation measures on several attacks, by the term's conditions."""
    attacks: dict[tuple, set[str]] = {}
    fitting: dict[tuple, list[str]] = {}
    for term in relation.terms:
        if term.figure and term.word("attack") is not None and term.defense != NO_DEFENSE:
            key = _conditions(term)
            attacks.setdefault(key, set()).update(_attacks(term, done, gated))
            sweeps = {n: done.swept.get(n) for n in _fitting(term, done)}
            first = next(filter(None, sweeps.values()), None)
            fitting[key] = [n for n, sweep in sweeps.items() if sweep and sweep == first]
    chosen = {key: one_setting(done, fitting[key], names) for key, names in attacks.items() if len(names) > 1}
    return {key: entry for key, entry in chosen.items() if entry is not None}


def _conditions(term: Term) -> tuple:
    """Return what a term asks of its defense."""
    return (term.defense, *(c for c in term.conditions if c.key.startswith("defense.")))


def _fitting(term: Term, done: Finished) -> list[str]:
    """Return the entries of a term's defense, from weak to strong."""
    return [n for n, s in done.study.defenses.items() if s.method == term.defense and _fits(term, "defense", s)]


def _measured(term: Term, done: Finished, gated: bool, common: Mapping[tuple, str]) -> Measured:
    """Return a term's figure by seed, a mean over its attacks.

    Args:
        common: entries of defenses by conditions, in place of the picked one of each attack.

    Raises:
        Missing: the study did not measure the figure.
    """
    attacks = _attacks(term, done, gated)
    frames, entries, beyond = [], [], []
    for attack in attacks:
        entry = common.get(_conditions(term)) or _entry(term, done, attack)
        frames.append(_column(term, done, attack, entry))
        entries.append(entry)
        row = done.table[(done.table["attack"] == attack) & (done.table["defense"] == entry)]
        if term.defense != NO_DEFENSE and attack != "clean" and (row.empty or row.iloc[0]["within"] != "yes"):
            beyond.append(entry)
    found = pd.concat(frames, axis=1).dropna()
    if found.empty:
        raise Missing(f"{term.figure} of {term.defense} on {', '.join(attacks)} was not run")
    values = found.mean(axis=1) * (1 if term.figure in VISIBLE else 100)
    return Measured(term, values, attacks, entries, beyond)


def _attacks(term: Term, done: Finished, gated: bool) -> list[str]:
    """Return the entries of a term's attack: all for `*`, otherwise one; the clean model without an attack."""
    wanted = term.word("attack")
    if wanted is None:
        return ["clean"]
    fitting = [
        name
        for name, settings in done.study.attacks.items()
        if wanted in ("*", settings.method) and _fits(term, "attack", settings)
    ]
    if not fitting:
        raise Missing(f"no entry of the attack {wanted}")
    gates = done.table.drop_duplicates("attack").set_index("attack")["gate"]
    passed = [name for name in fitting if gates.get(name) == "passed"]
    if gated and not passed:
        run = any(gates.get(name) == "failed" for name in fitting)
        raise Missing(f"the attack {wanted} {'does not pass the gate' if run else 'was not run'}")
    if wanted == "*":
        return passed if gated else fitting
    return [_preferred(wanted, passed or fitting)]


def _entry(term: Term, done: Finished, attack: str) -> str:
    """Return the entry of a defense, for a sweep the picked one."""
    fitting = _fitting(term, done)
    if not fitting:
        raise Missing(f"no entry of the defense {term.defense}")
    mine = done.table[(done.table["attack"] == attack) & done.table["defense"].isin(fitting)]
    picked = list(mine.loc[mine["picked"] == "yes", "defense"])
    single = [name for name in fitting if not done.swept.get(name)]
    return _preferred(term.defense, picked or single or fitting)


def _preferred(method: str, names: list[str]) -> str:
    """Return the entry with the method's own name, otherwise the first of the study."""
    return method if method in names else names[0]


def _fits(term: Term, kind: str, settings: object) -> bool:
    """Return whether an entry has the settings that a term asks for."""
    wanted = [c for c in term.conditions if c.key.startswith(f"{kind}.")]
    return all((str(getattr(settings, c.key.partition(".")[2], None)) == c.word) == c.equal for c in wanted)


def _column(term: Term, done: Finished, attack: str, defense: str) -> pd.Series:
    """Return one figure of one cell by seed, as it is in its table."""
    frame = done.cells
    if term.figure in DETECTED:
        frame = _table(done.detections, "detections")
        wanted = [n for n, s in done.study.detectors.items() if s.method == term.word("detector")]
        frame = frame[frame["detector"].isin(wanted[:1])]
    name = term.figure
    if name in (*PERSISTED, *CONTROLS):
        frame = _table(done.persistence, "persistence")
        wanted, model = term.word("adaptation"), "clean" if name in CONTROLS else "backdoored"
        name = name.removesuffix("_control")
        frame = frame[(frame["model"] == model) & ((frame["adaptation"] == wanted) if wanted else True)]
    mine = frame[(frame["attack"] == attack) & (frame["defense"] == defense)]
    if name not in mine or mine[name].isna().all():
        raise Missing(f"{term.figure} of {defense} on {attack} was not run")
    mine = mine[pd.to_numeric(mine["seed"], errors="coerce").notna()]  # a detector of models has one row for all seeds
    if mine.empty:
        raise Missing(f"{term.figure} of {defense} on {attack} has no value by seed")
    values = pd.to_numeric(mine[name]).groupby(mine["seed"].astype(int))
    return values.max() if name in PERSISTED else values.mean()  # of several adaptations, the worst of each seed


def _table(frame: pd.DataFrame | None, name: str) -> pd.DataFrame:
    if frame is None:
        raise Missing(f"the study measures no {name}")
    return frame


def _frame(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"attack": str, "defense": str}, keep_default_na=False, na_values=[""])
