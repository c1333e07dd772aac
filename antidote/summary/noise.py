"""The noise floor of a track by model: the spread of one cell over seeds, pooled over finished cells.

A cell counts if it has at least three seeds and its mean ASR@1 is between 10 and 90 %. Near 0 and 100 % all seeds
agree, and the spread of such a cell says nothing of a cell on the slope. The pooled standard deviation is the square
root of the mean variance, weighted by seeds minus one. Cells of one attack in one study share the backdoored models of
their seeds, and vary together: they count once for the degrees of freedom. So do those of two studies with the same
backdoored models, by the hashes of the weights; a cell that two studies measured alike counts once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping

from antidote.study.layout import NO_DEFENSE
from antidote.study.tracks import FREEDOM, Noise, tracks
from antidote.summary.exchange import Result
from antidote.summary.verdicts import CONFIDENCE, ENOUGH

SLOPE = (0.1, 0.9)  # mean ASR@1 of the cells that count
FIGURES = ("asr1", "ca1")


def noise(results: Iterable[Result]) -> dict[str, dict[str, Noise]]:
    """Return the noise floor by track and model; a model without enough cells is left out.

    Args:
        results: measured results of any tracks; those of earlier versions of a track, and disputed ones, do not count.
    """
    present = {name: track.version for name, track in tracks().items()}
    results = [one for one in results if present.get(one.track.name, one.track.version) == one.track.version]
    results = [one for one in results if not one.disputed]
    attacked = {_attack(one): _models(one) for one in results if one.defense.name == NO_DEFENSE}
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        asr = result.figures.get("asr1")
        if result.status == "measured" and asr and len(asr.seeds) >= ENOUGH and SLOPE[0] <= asr.mean <= SLOPE[1]:
            groups.setdefault((result.track.name, result.model), []).append(result)
    found: dict[str, dict[str, Noise]] = {}
    for (track, model), cells in sorted(groups.items()):
        mine = list({(_models(one), str(one.figures["asr1"].seeds)): one for one in cells}.values())
        freedom = _freedom(mine, attacked)
        if freedom >= FREEDOM:
            figures = {name: _pooled(mine, name) for name in FIGURES}
            found.setdefault(track, {})[model] = Noise(cells=len(mine), freedom=freedom, figures=figures)
    return found


def least(noise: Noise, figure: str) -> float:
    """Return up to which difference two cells of one seed each may differ by chance alone, in percentage points.

    Half of the 95 % interval of the difference: Student's t, since the noise floor is itself an estimate.

    Args:
        figure: name of a figure of `noise`.
    """
    from scipy.stats import t  # takes a second

    return float(t.ppf((1 + CONFIDENCE) / 2, noise.freedom)) * math.sqrt(2) * noise.figures[figure]


def least_text(noise: Noise, figure: str) -> str:
    """Return `least` as text; at 100 points or more `any difference`, since no two rates differ by more."""
    points = f"{least(noise, figure):.0f}"
    return "any difference" if int(points) >= 100 else points


def _freedom(results: list[Result], attacked: Mapping[tuple[str, ...], tuple[str, ...]]) -> int:
    """Return seeds minus one, summed over the backdoored models.

    Args:
        attacked: hashes of the backdoored models by track, study and attack; without them, a study's attack has its
            own.
    """
    most: dict[tuple[str, ...], int] = {}
    for one in results:
        key = attacked.get(_attack(one)) or _attack(one)
        most[key] = max(most.get(key, 0), len(one.figures["asr1"].seeds) - 1)
    return sum(most.values())


def _attack(one: Result) -> tuple[str, ...]:
    """Return the track, the study and the entry of a cell's attack: studies of two tracks may have one name."""
    return one.track.name, one.source.title, one.attack.name


def _models(one: Result) -> tuple[str, ...]:
    """Return the hashes of a cell's models; () without them."""
    return tuple(sorted(one.hashes.models.values())) if one.hashes else ()


def _pooled(results: list[Result], name: str) -> float:
    """Return the pooled standard deviation of a figure in points, to two decimals: coarser ones move claims."""
    seeds = [list(result.figures[name].seeds.values()) for result in results if len(result.figures[name].seeds) > 1]
    squares = sum((len(values) - 1) * statistics.variance(values) for values in seeds)
    return round(100 * math.sqrt(squares / sum(len(values) - 1 for values in seeds)), 2)
