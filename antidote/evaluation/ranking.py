"""Figures of scores that should put poisoned items before clean ones, computed by scikit-learn."""

from __future__ import annotations

import numpy as np

FALSE_POSITIVES = 0.01
CALIBRATED = ("tpr_calibrated", "fpr_calibrated")
RATES = ("auroc", "auprc", "tpr_at_fpr1", "fpr_at_tpr1", "precision", "recall", "fpr", "precision_at_poisons",
         *CALIBRATED)  # fmt: skip
GRID = 200  # steps of the false-positive rate, in which a ROC curve is kept


def of_ranking(values: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the figures of `RATES` that need no threshold, for scores (N,) and truth (N,) bool with both values."""
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve  # takes a second

    false, true, _ = roc_curve(truth, values, drop_intermediate=False)
    return {
        "auroc": float(roc_auc_score(truth, values)),
        "auprc": float(average_precision_score(truth, values)),
        "tpr_at_fpr1": float(true[false <= FALSE_POSITIVES].max()),
        "fpr_at_tpr1": float(false[true >= 1].min()),
        "precision_at_poisons": _precision_at(int(truth.sum()), values, truth),
    }


def calibrated(
    values: np.ndarray, truth: np.ndarray, rate: float = FALSE_POSITIVES, seed: int | None = None
) -> dict[str, float | None]:
    """Return the rates of `CALIBRATED` at a threshold from clean items alone, by conformal prediction.

    An item x is flagged if (1 + number of calibration scores >= x) / (1 + number of calibration scores) <= rate. For
    clean items like those of the calibration, at most the share `rate` is flagged, for any detector (Vovk et al. 2005).

    Args:
        values: scores (N,).
        truth: (N,) bool, whether the item is poisoned.
        rate: false-positive rate that is asked for.
        seed: draws half of the clean items for calibration, and the other half gives the false-positive rate. None: all
            clean items calibrate, and there is no false-positive rate.

    Returns:
        The rates; None where there are too few clean items for `rate`, fewer than 1 / rate - 1, or none to count.
    """
    clean, found = values[~truth], dict.fromkeys(CALIBRATED)
    if seed is not None:
        clean = np.random.default_rng(seed).permutation(clean)
    known, held = (clean, clean[:0]) if seed is None else (clean[: len(clean) // 2], clean[len(clean) // 2 :])
    if rate * (1 + len(known)) * (1 + 1e-9) < 1:  # the rounding of 1 / 100 * 100
        return found
    known = np.sort(known)

    def flagged(scores: np.ndarray) -> float | None:
        above = len(known) - np.searchsorted(known, scores, side="left")
        return float((1 + above <= rate * (1 + len(known)) * (1 + 1e-9)).mean()) if len(scores) else None

    return {"tpr_calibrated": flagged(values[truth]), "fpr_calibrated": flagged(held)}


def _precision_at(count: int, values: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of poisoned items among the highest scores, equal scores in random order: its expectation."""
    lowest = np.sort(values)[-count]
    above, equal = values > lowest, values == lowest
    return float((truth[above].sum() + (count - above.sum()) * truth[equal].mean()) / count)


def roc(values: np.ndarray, truth: np.ndarray) -> list[float]:
    """Return the highest true-positive rate at each of GRID + 1 false-positive rates, evenly from 0 to 1.

    Equal scores are a straight line, as the area under the curve counts them.
    """
    from sklearn.metrics import roc_curve  # takes a second

    false, true, _ = roc_curve(truth, values, drop_intermediate=False)
    return [round(float(rate), 6) for rate in np.interp(np.linspace(0, 1, GRID + 1), false, true)]
