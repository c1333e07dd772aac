"""Whether a rerun, whole or in part, reaches the figures of another run: the same cells of both, side by side.

Trained weights repeat on the same kind of processor only. On another kind, as with another seed, a rerun agrees if the
95 % interval of the difference of the means includes zero. Where one run has all seeds of the other, the means are over
the seeds of both. Runs of the same seeds share pools, triggers and the order of batches, so three or more are paired by
seed (Student's t); other runs are compared by Welch's t interval (Welch 1947, Biometrika 34). Of fewer than three,
the interval is the larger of Student's with the spread between the seeds of both runs and the noise floor of the track
and model. Few differences lie beyond it: one seed says little unless the figures are equal. Of many figures,
about one in twenty differs by chance.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antidote.base.errors import UserError, nearest
from antidote.study.tracks import Noise, tracks
from antidote.summary.exchange import Figure, Result, one_file_per_cell, read_result, results_of
from antidote.summary.finished import Finished
from antidote.summary.relations import VISIBLE, is_rate
from antidote.summary.unchanged import other_experiment
from antidote.summary.verdicts import CONFIDENCE, ENOUGH

ROUNDING = 1e-9  # differences up to this are what sums of floating-point numbers leave
EQUAL, WITHIN, BEYOND, UNKNOWN = "equal", "within the spread", "beyond the spread", "spread unknown"
FEW = "too few seeds to tell"  # no rate would be beyond
DIGITS = 1e-8  # tables of a summary, and the results files made of them, hold nine digits


@dataclass(frozen=True)
class Pair:
    """One figure of one cell in both runs.

    Attributes:
        difference: mean of the first run minus mean of the second, in percentage points.
        half: half of the 95 % interval of the difference in percentage points, None if no spread is known.
        repeats: whether the figures should be equal: the same seeds, on the same kind of processor as far as is told.
    """

    attack: str
    defense: str
    figure: str
    first: Figure
    second: Figure
    half: float | None
    repeats: bool = False

    @property
    def difference(self) -> float:
        return 100 * (self.first.mean - self.second.mean)

    @property
    def word(self) -> str:
        if self.first.seeds.keys() == self.second.seeds.keys() and all(
            abs(mine - theirs) < DIGITS for mine, theirs in zip(_values(self.first), _values(self.second), strict=True)
        ):
            return EQUAL
        if self.half is None:
            return UNKNOWN
        if self.half >= 100 * max(self.second.mean, 1 - self.second.mean) and len(self.first.seeds) < ENOUGH:
            return FEW
        return WITHIN if abs(self.difference) <= self.half + 100 * ROUNDING else BEYOND


@dataclass(frozen=True)
class Agreement:
    """The common figures of two runs, and what could not be compared, one line each."""

    pairs: list[Pair]
    left_out: list[str]


def agreement(first: Path, second: Path, figures: Sequence[str], results: Path = Path("results")) -> Agreement:
    """Compare the cells of two runs.

    Args:
        first, second: folders of results files of one study each, such as leaderboard/tiny-1/defenses; or the file of
            a study, whose scored cells are read from `results`, also of an unfinished one.
        figures: names of rates, such as `asr1`.
        results: folder of all studies.

    Raises:
        UserError: a folder holds no results file, a file is not valid, no cell of a study was scored, a figure is no
            rate or in no file, or the runs have no figure in common.
    """
    mine, theirs = _read(first, results), _read(second, results)
    known = {name for one in (*mine.values(), *theirs.values()) for name in one.figures}
    for figure in figures:
        if figure in VISIBLE or (figure in known and not is_rate(figure)):
            raise UserError(f"--figures: {figure} is no rate; rates such as asr1 and ca5 are compared")
        if figure not in known:
            raise UserError(f"--figures: no file has {figure!r}{nearest(figure, known)}")
    pairs, left_out = [], []
    unscored = 0
    for name in sorted({*mine, *theirs}):
        if name in mine and name in theirs:
            if differs := _differs(mine[name], theirs[name]):
                left_out.append(f"{' / '.join(name)}: {differs}")
            else:
                pairs += _pairs(name, mine[name], theirs[name], figures)
        elif (second if name in mine else first).is_file():  # most cells of a study that is run in part
            unscored += 1
        else:
            here, there = (first, second) if name in mine else (second, first)
            left_out.append(f"{' / '.join(name)}: only in {here}, not in {there}")
    if unscored:
        left_out.append(f"{unscored} {'cell' if unscored == 1 else 'cells'} of one run that the other has not scored")
    if not pairs:
        raise UserError(f"{first} and {second}: no figure in common" + (f"; {left_out[0]}" if left_out else ""))
    return Agreement(pairs, left_out)


def markdown(found: Agreement) -> str:
    """Return a table of all common figures, then their count by verdict, then what was left out."""
    rows = [["attack", "defense", "figure", "first", "second", "difference", "verdict"]]
    rows.append(["---"] * 3 + ["---:"] * 3 + ["---"])
    for pair in found.pairs:
        half = "" if pair.half is None else f" ± {pair.half:.1f}"
        difference = round(pair.difference, 1) + 0.0  # no minus before zero
        sides = [_text(pair.first), _text(pair.second), f"{difference:+.1f}{half}"]
        rows.append([pair.attack, pair.defense, pair.figure, *sides, pair.word])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    left_out = ["\n".join(f"- {line}" for line in found.left_out)] if found.left_out else []
    return "\n\n".join([table, *_counts(found.pairs), *left_out]) + "\n"


def _read(folder: Path, results: Path) -> dict[tuple[str, str], Result]:
    """Return the measured results of a folder, or of a study file, or a single one, by attack and defense."""
    if folder.is_file() and folder.suffix == ".json":
        one = read_result(folder)
        return {(one.attack.name, one.defense.name): one}
    if folder.is_file():
        scored = results_of(Finished.read(folder, results, part=True), results)
        return {(one.attack.name, one.defense.name): one for one in scored}
    read = {path: read_result(path) for path in sorted(folder.glob("*.json"))}
    read = {path: one for path, one in read.items() if one.status == "measured"}
    one_file_per_cell(read)
    found = {(one.attack.name, one.defense.name): one for one in read.values()}
    if not found:
        raise UserError(
            f"{folder}: holds no measured results file; `python -m scripts.results write STUDY.yaml` writes the files "
            f"of a study into a folder {{track}}-{{version}}/{{study}}"
        )
    return found


def _differs(first: Result, second: Result) -> str:
    """Return in what two cells of the same names are not the same experiment; empty if they are."""
    for what in ("track", "model", "target", "evaluation"):
        if getattr(first, what) != getattr(second, what):
            return f"{what}: {getattr(first, what)} and {getattr(second, what)}"
    for one, other in ((first.attack, second.attack), (first.defense, second.defense)):
        if one.method != other.method:
            return f"methods {one.method} and {other.method}"
    parts, others = _settings(first), _settings(second)
    both = ((*parts[key], others[key][1]) for key in parts if key in others)
    return next(filter(None, (_other_settings(*one) for one in both)), "")


def _settings(result: Result) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return name and settings of what is behind a cell's figures: attack, defense, poisoning, adaptations."""
    found = {"attack": (result.attack.name, result.attack.settings)}
    found["defense"] = result.defense.name, result.defense.settings
    found["poisoning"] = "poisoning", result.poisoning
    curves = {f"adaptation {one.adaptation}": one.settings for one in result.persistence}
    return {**found, **{name: (name, settings) for name, settings in curves.items()}}


def _other_settings(name: str, first: dict[str, Any], second: dict[str, Any]) -> str:
    """Return the first setting that differs; empty if none does."""
    different = other_experiment(first, second)
    return f"other settings of {name}: {different[0]}" if different else ""


def _pairs(name: tuple[str, str], first: Result, second: Result, figures: Sequence[str]) -> Iterator[Pair]:
    noise = tracks()[first.track.name].noise.get(first.model) if first.track.name in tracks() else None
    for figure in figures:
        if figure in first.figures and figure in second.figures:
            whole = first.figures[figure], second.figures[figure]
            sides = _of_common_seeds(*whole)
            same = sides[0].seeds.keys() == sides[1].seeds.keys() and first.devices == second.devices != []
            yield Pair(*name, figure, *sides, half=_half(figure, sides, whole, noise), repeats=same)


def _values(figure: Figure) -> list[float]:
    """Return the values of a figure in the order of the seeds; of one without values by seed, its mean."""
    return [figure.seeds[seed] for seed in sorted(figure.seeds)] or [figure.mean]


def _of_common_seeds(first: Figure, second: Figure) -> tuple[Figure, Figure]:
    """Return two figures over the seeds of both where one has all seeds of the other; otherwise as they are."""
    common = [seed for seed in first.seeds if seed in second.seeds]
    if not common or len(common) < min(len(first.seeds), len(second.seeds)):
        return first, second
    return _over(first, common), _over(second, common)


def _over(figure: Figure, seeds: Sequence[str]) -> Figure:
    """Return a figure over some of its seeds."""
    if len(seeds) == len(figure.seeds):
        return figure
    values = {seed: figure.seeds[seed] for seed in seeds}
    std = statistics.stdev(values.values()) if len(values) > 1 else None
    return Figure(mean=statistics.fmean(values.values()), std=std, seeds=values)


def _half(figure: str, sides: Sequence[Figure], whole: Sequence[Figure], noise: Noise | None) -> float | None:
    """Return half of the 95 % interval of the difference of two means in percentage points; None if not known.

    Args:
        sides: the two figures whose difference it is.
        whole: the same over all seeds of each run, from which the spread is taken where few seeds are common.
    """
    from scipy.stats import t, ttest_ind, ttest_rel  # takes a second

    first, second = sides
    values = [list(one.seeds.values()) for one in sides]
    counts = [len(one) for one in values]
    if not all(counts):
        return None
    if min(counts) >= ENOUGH:
        if all(statistics.pstdev(one) < ROUNDING for one in values):
            return 0.0
        if first.seeds.keys() == second.seeds.keys():
            pairs = [[one.seeds[seed] for seed in first.seeds] for one in sides]
            gaps = [mine - theirs for mine, theirs in zip(*pairs, strict=True)]
            if max(gaps) - min(gaps) < ROUNDING:
                return 0.0
            interval = ttest_rel(*pairs).confidence_interval(CONFIDENCE)
        else:
            interval = ttest_ind(*values, equal_var=False).confidence_interval(CONFIDENCE)
        return 100 * float(interval.high - interval.low) / 2
    measured = [list(one.seeds.values()) for one in whole]
    known, floor = [], noise.figures.get(figure) if noise else None
    if floor is None and max(map(len, measured)) < ENOUGH:  # two seeds that happen to agree would decide anything
        return None
    freedom, per_cell = sum(len(one) - 1 for one in measured), sum(1 / count for count in counts)
    if freedom >= ENOUGH - 1:
        squares = sum((value - statistics.fmean(one)) ** 2 for one in measured for value in one)
        if floor is None and math.sqrt(squares / freedom) < ROUNDING:  # seeds at 0 or 100 % hide their spread
            return None
        known.append(100 * t.ppf((1 + CONFIDENCE) / 2, freedom) * math.sqrt(squares / freedom * per_cell))
    if noise is not None and floor is not None:
        known.append(t.ppf((1 + CONFIDENCE) / 2, noise.freedom) * floor * math.sqrt(per_cell))
    return float(max(known)) if known else None


def _counts(pairs: list[Pair]) -> Iterator[str]:
    """Yield a line per figure: how many cells agree, and how large the differences are."""
    for figure in dict.fromkeys(pair.figure for pair in pairs):
        mine = [pair for pair in pairs if pair.figure == figure]
        words = [pair.word for pair in mine]
        counts = [f"{words.count(word)} {word}" for word in (EQUAL, WITHIN, BEYOND, FEW, UNKNOWN) if word in words]
        sizes = [abs(pair.difference) for pair in mine]
        median = statistics.median(sizes)
        cells = f"{len(mine)} cell{'s' if len(mine) > 1 else ''}"
        line = (
            f"{figure}: {cells}, {', '.join(counts)}; differences: median {median:.1f}, largest {max(sizes):.1f} points"
        )
        if changed := sum(pair.repeats and pair.word != EQUAL for pair in mine):
            line += f"; {changed} not equal on the same kind of processor: other code, packages or threads of a job"
        yield line


def _text(figure: Figure) -> str:
    return f"{100 * figure.mean:.1f}" + ("" if figure.std is None else f" ± {100 * figure.std:.1f}")
