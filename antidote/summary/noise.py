"""The noise floor of a track by model: the spread of one cell over seeds, pooled over finished cells.

A cell counts if it has at least three seeds and its mean ASR@1 is between 10 and 90 %. Near 0 and 100 % all seeds
agree, and the spread of such a cell says nothing of a cell on the slope. The pooled standard deviation is the square
root of the mean variance, weighted by seeds minus one. Cells of one attack in one study share the backdoored models of
their seeds, and vary together: they count once for the degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from antidote.study.tracks import FREEDOM, Noise
from antidote.summary.exchange import Result
from antidote.summary.verdicts import ENOUGH

SLOPE = (0.1, 0.9)  # mean ASR@1 of the cells that count
FIGURES = ("asr1", "ca1")


def noise(results: Iterable[Result]) -> dict[str, dict[str, Noise]]:
    """Return the noise floor by track and model; a model without enough cells is left out.

    Args:
        results: measured results of any tracks.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        asr = result.figures.get("asr1")
        if result.status == "measured" and asr and len(asr.seeds) >= ENOUGH and SLOPE[0] <= asr.mean <= SLOPE[1]:
            groups.setdefault((result.track.name, result.model), []).append(result)
    found: dict[str, dict[str, Noise]] = {}
    for (track, model), mine in sorted(groups.items()):
        freedom = _freedom(mine)
        if freedom >= FREEDOM:
            figures = {name: _pooled(mine, name) for name in FIGURES}
            found.setdefault(track, {})[model] = Noise(cells=len(mine), freedom=freedom, figures=figures)
    return found


def _freedom(results: list[Result]) -> int:
    """Return seeds minus one, summed over the attacks of each study."""
    most: dict[tuple[str, str], int] = {}
    for one in results:
        key = one.source.title, one.attack.name
        most[key] = max(most.get(key, 0), len(one.figures["asr1"].seeds) - 1)
    return sum(most.values())


def _pooled(results: list[Result], name: str) -> float:
    """Return the pooled standard deviation of a figure in percentage points, to one decimal."""
    figures = [result.figures[name] for result in results]
    squares = sum((len(one.seeds) - 1) * float(one.std or 0) ** 2 for one in figures)
    return round(100 * math.sqrt(squares / sum(len(one.seeds) - 1 for one in figures)), 1)
