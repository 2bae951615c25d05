"""How far a head can be trusted: intervals, areas under curves, calibration and thresholds, with scikit-learn.

`metrics.py` has what is only counted, and is there before the answer; this comes after it, for the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from train_head.head import Array
from train_head.metrics import predict_classes

NUM_BINS = 10
CONFIDENCE = 0.95
WANTED_RECALLS = (0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Threshold:
    """Calling pictures by a class's name from a probability on, and what comes of it."""

    wanted: str
    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ClassEvaluation:
    """One class against all others; an area is None where the pictures are all of it, or none."""

    label: str
    num_pictures: int
    precision: float
    recall: float
    f1: float
    roc_auc: float | None
    average_precision: float | None
    thresholds: list[Threshold]


@dataclass(frozen=True)
class ReliabilityBin:
    """Pictures whose probability lies in a tenth of [0, 1], at its upper edge included."""

    low: float
    high: float
    num_pictures: int
    mean_probability: float
    share_right: float


@dataclass(frozen=True)
class Evaluation:
    """What a head's probabilities are worth on some pictures."""

    num_pictures: int
    accuracy: float
    accuracy_interval: list[float]
    """Wilson's, 95 %."""
    largest_class: str
    largest_class_share: float
    balanced_accuracy: float
    """The recalls' mean: guessing gives 1 / classes."""
    roc_auc: float | None
    """Of the second of two classes; of more, the mean of each against the others. Likewise average_precision."""
    average_precision: float | None
    log_loss: float
    brier: float
    """The mean squared difference of probability and truth: 0–1 for two classes, 0–2 summed over more."""
    calibration_error: float
    """Expected calibration error, 0–1: of the second of two classes; of more, of each picture's label."""
    confusion: list[list[int]]
    """Rows are the truth."""
    classes: list[ClassEvaluation]
    reliability: list[ReliabilityBin]


def evaluate(targets: NDArray[np.int64], probabilities: Array, labels: Sequence[str]) -> Evaluation:
    """Evaluates probabilities against the truth.

    Args:
        targets: (n,) class numbers, n above 0.
        probabilities: (n, classes) float32, rows that add up to 1.
        labels: of the classes, in order.
    """
    from sklearn import metrics

    predicted, numbers = predict_classes(probabilities), list(range(len(labels)))
    # Float32 rows add up to 1 only nearly, of which scikit-learn warns.
    exact = probabilities.astype(np.float64) / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    counts = metrics.precision_recall_fscore_support(targets, predicted, labels=numbers, zero_division=0)
    classes = [
        _judge_class(label, targets == number, exact[:, number], [float(count) for count in found])
        for number, (label, *found) in enumerate(zip(labels, *counts, strict=True))
    ]
    decisive = classes[1:] if len(classes) == 2 else classes
    bins = _measure_reliability(*_choose_events(targets, exact))
    shares = np.bincount(targets, minlength=len(labels)) / len(targets)
    return Evaluation(
        num_pictures=len(targets),
        accuracy=float(metrics.accuracy_score(targets, predicted)),
        accuracy_interval=list(compute_interval(int(np.sum(predicted == targets)), len(targets))),
        largest_class=labels[int(shares.argmax())],
        largest_class_share=float(shares.max()),
        balanced_accuracy=float(np.mean([found.recall for found in classes if found.num_pictures])),
        roc_auc=_average([found.roc_auc for found in decisive]),
        average_precision=_average([found.average_precision for found in decisive]),
        log_loss=float(metrics.log_loss(targets, exact, labels=numbers)),
        brier=float(metrics.brier_score_loss(targets, exact, labels=numbers)),
        calibration_error=sum(b.num_pictures * abs(b.share_right - b.mean_probability) for b in bins) / len(targets),
        confusion=metrics.confusion_matrix(targets, predicted, labels=numbers).tolist(),
        classes=classes,
        reliability=bins,
    )


def compute_interval(num_right: int, num_pictures: int) -> tuple[float, float]:
    """Computes the interval that holds the true share 95 times in a hundred. Source: Wilson 1927."""
    from scipy.stats import binomtest

    interval = binomtest(num_right, num_pictures).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def choose_thresholds(truths: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> list[Threshold]:
    """Chooses from which probability on to call a picture by a class's name.

    Args:
        truths: (n,) whether a picture is of the class; some are.
        probabilities: (n,) of the class.

    Returns:
        The threshold with the best F1, and for each wanted recall the one that has it with the best precision. Of
        equally good ones the highest.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, places = precision_recall_curve(truths, probabilities)
    # The curve's last point belongs to no threshold.
    precision, recall = precision[:-1], recall[:-1]
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    wishes = [("best F1", f1)]
    wishes += [(f"recall {wish:g}", np.where(recall >= wish, precision, -1)) for wish in WANTED_RECALLS]
    found = []
    for wanted, merit in wishes:
        best = len(merit) - 1 - int(np.argmax(merit[::-1]))
        found.append(Threshold(wanted, *(float(values[best]) for values in (places, precision, recall, f1))))
    return found


def _judge_class(
    label: str, truths: NDArray[np.bool_], probabilities: NDArray[np.float64], counts: Sequence[float]
) -> ClassEvaluation:
    """Judges one class; `counts` are precision, recall, F1 and the number of its pictures."""
    from sklearn import metrics

    precision, recall, f1, num_pictures = counts
    known = ClassEvaluation(label, int(num_pictures), precision, recall, f1, None, None, [])
    if truths.all() or not truths.any():
        return known
    return replace(
        known,
        roc_auc=float(metrics.roc_auc_score(truths, probabilities)),
        average_precision=float(metrics.average_precision_score(truths, probabilities)),
        thresholds=choose_thresholds(truths, probabilities),
    )


def _choose_events(
    targets: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Chooses what is predicted with which probability: the second class, or of more that the label is right."""
    if probabilities.shape[1] == 2:
        return targets == 1, probabilities[:, 1]
    return probabilities.argmax(axis=1) == targets, probabilities.max(axis=1)


def _measure_reliability(events: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> list[ReliabilityBin]:
    from sklearn.calibration import calibration_curve

    shares, means = calibration_curve(events, probabilities, n_bins=NUM_BINS)
    edges = np.linspace(0, 1, NUM_BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], probabilities), minlength=NUM_BINS)
    return [
        ReliabilityBin(place / NUM_BINS, (place + 1) / NUM_BINS, int(counts[place]), float(mean), float(share))
        for place, mean, share in zip(np.flatnonzero(counts).tolist(), means, shares, strict=True)
    ]


def _average(areas: Sequence[float | None]) -> float | None:
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if len(known) == len(areas) else None
