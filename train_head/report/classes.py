"""Classes of a report: the rows of their table, and those that are shown in detail if there are many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from train_head.evaluation.confusion import read_cells
from train_head.evaluation.metrics import NUM_DETAILED

MAX_PLAIN_CLASSES = 20
"""Largest number of classes whose confusion matrix is a table of numbers. With more, it is a picture, and the table of
the classes can be sorted and filtered."""


@dataclass(frozen=True)
class ClassRow:
    """Metrics of one class against the others; a share of no pictures is None."""

    label: str
    num_pictures: int
    precision: float | None
    recall: float | None
    f1: float | None
    roc_auc: float | None
    confused_with: str
    """Most frequent class among its incorrect predictions; empty if there are none."""
    num_confused: int
    """Number of its pictures that are predicted as `confused_with`."""


def list_class_rows(evaluation: Mapping[str, Any]) -> list[ClassRow]:
    """List the rows of the table of classes.

    Args:
        evaluation: as `train_head.evaluation.metrics.evaluate` returns it.

    Returns:
        A row for each class in the order of the classes. If there are more than `MAX_PLAIN_CLASSES`, those with the
        lowest recall come first, in a tie those with the most pictures, and those without pictures last.
    """
    classes = evaluation["classes"]
    predicted_as: dict[int, tuple[int, str]] = {}
    is_predicted = set()
    for true, predicted, count in read_cells(evaluation).tolist():
        is_predicted.add(predicted)
        if true != predicted and count > predicted_as.get(true, (0, ""))[0]:
            predicted_as[true] = count, classes[predicted]["label"]
    rows = []
    for number, found in enumerate(classes):
        num_confused, confused_with = predicted_as.get(number, (0, ""))
        has_pictures = found["num_pictures"] > 0
        rows.append(
            ClassRow(
                found["label"],
                found["num_pictures"],
                found["precision"] if number in is_predicted else None,
                found["recall"] if has_pictures else None,
                found["f1"] if has_pictures else None,
                found["roc_auc"],
                confused_with,
                num_confused,
            )
        )
    if not has_many_classes(evaluation):
        return rows
    return sorted(rows, key=lambda row: (row.recall is None, row.recall or 0.0, -row.num_pictures))


def list_label_rows(evaluation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List the labels of a head that predicts several, as `evaluate_labels` returns them.

    If there are more than `MAX_PLAIN_CLASSES`, those with the lowest average precision come first, and those without
    one last.
    """
    rows: list[Mapping[str, Any]] = evaluation["classes"]
    if not has_many_classes(evaluation):
        return rows
    return sorted(rows, key=lambda row: (row["average_precision"] is None, row["average_precision"] or 0.0))


def has_many_classes(evaluation: Mapping[str, Any]) -> bool:
    """Return whether there are more than `MAX_PLAIN_CLASSES` classes."""
    return len(evaluation["classes"]) > MAX_PLAIN_CLASSES


def choose_worst(evaluation: Mapping[str, Any], count: int = NUM_DETAILED) -> list[int]:
    """Choose the numbers of the classes with the lowest average precision, in ascending order."""
    precisions = [found["average_precision"] for found in evaluation["classes"]]
    known = [number for number, precision in enumerate(precisions) if precision is not None]
    return sorted(sorted(known, key=lambda number: precisions[number])[:count])
