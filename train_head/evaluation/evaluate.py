"""Measure and evaluate a head, whether pictures have one label or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from train_head.data.batches import Array
from train_head.data.split import Targets
from train_head.evaluation.label_sets import compute_label_metrics, evaluate_labels, find_largest_set
from train_head.evaluation.metrics import compute_metrics, evaluate, find_largest_class


def measure_head(
    targets: Targets, probabilities: Array, classes: Sequence[str], train_targets: Targets
) -> dict[str, Any]:
    """Compute the metrics of a trained head, as `compute_metrics` or `compute_label_metrics` does.

    Args:
        targets: (n,) class numbers of the true classes, or (n, classes) labels.
        probabilities: (n, classes) float32.
        classes: the labels in order.
        train_targets: the targets of the training pictures, whose largest class is the baseline.
    """
    if targets.ndim == 2:
        return compute_label_metrics(targets, probabilities, classes, find_largest_set(train_targets))
    return compute_metrics(targets, probabilities, classes, find_largest_class(train_targets, len(classes)))


def evaluate_head(
    targets: Targets, probabilities: Array, classes: Sequence[str], train_targets: Targets
) -> dict[str, Any]:
    """Evaluate a head, as `evaluate` or `evaluate_labels` does; the arguments are those of `measure_head`."""
    if targets.ndim == 2:
        return evaluate_labels(targets, probabilities, classes, find_largest_set(train_targets))
    return evaluate(targets, probabilities, classes, find_largest_class(train_targets, len(classes)))
