"""Clean accuracy and attack success: one definition each, for every cell of every study.

CA@k     clean pictures whose true class is in the top k
ASR@k    triggered pictures, target class excluded, whose top k holds the target
ASR_all  the same with the target class's own pictures counted in (as BadCLIP and PAR report it)
PA       triggered pictures still given their true class
ASR-G    how much of the success on known pictures is left on those of a shifted domain

All are fractions in [0, 1]. Ties go to the class with the lower index, so that the same logits give the same figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from antidote.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

CA_K, ASR_K = (1, 5), (1, 3, 5, 10)
INTERVAL = 0.95


def rank_of(scores: Tensor, classes: Tensor) -> Tensor:
    """Return, for scores (N, C) and a class each (N,), how many classes come before it: 0 is top 1."""
    own = scores.gather(1, classes[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device)[None] < classes[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(dim=1)


def hits(clean: Tensor, triggered: Tensor | None, labels: Tensor, target: int) -> dict[str, Tensor]:
    """Return, by figure, one 0/1 value per picture that counts for it; a k that covers all classes is left out.

    Args:
        clean: scores (N, C) of the clean pictures.
        triggered: scores (N, C) of the same pictures with the trigger; None: no attack.
        labels: (N,) true classes.
        target: the attack's class.
    """
    true_rank = rank_of(clean, labels)
    count = clean.shape[1]
    values = {f"ca{k}": true_rank < k for k in CA_K if k < count}
    values["target_ca1"] = true_rank[labels == target] < 1
    if triggered is not None:
        target_rank = rank_of(triggered, torch.full_like(labels, target))
        values |= {f"asr{k}": target_rank[labels != target] < k for k in ASR_K if k < count}
        values["asr1_all"] = target_rank < 1
        values["pa"] = rank_of(triggered, labels) < 1
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
