"""How good a head is, in numbers, from what it says of the validation pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_head.head import Array


def compute_metrics(targets: NDArray[np.int64], probabilities: Array, classes: Sequence[str]) -> dict[str, Any]:
    """Computes what is reported of a head.

    Args:
        targets: (n,) class numbers, the truth.
        probabilities: (n, classes) float32.
        classes: the labels in order.

    Returns:
        Ready for JSON: accuracy, the share of the largest class (what guessing would give), a row of
        precision, recall, F1 and number of pictures for each class, and the confusion matrix (rows are
        the truth). In NumPy, because scikit-learn takes longer to import than a head to fit.
    """
    predicted = predict_classes(probabilities)
    confusion = np.zeros((len(classes),) * 2, np.int64)
    np.add.at(confusion, (targets, predicted), 1)
    right, pictures, named = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall, f1 = _divide(right, named), _divide(right, pictures), _divide(2 * right, pictures + named)
    return {
        "val_accuracy": float(np.mean(predicted == targets)),
        "largest_class_share": float(pictures.max() / len(targets)),
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


def compute_loss(targets: NDArray[np.int64], probabilities: Array) -> float:
    """Computes the mean cross-entropy in nats, at most 16 a row: of probabilities not below 1e-7, as Keras does."""
    given = probabilities[np.arange(len(targets)), targets]
    return float(-np.mean(np.log(np.clip(given, 1e-7, 1))))


def predict_classes(probabilities: Array) -> NDArray[np.int64]:
    """Says which class a row of probabilities stands for; of two equal ones the first."""
    return np.asarray(np.argmax(probabilities, axis=1), np.int64)


def _divide(counts: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divides, with 0 for nothing of nothing."""
    return counts / np.maximum(totals, 1)
