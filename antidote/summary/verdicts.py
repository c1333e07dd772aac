"""Whether a relation of figures holds in a finished study: by a t interval over seeds, or by the noise floor.

A stronger setting of a defense leaves a lower ASR@1 for more clean accuracy. At matched accuracy, therefore:

- two defenses are compared at equal loss of accuracy (`antidote.summary.accuracy`), and only where one was swept; the
  interval contains the spread of both figures, by the jackknife over seeds (Tukey 1958);
- a defense that loses more than that at each setting would leave more at a weaker one: the study can show that even
  so it leaves too much, not that it leaves little;
- the accuracy of two defenses is not compared, since a swept one spends what its setting allows;
- several attacks under one swept defense, also in a mean over attacks, count at one setting, the strongest within the
  budget on all of them: whoever defends does not know the attack;
- a defense beyond the accuracy budget is judged as one that loses more than the others;
- what a defense costs in clean accuracy, against the undefended model, is decided within the budget or beyond it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from antidote.study.layout import NO_DEFENSE
from antidote.study.tracks import Noise
from antidote.summary.accuracy import ROUNDING, common_losses
from antidote.summary.finished import Finished
from antidote.summary.relations import VISIBLE, Relation
from antidote.summary.terms import Measured, Missing, measure, sweeps

HOLDS, FAILS, UNDECIDED, UNMEASURED = "holds", "does not hold", "undecided", "not measured"
UNTESTABLE = "cannot be tested"
LEFT = ("delivered", "worst", "area")  # like ASR, lower at a stronger setting of a defense
CONFIDENCE = 0.95
ENOUGH = 3  # seeds from which a spread is taken as it is


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


def judge(relation: Relation, done: Finished, matched: bool, gated: bool = True) -> Verdict:
    """Return the verdict of a relation.

    Args:
        matched: compare at matched clean accuracy, see this module's text.
        gated: only attacks that pass the gate count.
    """
    terms = [term for term in relation.terms if term.figure]
    between = matched and len({term.defense for term in terms} - {NO_DEFENSE}) > 1
    accuracy = any(term.figure.startswith("ca") for term in terms)
    try:
        used = sweeps(terms, done, gated)
        swept = any(done.swept.get(name) for entries, _ in used.values() for name in entries)
        losses = common_losses(done, used) if between and swept and not accuracy else None
        found = measure(terms, done, gated, used, done.study.file.seeds, losses)
        by_seed = _together(found)
        seeds = list(by_seed.index)
        if losses is not None and 0 < len(seeds) < len(done.study.file.seeds):
            found = measure(terms, done, gated, used, seeds, losses)
            by_seed = _together(found)
    except Missing as missing:
        return Verdict(UNMEASURED, str(missing))
    if by_seed.empty:
        return Verdict(UNMEASURED, "no seed has all figures")
    constant = sum(term.sign * term.constant for term in relation.terms)
    again = None if losses is None else lambda some: _together(measure(terms, done, gated, used, some, losses))
    interval = partial(_interval, found, by_seed, constant, again, done.noise)
    mean, half = interval(range(len(found)))
    decimals = max(VISIBLE.get(one.term.figure, 1) for one in found)
    sides = tuple(_side(one, one.term.sign * by_seed.iloc[:, i].mean(), decimals) for i, one in enumerate(found))
    facts = {"difference": mean, "half": half, "sides": sides, "seeds": len(by_seed), "decimals": decimals}
    if losses is not None:
        facts |= {"losses": losses, "more": tuple(dict.fromkeys(name for one in found for name in one.beyond))}
    if between and not swept:
        return Verdict(UNDECIDED, "no setting was swept, so the defenses are not at matched accuracy", **facts)
    if between and accuracy:
        return Verdict(UNTESTABLE, "a swept defense spends as much accuracy as its setting allows", **facts)
    if half is None:
        return Verdict(
            UNDECIDED, f"fewer than {ENOUGH} seeds, and the track states no noise floor of this model", **facts
        )
    down = 1 if relation.mark in ("<", "<=") else -1
    verdict = _decided(relation.mark, mean, half, facts)
    reach = partial(_out_of_reach, found, interval, down * constant, down, len(done.study.classes))
    if verdict.word != HOLDS and (missed := reach()):  # what holds is within reach
        return Verdict(*missed, **facts)
    doubt = _in_doubt(found, mean) if matched and verdict.word != UNDECIDED else []
    why = "outside the accuracy budget" if losses is None else "loses more accuracy than the other"
    return Verdict(UNDECIDED, f"{why}: {', '.join(doubt)}", **facts) if doubt else verdict


def _together(found: list[Measured]) -> pd.DataFrame:
    """Return (seeds, terms) the figures with their signs, on the seeds that have all of them."""
    return pd.concat([one.term.sign * one.values for one in found], axis=1, join="inner").dropna()


def _interval(
    found: list[Measured],
    by_seed: pd.DataFrame,
    constant: float,
    again: Callable[[list[int]], pd.DataFrame] | None,
    noise: Noise | None,
    counted: Sequence[int],
) -> tuple[float, float | None]:
    """Return the mean over seeds of a constant and some of the figures, and half of its interval (`_half`).

    Args:
        by_seed: (seeds, terms) the figures with their signs.
        again: measures them from some seeds, at the same losses of accuracy; None: they are means over seeds.
        counted: positions of the figures that count.
    """
    of = lambda frame: constant + frame.iloc[:, list(counted)].sum(axis=1)
    values = of(by_seed)
    mean = float(values.mean())
    if again is not None:
        values = _pseudo_values(mean, list(by_seed.index), lambda some: float(of(again(some)).mean()))
    variance = sum(_variance(found[i].term.figure, noise, len(found[i].attacks)) for i in counted)
    return mean, _half(values, variance, noise)


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
    return f"{one.term.figure}{entry} {mean:.{decimals}f}"


def _out_of_reach(
    found: list[Measured],
    interval: Callable[[Sequence[int]], tuple[float, float | None]],
    margin: float,
    down: int,
    classes: int,
) -> tuple[str, str] | None:
    """Return a word and its reason if no value of the first figure could fulfil the relation; otherwise None.

    "52 points lower than after CleanCLIP" says nothing where CleanCLIP leaves 9. Figures that are added to the first
    one are taken at their best as well, so only the other side has a spread. Where some values in its interval leave
    the margin and others do not, a claim that fails may as well be one that cannot be tested: it is undecided. Only
    values that the other side can have count: of two like rates without a margin, the first can always fulfil the
    relation.

    Args:
        interval: from positions of figures, the mean of the constant and these figures, and half of its interval.
        margin: the constant, as if the relation asked for a low value.
        down: 1 if the relation asks for a low value, otherwise -1.
        classes: number of classes of the evaluation.
    """
    if len(found) == 1 or any(one.term.figure in VISIBLE for one in found):
        return None
    best, nearest, furthest, others = 0.0, margin, margin, []
    for i, term in enumerate(one.term for one in found):
        ends = sorted(down * term.sign * end for end in (_least(term.figure, classes), 100.0))
        if term.sign == found[0].term.sign:
            best += ends[0]
        else:
            nearest, furthest = nearest + ends[0], furthest + ends[1]
            others.append(i)
    mean, half = interval(others)
    other, beside = down * mean, half or 0.0
    if best + min(other + beside, furthest) <= ROUNDING:
        return None
    if best + max(other - beside, nearest) > ROUNDING:
        return UNTESTABLE, "what it is compared with leaves less than the margin"
    return UNDECIDED, "what it is compared with may leave less than the margin"


def _least(figure: str, classes: int) -> float:
    """Return the lowest rate to expect in percent: a model that names the right class ranks the others at random."""
    among = re.fullmatch(r"asr(\d+)(_all)?", figure)
    return 100 * (int(among.group(1)) - 1) / (classes - 1) if among else 0.0


def _in_doubt(found: list[Measured], mean: float) -> list[str]:
    """Return the entries beyond the budget that would, at a weaker setting, move a total away from its sign."""
    doubtful = []
    for one in found:
        if one.term.figure.startswith("ca"):
            continue
        falls = one.term.figure.startswith("asr") or one.term.figure in LEFT  # a weaker setting leaves more
        doubtful += one.beyond if not falls or one.term.sign * mean < 0 else []
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
