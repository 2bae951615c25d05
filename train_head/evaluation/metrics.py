"""Metrics of a head: fast ones in NumPy for each training, and a full evaluation with scikit-learn for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_head.data.batches import Array
from train_head.evaluation.curves import choose_thresholds
from train_head.evaluation.uncertainty import compute_interval

NUM_BINS = 10
_ROUNDED_AWAY = 2.0**-25
"""Value that replaces a probability of exactly 0: in float32, 1 minus this or a smaller number is 1."""


def compute_metrics(
    targets: NDArray[np.int64], probabilities: Array, classes: Sequence[str], largest_class: int
) -> dict[str, Any]:
    """Compute the metrics of a trained head.

    Args:
        targets: (n,) int64 class numbers of the true classes.
        probabilities: (n, classes) float32.
        classes: the labels in order.
        largest_class: number of the class that is largest in training (`find_largest_class`).

    Returns:
        Ready for JSON: accuracy with its 95% interval; the largest training class and its share of the evaluated
        pictures, which is the accuracy of always predicting it; precision, recall, F1 and number of pictures of each
        class; and the confusion matrix (rows are true classes).
    """
    predicted = predict_classes(probabilities)
    confusion = np.zeros((len(classes),) * 2, np.int64)
    np.add.at(confusion, (targets, predicted), 1)
    correct, pictures, num_predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    # The precision of a class that is never predicted is 0, as is the recall of one without pictures.
    precision, recall = correct / np.maximum(num_predicted, 1), correct / np.maximum(pictures, 1)
    f1 = 2 * correct / np.maximum(pictures + num_predicted, 1)
    return {
        "val_accuracy": float(np.mean(predicted == targets)),
        "val_accuracy_interval": list(compute_interval(int(correct.sum()), len(targets))),
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


def evaluate(
    targets: NDArray[np.int64], probabilities: Array, labels: Sequence[str], largest_class: int
) -> dict[str, Any]:
    """Evaluate predicted probabilities.

    Args:
        targets: (n,) int64 class numbers of the true classes, n above 0.
        probabilities: (n, classes) float32, rows that add up to 1.
        labels: the classes in order.
        largest_class: number of the class that is largest in training (`metrics.find_largest_class`).

    Returns:
        Ready for JSON:

        - `accuracy` with its 95% `accuracy_interval`, which `record_selection` widens for a selected head;
          `balanced_accuracy`, the mean recall; `largest_class` and `largest_class_share`, the baseline.
        - `roc_auc` and `average_precision`: with two classes, those of the second; with more, the mean over the
          classes, each against the others. None if a class has no pictures or all of them.
        - `log_loss` in nats; `brier`, the mean squared error of the probabilities: from 0 to 1 with two classes; with
          more, the errors are summed over the classes, from 0 to 2.
        - `calibration_error`: the expected calibration error, of the second class if there are two, else of the
          predicted class; `reliability`: the bins of [0, 1] from which it is computed.
        - `confusion`: rows are true classes; `classes`: the metrics of each class against the others.
    """
    from sklearn.metrics import brier_score_loss

    counted = compute_metrics(targets, probabilities, labels, largest_class)
    # Float32 rows add up to 1 only approximately, and scikit-learn warns about it.
    exact = probabilities.astype(np.float64) / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    classes = [
        {
            "label": label,
            "num_pictures": row["pictures"],
            **{name: row[name] for name in ("precision", "recall", "f1")},
            **_evaluate_class(targets == number, exact[:, number]),
        }
        for number, (label, row) in enumerate(counted["per_class"].items())
    ]
    decisive = classes[1:] if len(classes) == 2 else classes
    reliability = _measure_reliability(targets, exact)
    gaps = [found["num_pictures"] * abs(found["share_right"] - found["mean_probability"]) for found in reliability]
    return {
        "num_pictures": len(targets),
        "accuracy": counted["val_accuracy"],
        "accuracy_interval": counted["val_accuracy_interval"],
        "largest_class": counted["largest_class"],
        "largest_class_share": counted["largest_class_share"],
        "balanced_accuracy": float(np.mean([found["recall"] for found in classes if found["num_pictures"]])),
        "roc_auc": _average([found["roc_auc"] for found in decisive]),
        "average_precision": _average([found["average_precision"] for found in decisive]),
        "log_loss": compute_loss(targets, probabilities),
        "brier": float(brier_score_loss(targets, exact, labels=list(range(len(labels))))),
        "calibration_error": sum(gaps) / len(targets),
        "confusion": counted["confusion"],
        "classes": classes,
        "reliability": reliability,
    }


def find_largest_class(train_targets: NDArray[np.int64], num_classes: int) -> int:
    """Return the number of the class with the most training pictures; in a tie, the first of them.

    Always predicting this class is the baseline. It depends only on the training pictures, as a head does.
    """
    return int(np.bincount(train_targets, minlength=num_classes).argmax())


def compute_loss(targets: NDArray[np.int64], probabilities: Array) -> float:
    """Compute the mean cross-entropy in nats."""
    return float(np.mean(list_losses(targets, probabilities)))


def list_losses(targets: NDArray[np.int64], probabilities: Array) -> NDArray[np.float64]:
    """Return each row's cross-entropy in nats, (n,); a probability of 0 counts as 2⁻²⁵, 17.3 nats."""
    given = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return np.asarray(0 - np.log(np.where(given > 0, np.minimum(given, 1), _ROUNDED_AWAY)), np.float64)


def predict_classes(probabilities: Array) -> NDArray[np.int64]:
    """Return the most probable class of each row; in a tie, the first of them."""
    return np.asarray(np.argmax(probabilities, axis=1), np.int64)


def _evaluate_class(truths: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """Return the areas under the curves and the thresholds of one class; none if it has all or no pictures."""
    from sklearn import metrics

    if truths.all() or not truths.any():
        return {"roc_auc": None, "average_precision": None, "thresholds": []}
    return {
        "roc_auc": float(metrics.roc_auc_score(truths, probabilities)),
        "average_precision": float(metrics.average_precision_score(truths, probabilities)),
        "thresholds": choose_thresholds(truths, probabilities),
    }


def _measure_reliability(targets: NDArray[np.int64], probabilities: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Compare probability and frequency in bins: of the second class if there are two, else of the predicted class."""
    events, given = targets == 1, probabilities[:, 1]
    if probabilities.shape[1] > 2:
        events, given = probabilities.argmax(axis=1) == targets, probabilities.max(axis=1)
    # A bin includes its upper edge.
    bins = np.searchsorted(np.linspace(0, 1, NUM_BINS + 1)[1:-1], given)
    counts, means, shares = (np.bincount(bins, weights, NUM_BINS) for weights in (None, given, events))
    return [
        {
            "low": place / NUM_BINS,
            "high": (place + 1) / NUM_BINS,
            "num_pictures": int(counts[place]),
            "mean_probability": float(means[place] / counts[place]),
            "share_right": float(shares[place] / counts[place]),
        }
        for place in np.flatnonzero(counts).tolist()
    ]


def _average(areas: Sequence[float | None]) -> float | None:
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if len(known) == len(areas) else None
