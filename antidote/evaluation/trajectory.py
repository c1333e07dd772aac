"""Figures of a rate that is measured at several steps of a training: delivered, worst, delta, area, revival step."""

from __future__ import annotations

from collections.abc import Sequence


def figures(steps: Sequence[int], rates: Sequence[float]) -> dict[str, float]:
    """Return the figures of a curve.

    `delivered` is the first rate, `worst` the highest of the later rates, `delta` worst minus delivered (negative if
    the rate only falls), and `area` the mean over steps by the trapezoidal rule. With one point, worst and area equal
    delivered.

    Args:
        steps: N steps at which the rate was measured, ascending; the first is the model as delivered.
        rates: N fractions in [0, 1].
    """
    delivered, worst = rates[0], max(rates[1:], default=rates[0])
    length = steps[-1] - steps[0]
    parts = zip(steps, steps[1:], rates, rates[1:], strict=False)
    area = sum((later - step) * (rate + after) / 2 for step, later, rate, after in parts)
    return {
        "delivered": delivered,
        "worst": worst,
        "delta": worst - delivered,
        "area": area / length if length else delivered,
    }


def revival_step(steps: Sequence[int], rates: Sequence[float], margin: float) -> int | None:
    """Return the first step whose rate exceeds the first rate by more than `margin`, a fraction; None without one."""
    pairs = zip(steps, rates, strict=True)
    return next((step for step, rate in pairs if rate > rates[0] + margin), None)
