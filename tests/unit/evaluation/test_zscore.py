"""The backdoor z-score: closed form against all pairs, one by one."""

import itertools
import statistics

import pytest
import torch

from antidote.evaluation import zscore
from antidote.evaluation.zscore import PairCosines


def cosines_of(features, parts=1):
    sums = PairCosines()
    for part in features.chunk(parts):
        sums.add(part)
    return sums


def backdoor_z(clean, triggered):
    return zscore.backdoor_z(cosines_of(clean), cosines_of(triggered))


def test_by_hand():
    """Cosines of the clean pairs 0, 0.6, 0.8: mean 7/15, variance 1/3 - 49/225; of the triggered ones 1, 1, 1."""
    clean = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    mean, deviation = cosines_of(clean).moments()
    assert (mean, deviation) == pytest.approx((7 / 15, (26 / 225) ** 0.5))
    triggered = torch.tensor([[0.6, 0.8]]).expand(3, -1)
    assert backdoor_z(clean, triggered) == pytest.approx((8 / 15) / (26 / 225) ** 0.5, abs=1e-4)
    assert backdoor_z(clean, clean) == 0


def test_closed_form_is_that_of_all_pairs():
    features = torch.nn.functional.normalize(torch.randn(40, 7, generator=torch.Generator().manual_seed(0)), dim=1)
    cosines = [float(a.double() @ b.double()) for a, b in itertools.combinations(features, 2)]
    expected = pytest.approx((statistics.mean(cosines), statistics.pstdev(cosines)), abs=1e-6)
    assert cosines_of(features).moments() == expected and cosines_of(features, parts=7).moments() == expected


def test_nothing_to_compare():
    one = torch.tensor([[1.0, 0.0]])
    assert backdoor_z(one, one) is None and backdoor_z(one.expand(5, -1), one.expand(5, -1)) is None
