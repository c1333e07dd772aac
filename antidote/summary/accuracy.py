"""Which setting of a swept defense counts: one for several attacks, or what costs as much as another defense.

Two defenses are compared at equal loss of clean accuracy, as Bjøntegaard (ITU-T VCEG-M33, 2001) compares two coders at
equal rate: the mean difference of their curves over the losses that both reach, within the study's accuracy budget.
Between two settings a curve is a line; losses are means over seeds. A setting counts only if every stronger one loses
more, so that a curve has one value at each loss. Otherwise a verdict would depend on which settings of coarse sweeps
happen to lie within the budget.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from antidote.summary.finished import Finished
from antidote.summary.tables import losses_by_defense

ROUNDING = 1e-7  # percentage points
Defenses = Mapping[Hashable, tuple[Sequence[str], Iterable[str]]]
Shifts = Mapping[Hashable, float]  # of all losses of a defense, in percentage points


@dataclass(frozen=True)
class Portion:
    """What counts of a defense.

    Attributes:
        shares: share of each entry that counts; they sum to 1.
        exceeds: whether each entry loses more accuracy than the defenses are compared at.
    """

    shares: dict[str, float]
    exceeds: bool


def one_setting(done: Finished, entries: Sequence[str], attacks: Iterable[str]) -> str | None:
    """Return the entry of a sweep that counts for several attacks: the strongest within the budget on all of them.

    If none is, the one with the highest mean CA@1; None if no entry was measured. An entry that was measured on all
    attacks goes before others.

    Args:
        entries: the entries of the sweep, from weak to strong.
    """
    rows = done.table[done.table["attack"].isin(list(attacks)) & done.table["defense"].isin(entries)]
    rows = rows[rows["ca1_mean"].notna()]
    if rows.empty:
        return None
    measured = rows.groupby("defense")["attack"].nunique()
    rows = rows[rows["defense"].map(measured) == measured.max()]
    within = (rows["within"] == "yes").groupby(rows["defense"]).all()
    kept = [name for name in entries if within.get(name, False)]
    return kept[-1] if kept else str(rows.groupby("defense")["ca1_mean"].mean().idxmax())


def common_losses(
    done: Finished, defenses: Defenses, seeds: Sequence[int], shifts: Shifts | None = None
) -> tuple[float, float] | None:
    """Return the smallest and the largest loss of CA@1 in percentage points that every defense reaches.

    The largest is at most the budget. Where the curves do not overlap, both are the largest loss that every defense
    reaches. None if the accuracy of one was not measured.

    Args:
        defenses: for each, its entries from weak to strong, and the attacks on which they are compared.
        seeds: over which the losses are means.
        shifts: added to the losses of some defenses.
    """
    curves = list(_curves(done, defenses, seeds, shifts).values())
    if any(one.empty for one in curves):
        return None
    most = min(100 * done.study.file.accuracy_budget, *(float(one.max()) for one in curves))
    return min(most, max(float(one.min()) for one in curves)), most


def at_losses(
    done: Finished, defenses: Defenses, seeds: Sequence[int], ends: tuple[float, float], shifts: Shifts | None = None
) -> dict[Hashable, Portion]:
    """Return what counts of each defense, as a mean over the losses of CA@1 between two ends.

    Args:
        seeds: over which the losses are means.
        ends: in percentage points.
        shifts: added to the losses of some defenses.
    """
    curves = _curves(done, defenses, seeds, shifts)
    return {key: _portion(one, ends) for key, one in curves.items() if not one.empty}


def _curves(
    done: Finished, defenses: Defenses, seeds: Sequence[int], shifts: Shifts | None
) -> dict[Hashable, pd.Series]:
    """Return the losses of the settings that count, by defense; they rise."""
    return {
        key: _rising(_losses(done, entries, attacks, seeds)) + (shifts or {}).get(key, 0.0)
        for key, (entries, attacks) in defenses.items()
    }


def _rising(losses: pd.Series) -> pd.Series:
    """Return the losses without those of settings that a stronger one does not exceed."""
    least_after = losses[::-1].cummin()[::-1].shift(-1, fill_value=np.inf)
    return losses[losses + ROUNDING < least_after]


def _portion(losses: pd.Series, ends: tuple[float, float]) -> Portion:
    """Return the mean shares between two ends; shares are lines between the losses of the settings."""
    levels = np.array([ends[0], *(lost for lost in losses if ends[0] < lost < ends[1]), ends[1]])
    found = [_shares(losses, level) for level in levels]
    shares = pd.DataFrame([one for one, _ in found]).fillna(0.0)
    width = ends[1] - ends[0]
    means = np.trapezoid(shares, levels, axis=0) / width if width > 0 else shares.iloc[-1]
    by_name = zip(shares.columns, means, strict=True)
    return Portion({str(name): float(share) for name, share in by_name if share > 0}, found[-1][1])


def _losses(done: Finished, entries: Sequence[str], attacks: Iterable[str], seeds: Sequence[int]) -> pd.Series:
    """Return the loss of CA@1 by measured entry in percentage points, the largest over the attacks."""
    cells = done.cells[done.cells["seed"].astype(int).isin(seeds)]
    by_attack = [100 * losses_by_defense(cells, attack).reindex(list(entries)) for attack in attacks]
    return pd.concat(by_attack, axis=1).max(axis=1, skipna=False).dropna()


def _shares(losses: pd.Series, level: float) -> tuple[dict[str, float], bool]:
    """Return the shares of the entries at a level of loss, and whether every entry loses more.

    The strongest entry that loses at most `level` counts, and of the next one the part that takes up the rest.
    """
    within = [i for i, lost in enumerate(losses) if lost <= level + ROUNDING]
    if not within:
        return {str(losses.idxmin()): 1.0}, True
    last = within[-1]
    if last + 1 == len(losses):
        return {str(losses.index[last]): 1.0}, False
    below, above = losses.iloc[last], losses.iloc[last + 1]
    part = min(max((level - below) / (above - below), 0.0), 1.0)
    shares = {str(losses.index[last]): 1 - part, str(losses.index[last + 1]): part}
    return {name: share for name, share in shares.items() if share > 0}, False
