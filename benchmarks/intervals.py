"""How often the 95 % intervals of docs/claims.md contain the truth, for defenses that are compared at equal loss.

Each measured cell stands for a population: its mean over seeds is the truth, and seeds are drawn from a normal
distribution with the measured spread, cut at 0 and 100 %. Figures are drawn independently of one another
(`--together`: with the covariance over the measured seeds, so that a seed moves all figures of a study). Each draw is
judged as the claims are. A wrong verdict is one that the truth contradicts; an interval may miss the truth without one.

    python benchmarks/intervals.py
    python benchmarks/intervals.py --together --draws 1000 --study configs/start.yaml
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measured import ROOT, say, say_machine

from antidote.base.settings import read_mapping
from antidote.study.slices import summary_plan
from antidote.summary.claims import read_claims
from antidote.summary.finished import Finished
from antidote.summary.plan import SummarySettings
from antidote.summary.published import read_published
from antidote.summary.relations import Relation, is_rate, parse
from antidote.summary.restored import restored
from antidote.summary.tables import summarise
from antidote.summary.verdicts import ENOUGH, FAILS, HOLDS, judge

STUDIES = ("defenses", "start", "open-seeds", "open-vit")  # three seeds or five, swept defenses
CELL = ["attack", "defense"]
TRUTH = 20_000  # draws from which the mean of a distribution that is cut is taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", nargs="*", type=Path, default=[ROOT / f"configs/{name}.yaml" for name in STUDIES])
    parser.add_argument("--draws", type=int, default=200, help="studies drawn for each relation")
    parser.add_argument("--together", action="store_true", help="keep the covariance over the measured seeds")
    options = parser.parse_args()
    say_machine("pandas")
    say("| study | seeds | relation | true difference | interval contains it | wrong verdicts |")
    say("| --- | ---: | --- | ---: | ---: | ---: |")
    for file in options.study:
        done = restored(file, ROOT / "leaderboard")
        for relation, gated in compared(done):
            say(row(done, relation, gated, options.draws, options.together))


def compared(done: Finished) -> Iterator[tuple[Relation, bool]]:
    """Yield each relation that the study judges at equal loss by the spread over seeds, and whether the gate counts.

    Relations that differ in the margin alone have the same interval; one of them is judged.
    """
    seen = set()
    for name, claim in read_claims(dict.fromkeys(read_published().papers, "")).items():
        for text in claim.relations if claim.at == "matched" else ():
            relation = parse(text, name)
            found = judge(relation, done, True, claim.gated)
            figures = tuple(term for term in relation.terms if term.figure)
            if found.losses is not None and found.half is not None and found.seeds >= ENOUGH and figures not in seen:
                seen.add(figures)
                yield relation, claim.gated


def row(done: Finished, relation: Relation, gated: bool, draws: int, together: bool) -> str:
    """Return one row of the table."""
    population = Population(done, together)
    truth = judge(relation, population.truth(), True, gated).difference
    generator = np.random.default_rng(0)
    found = [judge(relation, population.draw(generator), True, gated) for _ in range(draws)]
    known = [one for one in found if one.half is not None]
    contained = sum(abs(one.difference - truth) <= one.half for one in known)
    holds = truth < 0 if relation.mark in ("<", "<=") else truth > 0
    wrong = sum(one.word == (FAILS if holds else HOLDS) for one in found)
    cells = [done.study.name, str(len(done.study.file.seeds)), f"`{relation.text}`", f"{truth:.1f}"]
    return f"| {' | '.join(cells)} | {100 * contained / len(known):.1f} % | {100 * wrong / draws:.1f} % |"


class Population:
    """Studies that could have been measured, had their seeds been others."""

    def __init__(self, done: Finished, together: bool) -> None:
        self.done, self.together = done, together
        self.plan = SummarySettings.read(read_mapping(summary_plan(done.study)), done.study.name)
        self.rates = [name for name in done.cells if is_rate(name)]
        groups = done.cells.groupby(CELL)[self.rates]
        self.means = groups.transform("mean").to_numpy(float)
        self.spreads = groups.transform("std").to_numpy(float)
        self.seeds, self.places = np.unique(done.cells["seed"].astype(int), return_inverse=True)

    def draw(self, generator: np.random.Generator) -> Finished:
        """Return the study with figures of other seeds."""
        return self._with(np.clip(self.means + self._deviations(generator), 0, 1))

    def truth(self) -> Finished:
        """Return the study with the means of the distributions, which are cut, on every seed."""
        generator = np.random.default_rng(1)
        total = sum(np.clip(self.means + self.spreads * generator.standard_normal(self.means.shape), 0, 1)
                    for _ in range(TRUTH))  # fmt: skip
        same = self._with(total / TRUTH).cells
        return self._with(same.groupby(CELL)[self.rates].transform("mean").to_numpy())

    def _deviations(self, generator: np.random.Generator) -> np.ndarray:
        """Return (cells, rates) deviations from the means."""
        if not self.together:
            return self.spreads * generator.standard_normal(self.means.shape)
        count = len(self.seeds)
        weights = generator.standard_normal((count, count)) / np.sqrt(count - 1)  # of each measured seed in a new one
        measured = self.done.cells[self.rates].to_numpy(float) - self.means
        names = self.done.cells[CELL].agg(tuple, axis=1)
        by_seed = {cell: measured[rows] for cell, rows in self.done.cells.groupby(names).indices.items()}
        return np.stack([weights[self.places[i], : len(by_seed[name])] @ by_seed[name] for i, name in enumerate(names)])

    def _with(self, rates: np.ndarray) -> Finished:
        cells = self.done.cells.copy()
        cells[self.rates] = rates
        return dataclasses.replace(self.done, cells=cells, table=summarise(cells, self.plan))


if __name__ == "__main__":
    main()
