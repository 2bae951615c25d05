"""Pictures of a report whose head predicts several labels: the worst predictions and the least certain ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from features.labels import split_labels
from features.validation_split import encode_label_sets
from train_head.data.batches import Array
from train_head.evaluation.metrics import list_losses
from train_head.report.gallery import NUM_UNCERTAIN_SHOWN
from train_head.runs.tables import Prediction


def sort_wrong_sets(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return the predictions with a missing or a wrongly added label, by descending loss."""
    losses = _list_losses(predictions)
    wrong = [(loss, found) for loss, found in zip(losses, predictions, strict=True) if found.predicted != found.label]
    return [found for _, found in sorted(wrong, key=lambda pair: (-pair[0], pair[1].path))]


def choose_uncertain_sets(predictions: Sequence[Prediction], count: int = NUM_UNCERTAIN_SHOWN) -> list[Prediction]:
    """Return the predictions whose probabilities are closest to 0.5 on average, correct ones included."""

    def measure_certainty(found: Prediction) -> float:
        return float(np.abs(found.row - 0.5).mean(dtype=np.float64))

    return sorted(predictions, key=lambda found: (measure_certainty(found), found.path))[:count]


def describe_set(found: Prediction) -> dict[str, Any]:
    """Describe the prediction of the labels of a picture, ready for JSON.

    Returns:
        `path`, `label` and `predicted` (both joined), and the labels by how they were predicted: `correct`, `missing`
        and `added`, each with its probability.
    """
    true, predicted = set(split_labels(found.label)), set(split_labels(found.predicted))
    kinds = {"correct": true & predicted, "missing": true - predicted, "added": predicted - true}
    return {
        "path": found.path,
        "label": found.label,
        "predicted": found.predicted,
        **{kind: {label: found.get_probability(label) for label in sorted(labels)} for kind, labels in kinds.items()},
    }


def _list_losses(predictions: Sequence[Prediction]) -> list[float]:
    if not predictions:
        return []
    rows: Array = np.array([found.row for found in predictions], np.float32)
    losses: list[float] = list_losses(encode_label_sets(predictions, predictions[0].classes), rows).tolist()
    return losses
