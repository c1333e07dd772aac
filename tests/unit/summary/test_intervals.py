"""benchmarks/intervals.py: studies that are drawn as measured cells are spread, and how often their intervals miss."""

import re
import sys

import numpy as np
import pytest

from antidote.base.fingerprint import ROOT
from antidote.summary.relations import parse
from tests.unit.summary.test_accuracy import swept
from tests.unit.summary.test_claims import LOWER

sys.path.insert(0, str(ROOT / "benchmarks"))

import intervals

FLAT = {
    "t001": ([0.50, 0.52, 0.54], [0.94, 0.945, 0.95]), "t002": ([0.48, 0.50, 0.52], [0.92, 0.925, 0.93]),
    "t005": ([0.46, 0.48, 0.50], [0.90, 0.905, 0.91]), "cleanclip": ([0.30, 0.34, 0.38], [0.92, 0.925, 0.93]),
}  # fmt: skip


def cells(done, defense, figure):
    rows = done.cells[(done.cells["attack"] == "badnet") & (done.cells["defense"] == defense)]
    return rows[figure].to_numpy()


@pytest.mark.parametrize("together", [False, True])
def test_drawn_figures_have_the_mean_and_the_spread_of_the_measured_ones(together):
    population, generator = intervals.Population(swept(**FLAT), together), np.random.default_rng(0)
    draws = np.stack([cells(population.draw(generator), "cleanclip", "asr1") for _ in range(100)])
    assert draws.mean() == pytest.approx(0.34, abs=0.01) and draws.std() == pytest.approx(0.04, rel=0.15)
    assert not np.allclose(draws[0], draws[0][0]), "seeds differ"
    assert (cells(population.draw(generator), "none", "asr1") == 1).all(), "what has no spread stays"


def test_together_a_seed_moves_all_figures():
    """In the measured study ASR@1 rises with the seed in each cell, so in a drawn one all cells move alike."""
    generator = np.random.default_rng(0)
    for together in (True, False):
        drawn = intervals.Population(swept(**FLAT), together).draw(generator)
        moved = [cells(drawn, defense, "asr1") for defense in ("tuned_lr0.001", "cleanclip")]
        assert (np.corrcoef(moved)[0, 1] > 0.999) == together


def test_rates_stay_rates_and_the_truth_is_the_mean_of_what_is_drawn():
    """Rates of 0 and 0.3 with a spread of 0.17, cut at 0: the mean is above that of the normal distribution."""
    edge = {**FLAT, "cleanclip": ([0.0, 0.0, 0.3], FLAT["cleanclip"][1])}
    population, generator = intervals.Population(swept(**edge), False), np.random.default_rng(0)
    draws = np.stack([cells(population.draw(generator), "cleanclip", "asr1") for _ in range(300)])
    assert draws.min() == 0 and draws.mean() > 0.11
    assert cells(population.truth(), "cleanclip", "asr1") == pytest.approx([draws.mean()] * 3, abs=0.01)


def test_intervals_of_flat_curves_contain_the_truth():
    done = swept(**FLAT)
    assert [relation.text for relation, _ in intervals.compared(done) if relation.text == LOWER] == [LOWER]
    *_, truth, contained, wrong, _ = intervals.row(done, parse(LOWER, "claim"), True, 60, False).split("|")
    assert float(truth) == pytest.approx(-16, abs=1) and wrong.strip() == "0.0 %"
    assert 87 <= float(re.match(r" ([0-9.]+) % ", contained).group(1)) <= 100
