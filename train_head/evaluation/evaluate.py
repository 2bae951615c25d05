"""Evaluation of a head with scikit-learn: areas under curves, calibration and thresholds, for the report.

`metrics.py` has what is only counted, and is available with the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_head.data.batches import Array
from train_head.evaluation.metrics import compute_loss, predict_classes
from train_head.evaluation.uncertainty import compute_interval

NUM_BINS = 10
THRESHOLD_DIGITS = 4
"""Decimal places of a threshold; what is reported for it holds for the number with so many."""
NUM_THRESHOLDS = 10**THRESHOLD_DIGITS + 1
WANTED_RECALLS = (0.9, 0.95, 0.99)


def evaluate(
    targets: NDArray[np.int64], probabilities: Array, labels: Sequence[str], largest_class: int
) -> dict[str, Any]:
    """Evaluate probabilities against the truth.

    Args:
        targets: (n,) class numbers, n above 0.
        probabilities: (n, classes) float32, rows that add up to 1.
        labels: the classes in order.
        largest_class: number of the class that is largest in training (`metrics.find_largest_class`).

    Returns:
        Ready for JSON. `accuracy` with its 95 % `accuracy_interval`, which `record_selection` widens where the head
        was chosen by these pictures; `balanced_accuracy` is the mean recall. `roc_auc` and `average_precision` are
        those of the second of two classes, of more the mean of each against the others; None where a class has no
        pictures, or all. `log_loss` in nats. `brier` is the mean squared difference of probability and truth: 0 to 1
        for two classes, 0 to 2 summed over more. `calibration_error` is the expected one of the second of two
        classes, of more that of the predicted class; `reliability` has the tenths of [0, 1] that it comes from. The
        rows of `confusion` are the truth. `classes` has each class against the others.
    """
    from sklearn import metrics

    predicted, numbers = predict_classes(probabilities), list(range(len(labels)))
    # Float32 rows add up to 1 only nearly, of which scikit-learn warns.
    exact = probabilities.astype(np.float64) / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    counts = metrics.precision_recall_fscore_support(targets, predicted, labels=numbers, zero_division=0)
    classes = [
        {
            "label": label,
            "num_pictures": int(support),
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            **_evaluate_class(targets == number, exact[:, number]),
        }
        for number, (label, precision, recall, f1, support) in enumerate(zip(labels, *counts, strict=True))
    ]
    decisive = classes[1:] if len(classes) == 2 else classes
    reliability = _measure_reliability(targets, exact)
    gaps = [found["num_pictures"] * abs(found["share_right"] - found["mean_probability"]) for found in reliability]
    return {
        "num_pictures": len(targets),
        "accuracy": float(metrics.accuracy_score(targets, predicted)),
        "accuracy_interval": list(compute_interval(int(np.sum(predicted == targets)), len(targets))),
        "largest_class": labels[largest_class],
        "largest_class_share": float(np.mean(targets == largest_class)),
        "balanced_accuracy": float(np.mean([found["recall"] for found in classes if found["num_pictures"]])),
        "roc_auc": _average([found["roc_auc"] for found in decisive]),
        "average_precision": _average([found["average_precision"] for found in decisive]),
        "log_loss": compute_loss(targets, probabilities),
        "brier": float(metrics.brier_score_loss(targets, exact, labels=numbers)),
        "calibration_error": sum(gaps) / len(targets),
        "confusion": metrics.confusion_matrix(targets, predicted, labels=numbers).tolist(),
        "classes": classes,
        "reliability": reliability,
    }


def choose_thresholds(truths: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Choose the probabilities from which on to predict a class.

    Args:
        truths: (n,) whether a picture is of the class; some are.
        probabilities: (n,) of the class.

    Returns:
        The threshold with the best F1, and for each wanted recall the one that has it with the best precision; of
        equally good ones the highest. All have four decimal places, rounded down before anything is counted, so that
        precision, recall and F1 hold for the threshold as it is written.
    """
    steps = np.floor(probabilities * 10**THRESHOLD_DIGITS)
    # Never rounded up: a picture at or above the number still is.
    steps -= steps / 10**THRESHOLD_DIGITS > probabilities
    places = np.unique(steps / 10**THRESHOLD_DIGITS)
    # What lies at a place or above it, by one sort: thousands of thresholds with millions of pictures stay cheap.
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


def _evaluate_class(truths: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """Return the areas and thresholds of one class; no areas where the pictures are all of it, or none."""
    from sklearn import metrics

    if truths.all() or not truths.any():
        return {"roc_auc": None, "average_precision": None, "thresholds": []}
    return {
        "roc_auc": float(metrics.roc_auc_score(truths, probabilities)),
        "average_precision": float(metrics.average_precision_score(truths, probabilities)),
        "thresholds": choose_thresholds(truths, probabilities),
    }


def _measure_reliability(targets: NDArray[np.int64], probabilities: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Compare probability and frequency of the second of two classes, of more those of the predicted class."""
    from sklearn.calibration import calibration_curve

    events, given = targets == 1, probabilities[:, 1]
    if probabilities.shape[1] > 2:
        events, given = probabilities.argmax(axis=1) == targets, probabilities.max(axis=1)
    shares, means = calibration_curve(events, given, n_bins=NUM_BINS)
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, NUM_BINS + 1)[1:-1], given), minlength=NUM_BINS)
    return [
        {
            "low": place / NUM_BINS,
            "high": (place + 1) / NUM_BINS,
            "num_pictures": int(counts[place]),
            "mean_probability": float(mean),
            "share_right": float(share),
        }
        for place, mean, share in zip(np.flatnonzero(counts).tolist(), means, shares, strict=True)
    ]


def _average(areas: Sequence[float | None]) -> float | None:
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if len(known) == len(areas) else None
