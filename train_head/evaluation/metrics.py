"""How good a head is, in numbers, from what it says of the validation pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.typed import Amount, Count, Share, check_type
from train_head.data.batches import Array
from train_head.evaluation.uncertainty import Selection, compute_interval

_ROUNDED_AWAY = 2.0**-25
"""What a probability of exactly 0 counts as: in float32, 1 minus anything smaller is 1."""


@dataclass(frozen=True)
class _Fits:
    """Repeats or folds."""

    val_accuracies: list[Share]
    mean: Share
    std: Amount
    num_train: list[Count] | None = None
    num_planned: Count = 0


@dataclass(frozen=True)
class _Divergence:
    """Where a loss was no number."""

    trial: str
    epoch: Count
    losses: str
    kept_epoch: Count


@dataclass(frozen=True)
class _Metrics:
    """What is read of metrics.json, and of what kind it is; runs of older versions lack some of it."""

    val_accuracy: Share
    epochs: Count = 0
    kept_epoch: Count = 0
    seconds: Amount = 0.0
    train_accuracy: Share = 0.0
    train_loss: Amount = 0.0
    val_loss: Amount = 0.0
    largest_class: str = ""
    largest_class_share: Share = 0.0
    num_train: Count = 0
    num_validation: Count = 0
    num_leaked: Count = 0
    num_pending: Count = 0
    val_accuracy_interval: list[Share] | None = None
    selection: Selection | None = None
    repeats: _Fits | None = None
    folds: _Fits | None = None
    diverged: _Divergence | None = None


def check_metrics(values: object, required: Sequence[str] = ()) -> dict[str, Any]:
    """Return a run's metrics as they were read.

    Args:
        values: what was read from JSON.
        required: names that must be there besides val_accuracy.

    Raises:
        ValueError: no dictionary, a name that is missing, or a value of another kind or out of range.
    """
    if not isinstance(values, dict):
        raise ValueError("no dictionary in it")
    check_type(_Metrics, values, "")
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"no {missing[0]} in it")
    if any(not values[kind]["val_accuracies"] for kind in ("repeats", "folds") if values.get(kind)):
        raise ValueError("no val_accuracies in repeats or folds")
    if len(values.get("val_accuracy_interval") or (0, 1)) != 2:
        raise ValueError("val_accuracy_interval is not two numbers")
    return values


def compute_metrics(
    targets: NDArray[np.int64], probabilities: Array, classes: Sequence[str], largest_class: int
) -> dict[str, Any]:
    """Compute what is reported of a head.

    Args:
        targets: (n,) class numbers, the truth.
        probabilities: (n, classes) float32.
        classes: the labels in order.
        largest_class: number of the class that is largest in training (`find_largest_class`).

    Returns:
        Ready for JSON: accuracy with its 95 % interval; the class that is largest in training and its share of
        these pictures, which is the accuracy of predicting it always; a row of precision, recall, F1 and number of
        pictures for each class; and the confusion matrix (rows are the truth). In NumPy, because scikit-learn takes
        longer to import than a head to fit.
    """
    predicted = predict_classes(probabilities)
    confusion = np.zeros((len(classes),) * 2, np.int64)
    np.add.at(confusion, (targets, predicted), 1)
    right, pictures, named = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall, f1 = _divide(right, named), _divide(right, pictures), _divide(2 * right, pictures + named)
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

    It is what guessing means everywhere: a guess cannot know which class is largest among other pictures.
    """
    return int(np.bincount(train_targets, minlength=num_classes).argmax())


def compute_loss(targets: NDArray[np.int64], probabilities: Array) -> float:
    """Compute the mean cross-entropy in nats."""
    return float(np.mean(list_losses(targets, probabilities)))


def list_losses(targets: NDArray[np.int64], probabilities: Array) -> NDArray[np.float64]:
    """List each row's cross-entropy in nats, (n,); a probability of exactly 0 counts as 2⁻²⁵, which is 17.3 nats."""
    given = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return np.asarray(0 - np.log(np.where(given > 0, np.minimum(given, 1), _ROUNDED_AWAY)), np.float64)


def predict_classes(probabilities: Array) -> NDArray[np.int64]:
    """Says which class a row of probabilities stands for; of two equal ones the first."""
    return np.asarray(np.argmax(probabilities, axis=1), np.int64)


def _divide(counts: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divides, with 0 for nothing of nothing."""
    return counts / np.maximum(totals, 1)
