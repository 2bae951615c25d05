"""Confusion matrix as cells, and its two descriptions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from train_head.evaluation.confusion import MAX_DENSE_CLASSES, count_cells, describe_cells, read_cells

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("num_classes", [2, MAX_DENSE_CLASSES, MAX_DENSE_CLASSES + 1])
def test_read_cells_of_either_description_returns_the_counted_cells(num_classes: int) -> None:
    targets, predicted = np.random.default_rng(0).integers(0, num_classes, (2, 500))
    cells = count_cells(targets, predicted, num_classes)
    expected = confusion_matrix(targets, predicted, labels=list(range(num_classes)))
    for true, found, count in cells.tolist():
        assert count == expected[true, found] > 0
    assert cells[:, 2].sum() == 500
    described = json.loads(json.dumps(describe_cells(cells, num_classes)))
    np.testing.assert_array_equal(read_cells(described), cells)


def test_describe_cells_of_many_classes_is_as_large_as_the_number_of_pictures() -> None:
    num_classes = 10_000
    numbers = np.arange(num_classes)
    described = describe_cells(count_cells(numbers, numbers[::-1], num_classes), num_classes)
    assert described["confusion"] is None
    assert len(json.dumps(described)) < 20 * num_classes
