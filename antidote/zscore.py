"""The backdoor z-score (Carlini & Terzis, arXiv 2106.09667): how much a trigger draws pictures together.

    z = (mean cos(f(b(u)), f(b(v))) - mean cos(f(u), f(v))) / std cos(f(u), f(v))

over pairs of different pictures u, v. The paper samples pairs; here the means and the standard deviation (over the
population of pairs) are those of all pairs, in closed form: with unit features F (N, D), the sum over all ordered pairs
is |sum of rows|^2 - N, and that of squares |F^T F|^2 - N. The score is in standard deviations and has no upper end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DECIMALS = 4  # the encoder's own rounding, which depends on the size of its batches, stays below
SMALL = 1e-6  # a deviation below this is rounding of features that all agree


def backdoor_z(clean: Tensor, triggered: Tensor) -> float | None:
    """Return the z-score from normalised features (N, D) of pictures without and with the trigger.

    None where it has no meaning: fewer than two pictures, or clean features that are all alike.
    """
    if len(clean) < 2:
        return None
    mean, deviation = pair_cosines(clean)
    if deviation < SMALL:
        return None
    return round((pair_cosines(triggered)[0] - mean) / deviation, DECIMALS)


def pair_cosines(features: Tensor) -> tuple[float, float]:
    """Return mean and standard deviation of the cosines of all pairs of different rows of unit features (N, D)."""
    features = features.double()
    count = len(features)
    own = features.square().sum(dim=1)  # 1 but for rounding
    pairs = count * (count - 1)
    mean = float(features.sum(dim=0).square().sum() - own.sum()) / pairs
    square = float((features.T @ features).square().sum() - own.square().sum()) / pairs
    return mean, max(square - mean**2, 0.0) ** 0.5
