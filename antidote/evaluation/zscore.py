"""The backdoor z-score (Carlini & Terzis, arXiv 2106.09667): how much closer a trigger brings the features of pictures.

    z = (mean cos(f(b(u)), f(b(v))) - mean cos(f(u), f(v))) / std cos(f(u), f(v))

over pairs of different pictures u, v. The paper samples pairs; here the means and the standard deviation (over the
population of pairs) are computed over all pairs, in closed form: with unit features F (N, D), the sum of cosines over
all ordered pairs is |sum of rows|^2 - N, and the sum of their squares |F^T F|^2 - N. The score is in standard
deviations and has no upper end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DECIMALS = 4  # coarser than the encoder's rounding, which depends on the size of its batches
SMALL = 1e-6  # a deviation below is rounding of equal features


class PairCosines:
    """Mean and standard deviation of the cosines of all pairs of different pictures, from features in parts.

    cosines = PairCosines()
    cosines.add(features)
    mean, deviation = cosines.moments()
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | float = 0.0
        self._own: Tensor | float = 0.0
        self._own_squared: Tensor | float = 0.0
        self._gram: Tensor | float = 0.0

    def add(self, features: Tensor) -> None:
        """Add the normalised features (n, D) of further pictures."""
        features = features.double()
        self.count += len(features)
        self._sum += features.sum(dim=0)
        own = features.square().sum(dim=1)  # 1 but for rounding
        self._own += own.sum()
        self._own_squared += own.square().sum()
        self._gram += features.T @ features

    def moments(self) -> tuple[float, float]:
        """Return mean and standard deviation; needs at least two pictures."""
        pairs = self.count * (self.count - 1)
        mean = float(self._sum.square().sum() - self._own) / pairs
        square = float(self._gram.square().sum() - self._own_squared) / pairs
        return mean, max(square - mean**2, 0.0) ** 0.5


def backdoor_z(clean: PairCosines, triggered: PairCosines) -> float | None:
    """Return the z-score of pictures without and with the trigger.

    None where the score is undefined: fewer than two pictures, or equal clean features.
    """
    if clean.count < 2:
        return None
    mean, deviation = clean.moments()
    if deviation < SMALL:
        return None
    return round((triggered.moments()[0] - mean) / deviation, DECIMALS)
