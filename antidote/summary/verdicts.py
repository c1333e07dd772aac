"""Whether a relation of figures holds in a finished study: by a t interval over seeds, or by the noise floor."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from antidote.base.errors import UserError
from antidote.base.settings import read_mapping
from antidote.study.layout import DETECTIONS, PERSISTENCE, Layout
from antidote.study.study import Study
from antidote.study.tracks import Noise, tracks
from antidote.summary.csv_files import read_table
from antidote.summary.relations import DETECTED, PERSISTED, VISIBLE, Relation, Term

HOLDS, FAILS, UNDECIDED, UNMEASURED = "holds", "does not hold", "undecided", "not measured"
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
    """The verdict of one relation in one study; `left` and `half` in percentage points."""

    word: str
    reason: str = ""
    difference: float | None = None
    half: float | None = None
    sides: tuple[str, ...] = ()


class Missing(Exception):
    """A figure that the study did not measure, with the reason."""


def judge(relation: Relation, done: Finished, matched: bool, gated: bool = True) -> Verdict:
    """Return the verdict of a relation.

    Args:
        matched: compare at matched clean accuracy: a swept defense by its picked setting; a defense outside the
            study's accuracy budget leaves the relation undecided.
        gated: only attacks that pass the gate count.
    """
    total, sides, variance, outside = pd.Series(0.0, index=done.study.file.seeds), [], 0.0, []
    constant = sum(term.sign * term.constant for term in relation.terms)
    try:
        for term in (term for term in relation.terms if term.figure):
            values, cells, beyond = _values(term, done, gated)
            total = total.add(term.sign * values).dropna()
            sides.append(f"{term.figure} {values.mean():.1f}")
            outside += beyond if matched else []
            variance += _variance(term.figure, done.noise, cells)
    except Missing as missing:
        return Verdict(UNMEASURED, str(missing))
    if total.empty:
        return Verdict(UNMEASURED, "no seed has all figures")
    total = total + constant
    mean, half = float(total.mean()), _half(total, variance)
    found = {"difference": mean, "half": half, "sides": tuple(sides)}
    if outside:
        names = ", ".join(dict.fromkeys(outside))
        return Verdict(UNDECIDED, f"outside the accuracy budget: {names}", **found)
    if half is None:
        return Verdict(
            UNDECIDED, f"fewer than {ENOUGH} seeds, and the track states no noise floor of these figures", **found
        )
    return _decided(relation.mark, mean, half, found)


def _decided(mark: str, mean: float, half: float, found: dict) -> Verdict:
    """Return the verdict on the sign of a mean with an interval of `half` points on either side."""
    down = mean if mark in ("<", "<=") else -mean
    if down + half < 0 or (half == 0 and down == 0 and mark in ("<=", ">=")):
        return Verdict(HOLDS, **found)
    if down - half > 0 or (half == 0 and down == 0):
        return Verdict(FAILS, **found)
    return Verdict(UNDECIDED, "the difference is within the spread", **found)


def _half(total: pd.Series, variance: float) -> float | None:
    """Return half of the 95 % interval of the mean: over seeds; below `ENOUGH` not less than by the noise floor.

    None if neither is known. Two seeds that happen to agree would decide anything.
    """
    from scipy.stats import norm, t  # takes a second

    quantile, count = (1 + CONFIDENCE) / 2, len(total)
    spread = t.ppf(quantile, count - 1) * total.std() / math.sqrt(count) if count > 1 else math.nan
    floor = norm.ppf(quantile) * math.sqrt(variance / count)
    if count >= ENOUGH:
        return float(spread)
    known = [half for half in (spread, floor) if not math.isnan(half)]
    return float(max(known)) if not math.isnan(floor) else None


def _variance(figure: str, noise: Noise | None, cells: int) -> float:
    """Return the variance of the mean of some cells by the noise floor; NaN without a noise floor of the figure."""
    known = noise.figures.get(figure) if noise else None
    return math.nan if known is None else known**2 / cells


def _values(term: Term, done: Finished, gated: bool) -> tuple[pd.Series, int, list[str]]:
    """Return a term's figure by seed, in percentage points, the number of cells, and entries beyond the budget."""
    attacks = _attacks(term, done, gated)
    defense = term.word("defense") or "none"
    frames, beyond = [], []
    for attack in attacks:
        entry = _entry(term, done, defense, attack)
        frames.append(_column(term, done, attack, entry))
        row = done.table[(done.table["attack"] == attack) & (done.table["defense"] == entry)]
        if defense != "none" and attack != "clean" and (row.empty or row.iloc[0]["within"] != "yes"):
            beyond.append(entry)
    found = pd.concat(frames, axis=1).dropna()
    if found.empty:
        raise Missing(f"{term.figure} of {defense} on {', '.join(attacks)} was not run")
    return found.mean(axis=1) * (1 if term.figure in VISIBLE else 100), len(attacks), beyond


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
    taken = [name for name in fitting if not gated or gates.get(name) == "passed"]
    if not taken:
        run = any(gates.get(name) == "failed" for name in fitting)
        raise Missing(f"the attack {wanted} {'does not pass the gate' if run else 'was not run'}")
    return taken if wanted == "*" else [_preferred(wanted, taken)]


def _entry(term: Term, done: Finished, method: str, attack: str) -> str:
    """Return the entry of a defense, for a sweep the picked one."""
    fitting = [n for n, s in done.study.defenses.items() if s.method == method and _fits(term, "defense", s)]
    if not fitting:
        raise Missing(f"no entry of the defense {method}")
    mine = done.table[(done.table["attack"] == attack) & done.table["defense"].isin(fitting)]
    picked = list(mine.loc[mine["picked"] == "yes", "defense"])
    single = [name for name in fitting if not done.swept.get(name)]
    return _preferred(method, picked or single or fitting)


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
    if term.figure in PERSISTED:
        frame = _table(done.persistence, "persistence")
        wanted = term.word("adaptation")
        frame = frame[(frame["model"] == "backdoored") & ((frame["adaptation"] == wanted) if wanted else True)]
    mine = frame[(frame["attack"] == attack) & (frame["defense"] == defense)]
    if term.figure not in mine or mine[term.figure].isna().all():
        raise Missing(f"{term.figure} of {defense} on {attack} was not run")
    mine = mine[pd.to_numeric(mine["seed"], errors="coerce").notna()]  # a detector of models has one row for all seeds
    if mine.empty:
        raise Missing(f"{term.figure} of {defense} on {attack} has no value by seed")
    values = pd.to_numeric(mine[term.figure]).groupby(mine["seed"].astype(int))
    return values.max() if term.figure in PERSISTED else values.mean()


def _table(frame: pd.DataFrame | None, name: str) -> pd.DataFrame:
    if frame is None:
        raise Missing(f"the study measures no {name}")
    return frame


def _frame(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"attack": str, "defense": str}, keep_default_na=False, na_values=[""])
