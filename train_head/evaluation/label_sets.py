"""Metrics of a head that predicts any number of labels for each picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.labels import join_labels
from train_head.data.batches import Array
from train_head.evaluation.confusion import MAX_DENSE_CLASSES
from train_head.evaluation.curves import Areas, choose_thresholds, measure_areas
from train_head.evaluation.metrics import (
    LABEL_THRESHOLD,
    NUM_DETAILED,
    compute_loss,
    find_correct,
    list_events,
    measure_error,
    measure_reliability,
)
from train_head.evaluation.uncertainty import compute_interval, compute_normal_interval

Flags = NDArray[np.uint8]
"""1 where a picture has a label, else 0."""


def find_largest_set(train_targets: Flags) -> Flags:
    """Return the most frequent set of labels, (classes,); in a tie, the one that lacks the first different label."""
    sets, counts = np.unique(train_targets, axis=0, return_counts=True)
    return np.asarray(sets[int(np.argmax(counts))], np.uint8)


def compute_label_metrics(
    targets: Flags, probabilities: Array, classes: Sequence[str], largest: Flags
) -> dict[str, Any]:
    """Compute the metrics of a trained head. A label is predicted if its probability is at least 0.5.

    Args:
        targets: (n, classes) uint8.
        probabilities: (n, classes) float32.
        classes: the labels in order.
        largest: the set of labels that is most frequent in training (`find_largest_set`).

    Returns:
        Ready for JSON:

        - `val_accuracy`: the share of the pictures whose labels are all predicted correctly, as in scikit-learn (exact
          match, subset accuracy), with its 95% interval; the most frequent set of labels in training, and its share of
          the evaluated pictures, which is the accuracy of always predicting it.
        - `mean_average_precision`: the mean of the average precision over the labels that some but not all pictures
          have, with its standard error and 95% interval; all None if there is no such label.
        - `micro_f1`, `micro_precision`, `micro_recall`: over all pairs of a picture and a label; `macro_f1`: the mean
          over the labels that pictures have; `hamming_loss`: the share of the pairs that are predicted incorrectly.
        - `per_class`: average precision, precision, recall, F1 and number of pictures of each label.
    """
    predicted = probabilities >= LABEL_THRESHOLD
    truths = targets.astype(bool)
    right, pictures, num_predicted = (found.sum(axis=0) for found in (predicted & truths, truths, predicted))
    precision, recall = right / np.maximum(num_predicted, 1), right / np.maximum(pictures, 1)
    f1 = 2 * right / np.maximum(pictures + num_predicted, 1)
    num_correct = int(find_correct(targets, probabilities).sum())
    areas = [measure_areas(truth, column) for truth, column in _list_columns(targets, probabilities)]
    mean = _average(areas)
    error = None if mean is None else estimate_error(targets, probabilities)
    return {
        "val_accuracy": num_correct / len(targets),
        "val_accuracy_interval": list(compute_interval(num_correct, len(targets))),
        "largest_class": join_labels(label for label, has in zip(classes, largest, strict=True) if has) or "no label",
        "largest_class_share": float((targets == largest).all(axis=1).mean()),
        "mean_average_precision": mean,
        "mean_average_precision_error": error,
        "mean_average_precision_interval": compute_normal_interval(mean, error),
        "micro_precision": float(right.sum() / max(num_predicted.sum(), 1)),
        "micro_recall": float(right.sum() / max(pictures.sum(), 1)),
        "micro_f1": float(2 * right.sum() / max((pictures + num_predicted).sum(), 1)),
        "macro_f1": float(f1[pictures > 0].mean()) if pictures.any() else 0.0,
        "hamming_loss": float((predicted != truths).mean()),
        "per_class": {
            label: {
                "average_precision": area and area.average_precision,
                "roc_auc": area and area.roc_auc,
                "precision": float(precision[number]),
                "recall": float(recall[number]),
                "f1": float(f1[number]),
                "pictures": int(pictures[number]),
                "num_predicted": int(num_predicted[number]),
                "num_right": int(right[number]),
            }
            for number, (label, area) in enumerate(zip(classes, areas, strict=True))
        },
        "confusion": None,
    }


def evaluate_labels(targets: Flags, probabilities: Array, classes: Sequence[str], largest: Flags) -> dict[str, Any]:
    """Evaluate predicted probabilities; the arguments are those of `compute_label_metrics`.

    Returns:
        Ready for JSON: the metrics of `compute_label_metrics`, with the accuracy as `accuracy`; `log_loss` in nats and
        `brier`, the mean squared error, both means over pictures and labels; `calibration_error` and `reliability` over
        all labels of all pictures; and `classes`: the metrics of each label and its `thresholds`. With more than
        `MAX_DENSE_CLASSES` labels, only the `NUM_DETAILED` with the lowest average precision have thresholds.
    """
    counted = compute_label_metrics(targets, probabilities, classes, largest)
    per_class = counted.pop("per_class")
    detailed = _choose_detailed(per_class)
    columns, events = _list_columns(targets, probabilities), list_events(targets, probabilities)
    return {
        "is_multi_label": True,
        "num_pictures": len(targets),
        **{name.removeprefix("val_"): value for name, value in counted.items()},
        "log_loss": compute_loss(targets, probabilities),
        "brier": float(np.mean((probabilities - targets) ** 2, dtype=np.float64)),
        "calibration_error": measure_error(events),
        "reliability": measure_reliability(events),
        "classes": [
            {
                "label": label,
                "num_pictures": row["pictures"],
                **{name: value for name, value in row.items() if name != "pictures"},
                "thresholds": choose_thresholds(truth, column) if number in detailed else [],
            }
            for number, ((label, row), (truth, column)) in enumerate(zip(per_class.items(), columns, strict=True))
        ],
    }


def _average(areas: Sequence[Areas | None]) -> float | None:
    """Return the mean average precision over the labels that have one; None if none has."""
    known = [area.average_precision for area in areas if area]
    return float(np.mean(known)) if known else None


def estimate_error(targets: Flags, probabilities: Array) -> float:
    """Estimate the standard error of the mean average precision over samples of as many pictures.

    It is the infinitesimal jackknife: the limit that bootstrap samples approach, without drawing any.

    Source: Jaeckel 1972; Efron and Tibshirani 1993, An introduction to the bootstrap, section 21.9.
    """
    slopes, num_labels = np.zeros(len(targets)), 0
    for truth, column in _list_columns(targets, probabilities):
        if 0 < truth.sum() < len(targets):
            slopes += differentiate_precision(truth, column)
            num_labels += 1
    return float(np.sqrt(np.sum(slopes**2))) / num_labels


def differentiate_precision(truths: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the derivative of the average precision with respect to the weight of each picture, (n,), at weights of 1.

    For pictures i of the label with a_i pictures of the label and b_i pictures in all that have at least the same
    probability, the average precision is the mean of a_i / b_i.

    Args:
        truths: (n,) bool, whether each picture has the label; some have and some have not.
        probabilities: (n,) of the label.
    """
    positive, everything = np.sort(probabilities[truths]), np.sort(probabilities)
    right = len(positive) - np.searchsorted(positive, positive)
    predicted = len(everything) - np.searchsorted(everything, positive)
    precision = right / predicted
    # A picture counts in a_i and b_i of the pictures of the label that have at most its probability.
    num_below = np.searchsorted(positive, probabilities, "right")
    of_right, of_predicted = (
        np.concatenate([[0.0], np.cumsum(part)]) for part in (1 / predicted, precision / predicted)
    )
    slopes = -of_predicted[num_below]
    own = precision[np.searchsorted(positive, probabilities[truths])]
    slopes[truths] += of_right[num_below[truths]] + own - precision.mean()
    return np.asarray(slopes / len(positive), np.float64)


def _list_columns(targets: Flags, probabilities: Array) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """Yield, for each label, which pictures have it and its probabilities, (n,) each."""
    # Reading single columns of a large matrix is slow.
    for truth, column in zip(np.ascontiguousarray(targets.T), np.ascontiguousarray(probabilities.T), strict=True):
        yield truth == 1, column.astype(np.float64)


def _choose_detailed(per_class: Mapping[str, Mapping[str, Any]]) -> set[int]:
    """Choose the labels that have thresholds: all, or those with the lowest average precision if there are many."""
    found = [row["average_precision"] for row in per_class.values()]
    known = [number for number, precision in enumerate(found) if precision is not None]
    if len(found) > MAX_DENSE_CLASSES:
        known = sorted(known, key=lambda number: float(found[number]))[:NUM_DETAILED]
    return set(known)
