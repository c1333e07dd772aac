"""The figures of a relation as a finished study measured them: by seed, at the settings of defenses that count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from antidote.study.layout import NO_DEFENSE
from antidote.summary.accuracy import Portion, Shifts, at_losses, one_setting
from antidote.summary.finished import Finished
from antidote.summary.relations import CONTROLS, DETECTED, PERSISTED, VISIBLE, Term

# By what terms ask of a defense: its entries from weak to strong, and the attacks on which it is measured.
Sweeps = dict[tuple, tuple[list[str], list[str]]]
Ends = tuple[float, float]


class Missing(Exception):
    """A figure that the study did not measure, with the reason."""


@dataclass(frozen=True)
class Measured:
    """A term as a study measured it.

    Attributes:
        values: by seed, in percentage points; PSNR in dB, SSIM as it is.
        attacks, entries: names of the cells; each value is a mean over the attacks.
        beyond: entries of a defense that is outside the study's accuracy budget, or loses more than it is compared at.
    """

    term: Term
    values: pd.Series
    attacks: list[str]
    entries: list[str]
    beyond: list[str]


def sweeps(terms: Iterable[Term], done: Finished, gated: bool) -> Sweeps:
    """Return the entries of each defense, from weak to strong, and its attacks, by what the terms ask of the defense.

    The first sweep of a method counts before its single entries, and of these the one of the method's name.
    """
    found: Sweeps = {}
    for term in terms:
        if term.word("attack") is None or term.defense == NO_DEFENSE:
            continue
        fitting = _fitting(term, done)
        first = next((done.swept[name] for name in fitting if done.swept.get(name)), None)
        entries = [n for n in fitting if done.swept.get(n) == first] if first else [_preferred(term.defense, fitting)]
        _, attacks = found.setdefault(_conditions(term), (entries, []))
        attacks += [name for name in _attacks(term, done, gated) if name not in attacks]
    return found


def _common(used: Sweeps, done: Finished) -> dict[tuple, str]:
    """Return the one entry of each swept defense that is measured on several attacks."""
    several = {
        key: one_setting(done, entries, attacks)
        for key, (entries, attacks) in used.items()
        if len(attacks) > 1 and done.swept.get(entries[0])
    }
    return {key: entry for key, entry in several.items() if entry is not None}


def _conditions(term: Term) -> tuple:
    """Return what a term asks of its defense."""
    return (term.defense, *(c for c in term.conditions if c.key.startswith("defense.")))


def _fitting(term: Term, done: Finished) -> list[str]:
    """Return the entries of a term's defense, from weak to strong.

    Raises:
        Missing: the study has none.
    """
    found = [n for n, s in done.study.defenses.items() if s.method == term.defense and _fits(term, "defense", s)]
    if not found:
        raise Missing(f"no entry of the defense {term.defense}")
    return found


def measure(
    terms: Iterable[Term],
    done: Finished,
    gated: bool,
    used: Sweeps,
    seeds: list[int],
    losses: Ends | None = None,
    shifts: Shifts | None = None,
) -> list[Measured]:
    """Return the figures of terms.

    Args:
        used: entries and attacks of each defense (`sweeps`).
        seeds: of the figures at equal loss.
        losses: of CA@1 in percentage points, between which defenses are compared, means over `seeds`; None: no defenses
            are compared at equal loss.
        shifts: added to the losses of some defenses, by the keys of `used`.

    Raises:
        Missing: the study did not measure a figure.
    """
    equal = {} if losses is None else at_losses(done, used, seeds, losses, shifts)
    common = _common(used, done) if losses is None else {}
    found = []
    for term in terms:
        portion = equal.get(_conditions(term)) if term.word("attack") is not None else None
        found.append(
            _measured(term, done, gated, common) if portion is None else _blended(term, done, gated, portion, seeds)
        )
    return found


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
    return Measured(term, _mean(frames, term, attacks), attacks, entries, beyond)


def _blended(term: Term, done: Finished, gated: bool, portion: Portion, seeds: list[int]) -> Measured:
    """Return a term's figure by seed as a mean over its attacks and the entries that count, weighted by their shares.

    Raises:
        Missing: the study did not measure the figure.
    """
    attacks, entries = _attacks(term, done, gated), list(portion.shares)
    frames = [
        sum(share * _column(term, done, attack, entry) for entry, share in portion.shares.items()) for attack in attacks
    ]
    values = _mean(frames, term, attacks)
    return Measured(
        term,
        values[values.index.isin(seeds)],
        attacks,
        entries,
        entries if portion.exceeds else [],
    )


def _mean(frames: list[pd.Series], term: Term, attacks: list[str]) -> pd.Series:
    """Return the mean over attacks by seed, in percent; PSNR in dB, SSIM as it is.

    Raises:
        Missing: no seed has all of them.
    """
    found = pd.concat(frames, axis=1).dropna()
    if found.empty:
        raise Missing(f"{term.figure} of {term.defense} on {', '.join(attacks)} was not run")
    return found.mean(axis=1) * (1 if term.figure in VISIBLE else 100)


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
        why = "does not pass the gate" if run else _absent(done, fitting, NO_DEFENSE)
        raise Missing(f"the attack {wanted} {why}")
    if wanted == "*":
        return passed if gated else fitting
    return [_preferred(wanted, passed or fitting)]


def _entry(term: Term, done: Finished, attack: str) -> str:
    """Return the entry of a defense, for a sweep the picked one."""
    fitting = _fitting(term, done)
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
    return all(_equal(getattr(settings, c.key.partition(".")[2], None), c.word) == c.equal for c in wanted)


def _equal(value: object, word: str) -> bool:
    """Return whether a setting has the value of a word; numbers are compared as numbers, 0 equals 0.0."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value) == float(word)
        except ValueError:
            return False
    return str(value) == word


def _column(term: Term, done: Finished, attack: str, defense: str) -> pd.Series:
    """Return one figure of one cell by seed, as it is in its table."""
    frame = done.cells
    if term.figure in DETECTED:
        frame = _table(done.detections, "detections")
        method, known = term.word("detector"), done.study.detectors.items()
        wanted = [name for name, own in known if own.method == method and _fits(term, "detector", own)]
        if not wanted:
            raise Missing(f"no entry of the detector {method}")
        frame = frame[frame["detector"] == wanted[0]]
    name = term.figure
    if name in (*PERSISTED, *CONTROLS):
        frame = _table(done.persistence, "persistence")
        wanted, model = term.word("adaptation"), "clean" if name in CONTROLS else "backdoored"
        name = name.removesuffix("_control")
        frame = frame[(frame["model"] == model) & ((frame["adaptation"] == wanted) if wanted else True)]
    mine = frame[(frame["attack"] == attack) & (frame["defense"] == defense)]
    if name not in mine or mine[name].isna().all():
        why = _without_score(mine) or _absent(done, [attack], defense)
        raise Missing(f"{term.figure} of {defense} on {attack} {why}")
    mine = mine[pd.to_numeric(mine["seed"], errors="coerce").notna()]  # a detector of models has one row for all seeds
    if mine.empty:
        raise Missing(f"{term.figure} of {defense} on {attack} has no value by seed")
    values = pd.to_numeric(mine[name]).groupby(mine["seed"].astype(int))
    return values.max() if name in PERSISTED else values.mean()  # of several adaptations, the worst of each seed


def _absent(done: Finished, attacks: Iterable[str], defense: str) -> str:
    """Return why there is no figure of a defense on some attacks."""
    return "is disputed" if any((attack, defense) in done.disputed for attack in attacks) else "was not run"


def _table(frame: pd.DataFrame | None, name: str) -> pd.DataFrame:
    if frame is None:
        raise Missing(f"the study measures no {name}")
    return frame


def _without_score(mine: pd.DataFrame) -> str:
    """Return how many models have no score, for which a cell of a detector of models has no AUROC; empty: none."""
    over = mine[mine["unscored"] > 0] if "unscored" in mine else mine[:0]
    if over.empty:
        return ""
    models, unscored = (int(over.iloc[0][name]) for name in ("items", "unscored"))
    return f"has no value: {unscored} of {models} models {'has' if unscored == 1 else 'have'} no score"
