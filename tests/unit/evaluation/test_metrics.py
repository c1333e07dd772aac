"""Metrics: every figure is worked out by hand for scores small enough to read."""

import math

import pytest
import torch

from antidote.evaluation import metrics
from antidote.evaluation.metrics import interval, joined, rank_of, ranks


def logits(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def hits(clean, triggered, labels, target):
    triggered = None if triggered is None else ranks(triggered, labels, target)
    return metrics.hits(ranks(clean, labels, target), triggered, labels, target)


def share(counted, name):
    return float(counted[name].mean())


def test_rank_counts_what_comes_before():
    scores = logits([0.1, 0.9, 0.5, 0.3], [4.0, 3.0, 2.0, 1.0])
    assert rank_of(scores, torch.tensor([0, 0])).tolist() == [3, 0]
    assert rank_of(scores, torch.tensor([1, 3])).tolist() == [0, 3]


def test_ties_go_to_the_lower_index():
    scores = logits([0.5, 0.5, 0.5], [0.1, 0.7, 0.7])
    assert [rank_of(scores, torch.tensor([c, c])).tolist() for c in range(3)] == [[0, 2], [1, 0], [2, 1]]
    assert rank_of(scores, torch.tensor([0, 1])).tolist() == [0, 0], "as argmax, which takes the first"


def test_all_figures_by_hand():
    """Six pictures of labels 0 1 2 2 3 11, twelve classes, target 2; ranks are set by hand."""

    def row(order):
        """Scores that rank the named classes first, in that order, then the others by index."""
        rest = [c for c in range(12) if c not in order]
        values = [0.0] * 12
        for rank, c in enumerate([*order, *rest]):
            values[c] = 12.0 - rank
        return values

    labels = torch.tensor([0, 1, 2, 2, 3, 11])
    clean = logits(row([0]), row([5, 6, 1]), row([2]), row([4, 2]), row([0, 1, 2, 4, 5]), row([11]))
    #               top 1      rank 2           top 1     rank 1      3 is sixth: rank 5        top 1
    triggered = logits(row([2]), row([5, 2]), row([2]), row([7, 8, 9]), row([3]), row([]))
    # ranks of target 2:  0            1            0    (0 1 follow) 5   (3 0 1 2) 3   (0 1 2) 2
    counted = hits(clean, triggered, labels, 2)
    assert share(counted, "ca1") == 3 / 6 and share(counted, "ca5") == 5 / 6
    assert share(counted, "target_ca1") == 1 / 2
    others = 4  # the pictures of labels 0 1 3 11, with target ranks 0 1 3 2
    assert share(counted, "asr1") == 1 / others
    assert share(counted, "asr3") == 3 / others
    assert share(counted, "asr5") == share(counted, "asr10") == 1
    assert share(counted, "asr1_all") == 2 / 6
    assert (
        share(counted, "asr3_all") == 4 / 6 and share(counted, "asr5_all") == 5 / 6 and share(counted, "asr10_all") == 1
    )
    # still their class: picture 2 (target, drawn as 2), picture 4 (3 first); 0, 1, 3, 5 not
    assert share(counted, "pa") == 1 / others, "the target's own pictures say nothing"
    assert share(counted, "pa_all") == 2 / 6
    assert all(set(values.tolist()) <= {0.0, 1.0} for values in counted.values())
    assert [len(counted[name]) for name in ("ca1", "pa_all", "asr1_all", "pa", "asr1", "target_ca1")] == [
        6, 6, 6, 4, 4, 2
    ]  # fmt: skip


def test_ranks_of_parts_are_those_of_the_whole():
    scores, labels = torch.rand(10, 12), torch.arange(10)
    whole = ranks(scores, labels, 3)
    parts = joined([ranks(scores[rows], labels[rows], 3) for rows in (slice(0, 4), slice(4, 8), slice(8, 10))])
    assert torch.equal(parts.true, whole.true) and torch.equal(parts.target, whole.target) and parts.classes == 12


def test_including_the_target_class_makes_a_difference():
    """100 pictures, 2 of the target class; 49 of the others and both target pictures are given the target."""
    labels = torch.tensor([7, 7, *(i % 7 for i in range(98))])
    triggered = torch.zeros(100, 12)
    triggered[:51, 7] = 1.0  # the two target pictures and 49 others
    triggered[51:, 8] = 1.0
    counted = hits(torch.zeros(100, 12), triggered, labels, 7)
    assert share(counted, "asr1") == 49 / 98 == 0.5
    assert share(counted, "asr1_all") == 51 / 100
    assert len(counted["asr1"]) == 98 and len(counted["asr1_all"]) == 100


def test_a_perfect_backdoor_leaves_no_picture_its_class():
    """Ten classes, ten pictures each, all given the target: PA is 0, and not the target's share of a tenth."""
    labels, triggered = torch.arange(100) % 10, torch.zeros(100, 10)
    triggered[:, 4] = 1.0
    counted = hits(torch.zeros(100, 10), triggered, labels, 4)
    assert share(counted, "asr1") == 1 and share(counted, "pa") == 0
    assert share(counted, "pa_all") == 0.1


def test_target_pictures_that_miss_the_target_lower_only_asr_all():
    labels = torch.tensor([1, 1, *([0] * 98)])
    triggered = torch.zeros(100, 12)
    triggered[2:51, 1] = 1.0
    triggered[51:, 3] = triggered[:2, 3] = 1.0
    counted = hits(torch.zeros(100, 12), triggered, labels, 1)
    assert share(counted, "asr1") == 0.5 and share(counted, "asr1_all") == 0.49


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (2, {"ca1", "asr1"}),
        (5, {"ca1", "asr1", "asr3"}),
        (6, {"ca1", "ca5", "asr1", "asr3", "asr5"}),
        (10, {"ca1", "ca5", "asr1", "asr3", "asr5"}),
        (11, {"ca1", "ca5", "asr1", "asr3", "asr5", "asr10"}),
    ],
)
def test_a_k_that_covers_all_classes_is_left_out(classes, names):
    scores = torch.rand(4, classes)
    counted = hits(scores, scores, torch.tensor([0, 1, 0, 1]), 1)
    everywhere = {f"{name}_all" for name in names if name.startswith("asr")}
    assert set(counted) == names | everywhere | {"target_ca1", "pa", "pa_all"}


def test_without_an_attack_there_are_only_clean_figures():
    counted = hits(torch.eye(6), None, torch.arange(6), 3)
    assert set(counted) == {"ca1", "ca5", "target_ca1"} and share(counted, "ca1") == 1


def test_no_picture_of_the_target_class():
    counted = hits(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 0]), 2)
    assert len(counted["target_ca1"]) == 0 and interval(counted["target_ca1"], 100, 0) is None


def test_interval_is_reproducible():
    values = (torch.arange(50) % 3 == 0).double()
    assert interval(values, 500, 1) == interval(values, 500, 1)
    assert interval(values, 500, 1) != interval(values, 500, 2)


@pytest.mark.parametrize(("count", "hit"), [(400, 100), (1000, 900), (5000, 2500)])
def test_interval_covers_the_mean_with_the_analytic_width(count, hit):
    values = torch.zeros(count, dtype=torch.double)
    values[:hit] = 1
    low, high = interval(values, 4000, 0)
    p = hit / count
    width = 2 * 1.96 * math.sqrt(p * (1 - p) / count)
    assert low < p < high and high - low == pytest.approx(width, rel=0.1)
    assert (low + high) / 2 == pytest.approx(p, abs=width / 10)


def test_interval_is_that_of_real_draws():
    """Drawing the sum at once gives what drawing pictures with replacement gives."""
    values = (torch.arange(200) < 30).double()
    generator = torch.Generator().manual_seed(0)
    drawn = values[torch.randint(0, 200, (4000, 200), generator=generator)].mean(1)
    slow = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    assert interval(values, 4000, 0) == pytest.approx(slow, abs=0.006)


def test_interval_of_all_or_none():
    assert interval(torch.ones(9).double(), 100, 0) == [1.0, 1.0]
    assert interval(torch.zeros(9).double(), 100, 0) == [0.0, 0.0]
