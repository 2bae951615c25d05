"""Rows of the table of classes, and the picture of the confusion matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from train_head.evaluation.confusion import count_cells
from train_head.evaluation.metrics import evaluate
from train_head.report.classes import MAX_PLAIN_CLASSES, ClassRow, choose_worst, list_class_rows
from train_head.report.figures import encode_svg
from train_head.report.heatmap import (
    CORRECT,
    INCORRECT,
    MAX_SQUARES,
    count_classes_per_square,
    draw_squares,
    plot_confusion,
)

pytestmark = pytest.mark.unit


def make_evaluation(targets: list[int], predicted: list[int], num_classes: int) -> dict[str, Any]:
    probabilities = (np.eye(num_classes)[predicted] * 0.9 + 0.1 / num_classes).astype(np.float32)
    return evaluate(np.array(targets), probabilities, [f"{number:03}" for number in range(num_classes)], 0)


def test_list_class_rows_of_few_classes_keeps_their_order() -> None:
    first, second, third = list_class_rows(make_evaluation([0, 0, 0, 1], [1, 1, 0, 1], 3))
    assert (first.label, first.num_pictures, first.precision) == ("000", 3, 1.0)
    assert (first.confused_with, first.num_confused) == ("001", 2)
    assert second.precision == pytest.approx(1 / 3)
    assert second.recall == 1.0
    assert third == ClassRow("002", 0, None, None, None, None, "", 0)


def test_list_class_rows_of_many_classes_has_the_lowest_recall_first_and_those_without_pictures_last() -> None:
    # Class 1 has a recall of 1/2, class 2 of 0 in two pictures, class 3 of 0 in one picture, class 5 no picture.
    targets, predicted = [0, 1, 1, 2, 2, 3, 4], [0, 1, 4, 1, 4, 4, 4]
    num_classes = MAX_PLAIN_CLASSES + 1
    targets += (others := list(range(6, num_classes)))
    rows = list_class_rows(make_evaluation(targets, predicted + others, num_classes))
    assert [row.label for row in rows[:3]] == ["002", "003", "001"]
    assert rows[-1].label == "005"
    assert (rows[0].precision, rows[0].confused_with, rows[0].num_confused) == (None, "001", 1)


def test_choose_worst_takes_the_lowest_average_precision() -> None:
    evaluation = {"classes": [{"average_precision": value} for value in (0.5, None, 0.1, 0.9, 0.3)]}
    assert choose_worst(evaluation, 2) == [2, 4]


def test_draw_squares_has_one_for_each_cell() -> None:
    squares = draw_squares(count_cells(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3), 3)
    assert squares.shape == (3, 3, 4)
    for place, colour in {(0, 0): CORRECT, (0, 1): INCORRECT, (1, 1): CORRECT, (2, 0): INCORRECT}.items():
        assert tuple(squares[place][:3]) == colour
    assert (squares[..., 3] > 0).sum() == 4
    assert squares[0, 0, 3] < squares[1, 1, 3] == 1


def test_plot_confusion_of_many_classes_is_small_with_few_labels() -> None:
    num_classes = 10_000
    targets = np.arange(num_classes)
    predicted = np.random.default_rng(0).permutation(targets)
    cells = count_cells(targets, predicted, num_classes)
    assert max(draw_squares(cells, num_classes).shape) <= MAX_SQUARES
    assert count_classes_per_square(num_classes) * MAX_SQUARES >= num_classes
    text = encode_svg(plot_confusion(cells, ["a very long name of a class <$^" * 3] * num_classes), "confusion")
    assert len(text) < 150_000
    assert "data:image/png;base64," in text
