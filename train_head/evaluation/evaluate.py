"""How far a head can be trusted: intervals, areas under curves, calibration and thresholds, with scikit-learn.

`metrics.py` has what is only counted, and is there before the answer; this comes after it, for the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from base.typed import Amount, Count, Share, check_type
from train_head.data.batches import Array
from train_head.evaluation.metrics import compute_loss, predict_classes
from train_head.evaluation.uncertainty import compute_interval

NUM_BINS = 10
THRESHOLD_DIGITS = 4
"""Decimal places of a threshold; what is reported for it holds for the number with so many."""
NUM_THRESHOLDS = 10**THRESHOLD_DIGITS + 1
WANTED_RECALLS = (0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Threshold:
    """Predicting a class from a probability on, and what comes of it."""

    wanted: str
    threshold: Share
    """Of four decimal places, so that it can be written down; the rest holds for it as it is written."""
    precision: Share
    recall: Share
    f1: Share


@dataclass(frozen=True)
class ClassEvaluation:
    """One class against all others; an area is None where the pictures are all of it, or none."""

    label: str
    num_pictures: Count
    precision: Share
    recall: Share
    f1: Share
    roc_auc: Share | None
    average_precision: Share | None
    thresholds: list[Threshold]


@dataclass(frozen=True)
class ReliabilityBin:
    """Pictures whose probability lies in a tenth of [0, 1], at its upper edge included."""

    low: Share
    high: Share
    num_pictures: Count
    mean_probability: Share
    share_right: Share


@dataclass(frozen=True)
class Evaluation:
    """What a head's probabilities are worth on some pictures."""

    num_pictures: Count
    accuracy: Share
    accuracy_interval: list[Share]
    """95 %; `record_selection` widens it where the head was chosen by these pictures."""
    largest_class: str
    """The class with most training pictures, and its share of these pictures: the accuracy of guessing it."""
    largest_class_share: Share
    balanced_accuracy: Share
    """The recalls' mean: guessing gives 1 / classes."""
    roc_auc: Share | None
    """Of the second of two classes; of more, the mean of each against the others. Likewise average_precision."""
    average_precision: Share | None
    log_loss: Amount
    brier: Amount
    """The mean squared difference of probability and truth: 0–1 for two classes, 0–2 summed over more."""
    calibration_error: Share
    """Expected calibration error, 0–1: of the second of two classes; of more, of each picture's label."""
    confusion: list[list[Count]]
    """Rows are the truth."""
    classes: list[ClassEvaluation]
    reliability: list[ReliabilityBin]


def evaluate(targets: NDArray[np.int64], probabilities: Array, labels: Sequence[str], largest_class: int) -> Evaluation:
    """Evaluates probabilities against the truth.

    Args:
        targets: (n,) class numbers, n above 0.
        probabilities: (n, classes) float32, rows that add up to 1.
        labels: of the classes, in order.
        largest_class: number of the class that is largest in training (`metrics.find_largest_class`).
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
    return Evaluation(
        num_pictures=len(targets),
        accuracy=float(metrics.accuracy_score(targets, predicted)),
        accuracy_interval=list(compute_interval(int(np.sum(predicted == targets)), len(targets))),
        largest_class=labels[largest_class],
        largest_class_share=float(np.mean(targets == largest_class)),
        balanced_accuracy=float(np.mean([found.recall for found in classes if found.num_pictures])),
        roc_auc=_average([found.roc_auc for found in decisive]),
        average_precision=_average([found.average_precision for found in decisive]),
        log_loss=compute_loss(targets, probabilities),
        brier=float(metrics.brier_score_loss(targets, exact, labels=numbers)),
        calibration_error=sum(b.num_pictures * abs(b.share_right - b.mean_probability) for b in bins) / len(targets),
        confusion=metrics.confusion_matrix(targets, predicted, labels=numbers).tolist(),
        classes=classes,
        reliability=bins,
    )


def check_evaluation(values: object, labels: Sequence[str]) -> dict[str, Any]:
    """Return an evaluation as it was read from JSON.

    Raises:
        ValueError: values of other kinds, or of other classes.
    """
    check_type(Evaluation, values, "evaluation")
    found = cast("dict[str, Any]", values)
    if [judged["label"] for judged in found["classes"]] != list(labels):
        raise ValueError("evaluation.classes are others than the run's")
    if [len(row) for row in found["confusion"]] != [len(labels)] * len(labels):
        raise ValueError("evaluation.confusion is not a square of the classes")
    if len(found["accuracy_interval"]) != 2:
        raise ValueError("evaluation.accuracy_interval is not two numbers")
    if found["num_pictures"] < 1:
        raise ValueError("evaluation.num_pictures is 0")
    return found


def choose_thresholds(truths: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> list[Threshold]:
    """Choose from which probability on to predict a class.

    Args:
        truths: (n,) whether a picture is of the class; some are.
        probabilities: (n,) of the class.

    Returns:
        The threshold with the best F1, and for each wanted recall the one that has it with the best precision. Of
        equally good ones the highest. All have four decimal places, rounded down before anything is counted.
    """
    places = np.unique(_round_down(probabilities))
    # What lies at a place or above it, by one sort: thousands of thresholds with millions of pictures stay cheap.
    called = len(truths) - np.searchsorted(np.sort(probabilities), places)
    right = truths.sum() - np.searchsorted(np.sort(probabilities[truths]), places)
    precision, recall = right / called, right / truths.sum()
    f1 = 2 * right / (called + truths.sum())
    wishes = [("best F1", f1)]
    wishes += [(f"recall {wish:g}", np.where(recall >= wish, precision, -1)) for wish in WANTED_RECALLS]
    found = []
    for wanted, merit in wishes:
        best = len(merit) - 1 - int(np.argmax(merit[::-1]))
        found.append(Threshold(wanted, *(float(values[best]) for values in (places, precision, recall, f1))))
    return found


def _round_down(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to the digits of a threshold, never up: what was at or above the number still is."""
    steps = np.floor(probabilities * 10**THRESHOLD_DIGITS)
    steps -= steps / 10**THRESHOLD_DIGITS > probabilities
    return np.asarray(steps / 10**THRESHOLD_DIGITS, np.float64)


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
