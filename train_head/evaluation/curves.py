"""Curves of a class: the thresholds from which it is predicted, by F1 or by a wanted recall."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLD_DIGITS = 4
"""Decimal places of a threshold; its precision and recall are computed for the rounded number."""
NUM_THRESHOLDS = 10**THRESHOLD_DIGITS + 1
WANTED_RECALLS = (0.9, 0.95, 0.99)


def choose_thresholds(truths: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Choose thresholds for a class, which is predicted if its probability is at least the threshold.

    Args:
        truths: (n,) bool, whether each picture is of the class; at least one is.
        probabilities: (n,) of the class.

    Returns:
        The threshold with the best F1, and for each wanted recall the one with the best precision. Of several equally
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
    merits |= {f"recall {wish:g}": np.where(recall >= wish, precision, -1) for wish in WANTED_RECALLS}
    best = {wanted: len(merit) - 1 - int(np.argmax(merit[::-1])) for wanted, merit in merits.items()}
    columns = {"threshold": places, "precision": precision, "recall": recall, "f1": f1}
    return [
        {"wanted": wanted, **{name: float(values[place]) for name, values in columns.items()}}
        for wanted, place in best.items()
    ]
