"""Clean accuracy and attack success: one definition each, for every cell of every study.

CA@k     clean pictures whose true class is in the top k
ASR@k    triggered pictures, target class excluded, whose top k holds the target
ASR_all  the same with the target class's own pictures counted in (as BadCLIP and PAR report it)
PA       triggered pictures of other classes than the target that still get their true class (as BackdoorBench counts
         it): a picture whose true class is the target cannot separate the two outcomes, and ASR + PA is at most 1
PA_all   the same with the target class's own pictures counted in
ASR-G    share of the success on known pictures that is left on pictures of a shifted domain

All are fractions in [0, 1]. Ties go to the class with the lower index, so that the same logits give the same figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

CA_K, ASR_K = (1, 5), (1, 3, 5, 10)
INTERVAL = 0.95


def rank_of(scores: Tensor, classes: Tensor) -> Tensor:
    """Return (N,) how many classes come before a class each (N,) in scores (N, C): 0 is top 1."""
    own = scores.gather(1, classes[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device)[None] < classes[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(dim=1)


@dataclass(frozen=True)
class Ranks:
    """How many classes come before a class in the scores of each picture: 0 is top 1.

    Attributes:
        true: (N,) before the picture's own class.
        target: (N,) before the attack's class.
        classes: number of classes.
    """

    true: Tensor
    target: Tensor
    classes: int


def ranks(scores: Tensor, labels: Tensor, target: int) -> Ranks:
    """Return the ranks in scores (N, C) of the true classes (N,) and of the attack's class."""
    return Ranks(rank_of(scores, labels), rank_of(scores, torch.full_like(labels, target)), scores.shape[1])


def joined(parts: Sequence[Ranks]) -> Ranks:
    """Return the ranks of a whole set from the ranks of its parts."""
    true, target = (torch.cat([getattr(part, name) for part in parts]) for name in ("true", "target"))
    return Ranks(true, target, parts[0].classes)


def hits(clean: Ranks, triggered: Ranks | None, labels: Tensor, target: int) -> dict[str, Tensor]:
    """Return, by figure, one 0/1 value per picture that the figure counts; a k that covers all classes is left out.

    Args:
        clean: ranks of N clean pictures.
        triggered: ranks of the same pictures with the trigger; None: no attack.
        labels: (N,) true classes.
        target: the attack's class.
    """
    values = {f"ca{k}": clean.true < k for k in CA_K if k < clean.classes}
    values["target_ca1"] = clean.true[labels == target] < 1
    if triggered is not None:
        others = labels != target
        values |= {f"asr{k}": triggered.target[others] < k for k in ASR_K if k < clean.classes}
        values |= {f"asr{k}_all": triggered.target < k for k in ASR_K if k < clean.classes}
        values |= {"pa": triggered.true[others] < 1, "pa_all": triggered.true < 1}
    return {name: value.double() for name, value in values.items()}


def generalisation(known: float | None, shifted: float | None) -> float | None:
    """Return ASR-G in [0, 1] from ASR@1 on known pictures and on a shifted domain: 1, as successful there or more so.

    min(1 + (shifted - known) / max(known, shifted), 1). MABA (arXiv 2406.18844) prints the difference the other way
    round, by which an attack that fails under the shift would get 1. None where neither succeeds, or one is missing.
    """
    if known is None or shifted is None or max(known, shifted) == 0:
        return None
    return min(1 + (shifted - known) / max(known, shifted), 1.0)


def interval(values: Tensor, draws: int, seed: int) -> list[float] | None:
    """Return the 95 % bootstrap interval over pictures of the mean of 0/1 values (N,); None for no pictures."""
    if not len(values):
        return None
    generator = torch.Generator().manual_seed(seed)
    # The sum of N draws with replacement from 0/1 values is binomial; drawing it at once saves N x draws numbers.
    share = values.mean().expand(draws).cpu().double()
    means = torch.binomial(torch.full_like(share, len(values)), share, generator=generator) / len(values)
    edges = torch.tensor([(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], dtype=torch.double)
    return [float(edge) for edge in means.quantile(edges)]
