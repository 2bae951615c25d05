"""Metrics of a head, counted in NumPy: they are there with the answer, before scikit-learn is imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_head.data.batches import Array
from train_head.evaluation.uncertainty import compute_interval

_ROUNDED_AWAY = 2.0**-25
"""What a probability of exactly 0 counts as: in float32, 1 minus anything smaller is 1."""


def compute_metrics(
    targets: NDArray[np.int64], probabilities: Array, classes: Sequence[str], largest_class: int
) -> dict[str, Any]:
    """Compute the metrics that a training reports.

    Args:
        targets: (n,) class numbers, the truth.
        probabilities: (n, classes) float32.
        classes: the labels in order.
        largest_class: number of the class that is largest in training (`find_largest_class`).

    Returns:
        Ready for JSON: accuracy with its 95 % interval; the class that is largest in training and its share of
        these pictures, which is the accuracy of always predicting it; precision, recall, F1 and number of pictures
        of each class; and the confusion matrix (rows are the truth).
    """
    predicted = predict_classes(probabilities)
    confusion = np.zeros((len(classes),) * 2, np.int64)
    np.add.at(confusion, (targets, predicted), 1)
    right, pictures, named = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    # A share of nothing is 0.
    precision, recall = right / np.maximum(named, 1), right / np.maximum(pictures, 1)
    f1 = 2 * right / np.maximum(pictures + named, 1)
    return {
        "val_accuracy": float(np.mean(predicted == targets)),
        "val_accuracy_interval": list(compute_interval(int(right.sum()), len(targets))),
        "largest_class": classes[largest_class],
        "largest_class_share": float(pictures[largest_class] / len(targets)),
        "per_class": {
            label: {
                "precision": float(precision[number]),
                "recall": float(recall[number]),
                "f1": float(f1[number]),
                "pictures": int(pictures[number]),
            }
            for number, label in enumerate(classes)
        },
        "confusion": confusion.tolist(),
    }


def find_largest_class(train_targets: NDArray[np.int64], num_classes: int) -> int:
    """Return the number of the class with most training pictures, of equal ones the first.

    "Guessing" means to predict this class always: a guess cannot know which class is largest among other pictures.
    """
    return int(np.bincount(train_targets, minlength=num_classes).argmax())


def compute_loss(targets: NDArray[np.int64], probabilities: Array) -> float:
    """Compute the mean cross-entropy in nats."""
    return float(np.mean(list_losses(targets, probabilities)))


def list_losses(targets: NDArray[np.int64], probabilities: Array) -> NDArray[np.float64]:
    """Return each row's cross-entropy in nats, (n,); a probability of exactly 0 counts as 2⁻²⁵, which is 17.3 nats."""
    given = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return np.asarray(0 - np.log(np.where(given > 0, np.minimum(given, 1), _ROUNDED_AWAY)), np.float64)


def predict_classes(probabilities: Array) -> NDArray[np.int64]:
    """Return the most probable class of each row, of equal ones the first."""
    return np.asarray(np.argmax(probabilities, axis=1), np.int64)
