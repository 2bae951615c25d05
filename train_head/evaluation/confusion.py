"""Confusion matrix of a head as its non-zero cells; with many classes, the matrix itself would be far larger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_DENSE_CLASSES = 100
"""Largest number of classes whose confusion matrix is stored with all its cells."""


def count_cells(targets: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Count the pictures of each true and predicted class.

    Args:
        targets: (n,) int64 class numbers of the true classes.
        predicted: (n,) int64 class numbers of the predicted classes.
        num_classes: number of classes.

    Returns:
        (cells, 3) int64, sorted: true class, predicted class, number of pictures, which is above 0.
    """
    codes, counts = np.unique(targets * num_classes + predicted, return_counts=True)
    return np.stack([codes // num_classes, codes % num_classes, counts], axis=1)


def describe_cells(cells: NDArray[np.int64], num_classes: int) -> dict[str, Any]:
    """Describe a confusion matrix, ready for JSON.

    Returns:
        `confusion`, whose rows are true classes. Above `MAX_DENSE_CLASSES` it is None, and `confusion_cells` has the
        rows of `cells`.
    """
    if num_classes > MAX_DENSE_CLASSES:
        return {"confusion": None, "confusion_cells": cells.tolist()}
    confusion = np.zeros((num_classes, num_classes), np.int64)
    confusion[cells[:, 0], cells[:, 1]] = cells[:, 2]
    return {"confusion": confusion.tolist()}


def read_cells(described: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return the cells of a confusion matrix, as `count_cells` does, from metrics with either description."""
    if described["confusion"] is None:
        return np.array(described["confusion_cells"], np.int64).reshape(-1, 3)
    confusion = np.array(described["confusion"], np.int64)
    true, predicted = confusion.nonzero()
    return np.stack([true, predicted, confusion[true, predicted]], axis=1)
