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
        the truth).
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    numbers = list(range(len(classes)))
    predicted = predict_classes(probabilities)
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predicted, labels=numbers, zero_division=0
    )
    return {
        "val_accuracy": float(np.mean(predicted == targets)),
        "largest_class_share": float(np.bincount(targets, minlength=len(classes)).max() / len(targets)),
        "per_class": {
            label: {
                "precision": float(precision[number]),
                "recall": float(recall[number]),
                "f1": float(f1[number]),
                "pictures": int(support[number]),
            }
            for number, label in enumerate(classes)
        },
        "confusion": confusion_matrix(targets, predicted, labels=numbers).tolist(),
    }


def predict_classes(probabilities: Array) -> NDArray[np.int64]:
    """Says which class a row of probabilities stands for; of two equal ones the first."""
    return np.asarray(np.argmax(probabilities, axis=1), np.int64)
