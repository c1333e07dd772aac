"""Whether a relation of figures holds in a finished study: by a t interval over seeds, or by the noise floor.

A stronger setting of a defense leaves a lower ASR@1 for more clean accuracy. At matched accuracy, therefore:

- two defenses are compared at equal loss of accuracy (`antidote.summary.accuracy`), and only where one was swept; the
  interval contains the spread of both figures, by the jackknife over seeds (Tukey 1958), with the losses at which the
  curves are compared found anew; with one or two seeds, by the noise floor of both figures;
- a defense that loses more than that at each setting would leave more at a weaker one: the study can show that even
  so it leaves too much, not that it leaves little;
- the accuracy of two defenses is not compared, since a swept one spends what its setting allows;
- several attacks under one swept defense, also in a mean over attacks, count at one setting, the strongest within the
  budget on all of them: whoever defends does not know the attack;
- a defense beyond the accuracy budget is judged as one that loses more than the others;
- what a defense costs in clean accuracy, against the undefended model, is decided within the budget or beyond it; a
  swept one costs too much only if its cheapest setting does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from antidote.study.layout import NO_DEFENSE
from antidote.study.tracks import Noise
from antidote.summary.accuracy import ROUNDING, Shifts, common_losses
from antidote.summary.finished import Finished
from antidote.summary.relations import VISIBLE, Relation, Term
from antidote.summary.terms import Ends, Measured, Missing, Sweeps, measure, sweeps

HOLDS, FAILS, UNDECIDED, UNMEASURED = "holds", "does not hold", "undecided", "not measured"
UNTESTABLE = "cannot be tested"
RISES = {"delta": "delivered", "delta_control": "delivered_control"}  # a rise, and what it starts from
LEFT = ("delivered", "worst", "area")  # like ASR, lower at a stronger setting of a defense
CONFIDENCE = 0.95
ENOUGH = 3  # seeds from which a spread is taken as it is
CHEAPEST = (-100.0, -100.0)  # losses of CA@1 that no setting has: the one that costs the least counts


@dataclass(frozen=True)
class Verdict:
    """The verdict of one relation in one study, in percentage points.

    Attributes:
        difference: left minus right.
        half: half of the 95 % interval.
        losses: of CA@1, between which two defenses are compared; None if they are not compared at equal loss.
        more: entries that lose more than that even at their weakest.
    """

    word: str
    reason: str = ""
    difference: float | None = None
    half: float | None = None
    losses: tuple[float, float] | None = None
    more: tuple[str, ...] = ()
    sides: tuple[str, ...] = ()
    seeds: int = 0
    decimals: int = 1


@dataclass(frozen=True)
class _Case:
    """The figures of a relation in one study.

    Attributes:
        found: the terms as measured.
        by_seed: (seeds, terms) the figures with their signs, on the seeds that have all of them.
        constant: sum of the relation's constants with their signs.
        losses: of CA@1, between which defenses are compared; None: they are not compared at equal loss.
        again: measures `by_seed` at equal loss, from some seeds, with the losses of some defenses shifted.
        defenses: keys of the defenses that are compared.
        reached: by position, the lowest and highest value that a rise after adaptation can have.
        noise: the noise floor; None: the track states none.
    """

    found: list[Measured]
    by_seed: pd.DataFrame
    constant: float
    losses: Ends | None
    again: Callable[[list[int], Shifts], pd.DataFrame]
    defenses: list[tuple]
    reached: dict[int, Ends]
    noise: Noise | None

    def interval(self, counted: Sequence[int]) -> tuple[float, float | None]:
        """Return the mean over seeds of the constant and some of the figures, and half of its interval (`_half`).

        Args:
            counted: positions of the figures that count.

        Raises:
            Missing: at equal loss, a figure was not measured on all seeds but one.
        """
        of = lambda frame: self.constant + frame.iloc[:, list(counted)].sum(axis=1)
        values, seeds = of(self.by_seed), list(self.by_seed.index)
        mean = float(values.mean())
        variance = sum(_variance(self.found[i].term.figure, self.noise, len(self.found[i].attacks)) for i in counted)
        if self.losses is not None:
            shifted = lambda some, shifts: float(of(self.again(some, shifts)).mean())
            values = _pseudo_values(mean, seeds, lambda some: shifted(some, {}))
            if len(seeds) < ENOUGH and not math.isnan(variance):
                variance += self._variance_of_losses(lambda shifts: shifted(seeds, shifts))
        return mean, _half(values, variance, self.noise)

    def _variance_of_losses(self, of: Callable[[Shifts], float]) -> float:
        """Return the variance of a mean at equal loss from the noise of CA@1, as if a defense's losses shift together.

        Args:
            of: the mean with shifted losses.
        """
        step = self.noise.figures.get("ca1", math.nan) if self.noise else math.nan
        if math.isnan(step):
            return math.nan
        return sum(((of({key: step}) - of({key: -step})) / 2) ** 2 for key in self.defenses)


def judge(relation: Relation, done: Finished, matched: bool, gated: bool = True) -> Verdict:
    """Return the verdict of a relation.

    Args:
        matched: compare at matched clean accuracy, see this module's text.
        gated: only attacks that pass the gate count.
    """
    terms = [term for term in relation.terms if term.figure]
    accuracy = any(term.figure.startswith("ca") for term in terms)
    try:
        used = sweeps(terms, done, gated)
        between = matched and len(used) > 1
        swept = any(done.swept.get(name) for entries, _ in used.values() for name in entries)
        case = _case(relation, done, gated, used, between and swept and not accuracy)
    except Missing as missing:
        return Verdict(UNMEASURED, str(missing))
    found, by_seed = case.found, case.by_seed
    if by_seed.empty:
        return Verdict(UNMEASURED, "no seed has all figures")
    decimals = max(VISIBLE.get(one.term.figure, 1) for one in found)
    sides = tuple(_side(one, one.term.sign * by_seed.iloc[:, i].mean(), decimals) for i, one in enumerate(found))
    mean = case.constant + float(by_seed.sum(axis=1).mean())
    facts = {"difference": mean, "half": None, "sides": sides, "seeds": len(by_seed), "decimals": decimals}
    if case.losses is not None:
        facts |= {"losses": case.losses, "more": tuple(dict.fromkeys(name for one in found for name in one.beyond))}
    try:
        facts["half"] = half = case.interval(range(len(found)))[1]
    except Missing as missing:
        return Verdict(UNDECIDED, f"the spread over seeds is not known: {missing}", **facts)
    if between and not swept:
        return Verdict(UNDECIDED, "no setting was swept, so the defenses are not at matched accuracy", **facts)
    if between and accuracy:
        return Verdict(UNTESTABLE, "a swept defense spends as much accuracy as its setting allows", **facts)
    if half is None:
        floor = "the track states no noise floor of " + ("this model" if done.noise is None else "these figures")
        return Verdict(UNDECIDED, f"fewer than {ENOUGH} seeds, and {floor}", **facts)
    verdict = _decided(relation.mark, mean, half, facts)
    if verdict.word == FAILS and accuracy and swept and not _decided_at_least_cost(relation, done, gated, used):
        return Verdict(UNTESTABLE, "a swept defense spends as much accuracy as its setting allows", **facts)
    if verdict.word != HOLDS and (missed := _out_of_reach(case, relation.mark)):
        return Verdict(*missed, **facts)  # what holds is within reach
    doubt = _in_doubt(found, mean) if matched and verdict.word != UNDECIDED else []
    why = "outside the accuracy budget" if case.losses is None else "loses more accuracy than the other"
    return Verdict(UNDECIDED, f"{why}: {', '.join(doubt)}", **facts) if doubt else verdict


def _decided_at_least_cost(relation: Relation, done: Finished, gated: bool, used: Sweeps) -> bool:
    """Return whether a relation fails also at the setting of a swept defense that costs the least accuracy."""
    case = _case(relation, done, gated, used, False, CHEAPEST)
    mean, half = case.interval(range(len(case.found)))
    return half is not None and _decided(relation.mark, mean, half, {}).word == FAILS


def _case(
    relation: Relation, done: Finished, gated: bool, used: Sweeps, equal: bool, ends: Ends | None = None
) -> _Case:
    """Return a relation's figures.

    Args:
        used: entries and attacks of each defense (`sweeps`).
        equal: compare defenses at equal loss of accuracy, if their accuracy was measured.
        ends: without `equal`, losses at which the settings of a defense are taken; None: the picked settings.

    Raises:
        Missing: the study did not measure a figure.
    """
    terms, seeds = [term for term in relation.terms if term.figure], list(done.study.file.seeds)
    losses = common_losses(done, used, seeds) if equal else None
    found = measure(terms, done, gated, used, seeds, ends or losses)
    by_seed = _together(found)
    if losses is not None and 0 < len(by_seed) < len(seeds):
        seeds = list(by_seed.index)
        losses = common_losses(done, used, seeds)
        found = measure(terms, done, gated, used, seeds, losses)
        by_seed = _together(found)
    reached = {}
    for i, one in enumerate(found):
        if one.term.figure in RISES:
            term = replace(one.term, figure=RISES[one.term.figure])
            left = float(measure([term], done, gated, used, seeds, losses)[0].values.mean())
            reached[i] = -left, 100 - left
    again = partial(_again, terms, done, gated, used)
    constant = sum(term.sign * term.constant for term in relation.terms)
    return _Case(found, by_seed, constant, losses, again, list(used), reached, done.noise)


def _again(
    terms: list[Term], done: Finished, gated: bool, used: Sweeps, seeds: list[int], shifts: Shifts
) -> pd.DataFrame:
    """Return (seeds, terms) the figures at equal loss of accuracy, which these seeds and shifts determine.

    Raises:
        Missing: the study did not measure a figure on these seeds.
    """
    losses = common_losses(done, used, seeds, shifts)
    if losses is None:
        raise Missing("the accuracy was not measured on these seeds")
    return _together(measure(terms, done, gated, used, seeds, losses, shifts))


def _together(found: list[Measured]) -> pd.DataFrame:
    """Return (seeds, terms) the figures with their signs, on the seeds that have all of them."""
    return pd.concat([one.term.sign * one.values for one in found], axis=1, join="inner").dropna()


def _pseudo_values(whole: float, seeds: list[int], of: Callable[[list[int]], float]) -> pd.Series:
    """Return one value per seed, with the spread of an estimate that is no mean over seeds (jackknife, Tukey 1958).

    Args:
        whole: the estimate from all seeds.
        of: the estimate from some seeds.
    """
    if len(seeds) < 2:
        return pd.Series([whole])
    without = [of([one for one in seeds if one != left]) for left in seeds]
    return pd.Series([len(seeds) * whole - (len(seeds) - 1) * part for part in without])


def _side(one: Measured, mean: float, decimals: int) -> str:
    """Return a figure as text, with the attack's entry where the relation's name does not say it."""
    wanted = one.term.word("attack")
    entry = "" if wanted in (None, "*", one.attacks[0]) else f" of {one.attacks[0]}"
    return f"{one.term.figure}{entry} {mean:z.{decimals}f}"  # z: 0.0 in place of -0.0


def _out_of_reach(case: _Case, mark: str) -> tuple[str, str] | None:
    """Return a word and its reason if no value of what is judged could fulfil the relation; otherwise None.

    "52 points lower than after CleanCLIP" says nothing where CleanCLIP leaves 9. Judged is the first figure of a
    defense, without one the first figure. Figures on its side and the floor of its own attack are taken at their best
    as well, so only the other side has a spread. Where some values in its interval leave the margin and others do not,
    a claim that fails may as well be one that cannot be tested: it is undecided. Only values that the other side can
    have count: of two like rates without a margin, the first can always fulfil the relation, but nothing is below 0 on
    every seed. A defense can push the target below the rank that chance gives, so that ASR@k too can be 0.
    """
    terms = [one.term for one in case.found]
    if len(terms) == 1 or any(term.figure in VISIBLE for term in terms):
        return None
    down = 1 if mark in ("<", "<=") else -1
    judged = next((term for term in terms if term.defense != NO_DEFENSE), terms[0])
    best, nearest, furthest, others = 0.0, down * case.constant, down * case.constant, []
    for i, term in enumerate(terms):
        limits = case.reached.get(i, (0.0, 100.0))
        ends = sorted(down * term.sign * end for end in limits)
        own_floor = term.figure.startswith("floor") and term.word("attack") == judged.word("attack")
        if term.sign == judged.sign or own_floor:
            best += ends[0]
        else:
            nearest, furthest = nearest + ends[0], furthest + ends[1]
            others.append(i)
    if not others:
        return None
    mean, half = case.interval(others)
    other, beside = down * mean, half or 0.0
    if mark in ("<", ">") and beside <= ROUNDING and abs(best + other) <= ROUNDING:
        return UNTESTABLE, "what it is compared with leaves nothing"
    if best + min(other + beside, furthest) <= ROUNDING:
        return None
    if best + max(other - beside, nearest) > ROUNDING:
        return UNTESTABLE, "what it is compared with leaves less than the margin"
    return UNDECIDED, "what it is compared with may leave less than the margin"


def _in_doubt(found: list[Measured], mean: float) -> list[str]:
    """Return the entries beyond the budget that would, at a weaker setting, move a total away from its sign."""
    doubtful = []
    for one in found:
        if one.term.figure.startswith("ca"):
            continue
        falls = re.match("asr[0-9]", one.term.figure) or one.term.figure in LEFT  # a weaker setting leaves more
        doubtful += one.beyond if not falls or one.term.sign * mean < 0 else []
    return list(dict.fromkeys(doubtful))


def _decided(mark: str, mean: float, half: float, facts: dict) -> Verdict:
    """Return the verdict on the sign of a mean with an interval of `half` points on either side."""
    down = mean if mark in ("<", "<=") else -mean
    if down + half < -ROUNDING or (max(half, abs(down)) <= ROUNDING and mark in ("<=", ">=")):
        return Verdict(HOLDS, **facts)
    if down - half > ROUNDING:
        return Verdict(FAILS, **facts)
    return Verdict(UNDECIDED, "the difference is within the spread", **facts)


def _half(total: pd.Series, variance: float, noise: Noise | None) -> float | None:
    """Return half of the 95 % interval of the mean: over seeds; below `ENOUGH` not less than by the noise floor.

    None if neither is known. Two seeds that happen to agree would decide anything. The noise floor is itself an
    estimate, hence Student's t.
    """
    from scipy.stats import t  # takes a second

    quantile, count = (1 + CONFIDENCE) / 2, len(total)
    spread = t.ppf(quantile, count - 1) * total.std() / math.sqrt(count) if count > 1 else math.nan
    floor = t.ppf(quantile, noise.freedom) * math.sqrt(variance / count) if noise else math.nan
    if count >= ENOUGH:
        return float(spread)
    known = [half for half in (spread, floor) if not math.isnan(half)]
    return float(max(known)) if not math.isnan(floor) else None


def _variance(figure: str, noise: Noise | None, cells: int) -> float:
    """Return the variance of the mean of some cells by the noise floor; NaN without a noise floor of the figure."""
    known = noise.figures.get(figure) if noise else None
    return math.nan if known is None else known**2 / cells
