"""Curves of one class against the others: the areas under them, and thresholds by F1, recall or precision."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

THRESHOLD_DIGITS = 4
"""Decimal places of a threshold; its precision and recall are computed for the rounded number."""
NUM_THRESHOLDS = 10**THRESHOLD_DIGITS + 1
WANTED_SHARES = (0.9, 0.95, 0.99)
"""Recalls and precisions for which thresholds are chosen."""


class Areas(NamedTuple):
    """Areas under the curves of a class."""

    roc_auc: float
    average_precision: float


def measure_areas(truths: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> Areas | None:
    """Measure the areas under the curves of a class; return None if it has all or no pictures.

    The area under the ROC curve is the share of the pairs of a picture of the class and another picture in which the
    first has the higher probability; ties count half (Hanley and McNeil 1982). The average precision is the mean, over
    the pictures of the class, of the precision at their probability. Both are those of scikit-learn, whose checks of
    the arguments take most of the time with many classes.

    Args:
        truths: (n,) bool, whether each picture is of the class.
        probabilities: (n,) of the class.
    """
    num_positive = int(truths.sum())
    num_negative = len(truths) - num_positive
    if not num_positive or not num_negative:
        return None
    everything, positive = np.sort(probabilities), np.sort(probabilities[truths])
    below, up_to = (np.searchsorted(everything, positive, side) for side in ("left", "right"))
    positive_below, positive_up_to = (np.searchsorted(positive, positive, side) for side in ("left", "right"))
    num_ordered = ((below - positive_below) + (up_to - positive_up_to)).sum() / 2
    precision = (num_positive - positive_below) / (len(truths) - below)
    return Areas(float(num_ordered / num_positive / num_negative), float(precision.mean()))


def choose_thresholds(truths: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Choose thresholds for a class, which is predicted if its probability is at least the threshold.

    Args:
        truths: (n,) bool, whether each picture is of the class; at least one is.
        probabilities: (n,) of the class.

    Returns:
        The threshold with the best F1; for each wanted recall the one with the best precision; and for each wanted
        precision the one with the best recall, except if no threshold reaches the precision. Of several equally
        good thresholds, the highest is chosen. Thresholds are rounded down to four decimal places before their
        precision, recall and F1 are computed.
    """
    steps = np.floor(probabilities * 10**THRESHOLD_DIGITS)
    # Floating-point error must not round a threshold up, above the probability that it comes from.
    steps -= steps / 10**THRESHOLD_DIGITS > probabilities
    places = np.unique(steps / 10**THRESHOLD_DIGITS)
    # Sorting once keeps thousands of thresholds over millions of pictures fast.
    predicted = len(truths) - np.searchsorted(np.sort(probabilities), places)
    right = truths.sum() - np.searchsorted(np.sort(probabilities[truths]), places)
    precision, recall = right / predicted, right / truths.sum()
    f1 = 2 * right / (predicted + truths.sum())
    merits = {"best F1": f1}
    merits |= {f"recall {wish:g}": np.where(recall >= wish, precision, -1) for wish in WANTED_SHARES}
    merits |= {f"precision {wish:g}": np.where(precision >= wish, recall, -1) for wish in WANTED_SHARES}
    best = {
        wanted: len(merit) - 1 - int(np.argmax(merit[::-1])) for wanted, merit in merits.items() if merit.max() >= 0
    }
    columns = {"threshold": places, "precision": precision, "recall": recall, "f1": f1}
    return [
        {"wanted": wanted, **{name: float(values[place]) for name, values in columns.items()}}
        for wanted, place in best.items()
    ]
