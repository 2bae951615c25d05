"""What is reported of a head, against values worked out by hand and scikit-learn's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

from train_head.metrics import compute_metrics, predict_classes

CLASSES = ["cats", "dogs", "owls"]
TARGETS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = [0, 1, 1, 1, 0, 1]


def make_probabilities(predicted: list[int], num_classes: int = 3) -> NDArray[np.float32]:
    return (0.1 + 0.7 * np.eye(num_classes)[predicted]).astype(np.float32)


def test_compute_metrics_of_a_small_case_gives_the_values_worked_out_by_hand() -> None:
    assert compute_metrics(TARGETS, make_probabilities(PREDICTED), CLASSES) == {
        "val_accuracy": pytest.approx(2 / 6),
        "largest_class_share": 0.5,
        "per_class": {
            "cats": {
                "precision": 0.5,
                "recall": pytest.approx(1 / 3),
                "f1": pytest.approx(0.4),
                "pictures": 3,
            },
            "dogs": {"precision": 0.25, "recall": 0.5, "f1": pytest.approx(1 / 3), "pictures": 2},
            "owls": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "pictures": 1},
        },
        "confusion": [[1, 2, 0], [1, 1, 0], [0, 1, 0]],
    }


def test_compute_metrics_confusion_has_the_truth_in_rows() -> None:
    metrics = compute_metrics(np.array([0, 0, 0]), make_probabilities([1, 1, 0], 2), ["cats", "dogs"])
    assert metrics["confusion"] == [[1, 2], [0, 0]]


def test_compute_metrics_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 200)
    probabilities = rng.dirichlet([1, 1, 1], 200).astype(np.float32)
    predicted = probabilities.argmax(axis=1)
    metrics = compute_metrics(targets, probabilities, CLASSES)
    assert metrics["val_accuracy"] == pytest.approx(accuracy_score(targets, predicted))
    assert metrics["confusion"] == confusion_matrix(targets, predicted).tolist()
    scores = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
    for name, score in scores.items():
        expected = score(targets, predicted, average=None)
        assert [metrics["per_class"][label][name] for label in CLASSES] == pytest.approx(expected.tolist())


def test_compute_metrics_largest_class_share_counts_the_truth_not_the_predictions() -> None:
    metrics = compute_metrics(np.array([1, 1, 1, 0]), make_probabilities([0, 0, 0, 0], 2), ["cats", "dogs"])
    assert metrics["largest_class_share"] == 0.75
    assert metrics["val_accuracy"] == 0.25


def test_compute_metrics_reads_back_from_json_unchanged() -> None:
    metrics = compute_metrics(TARGETS, make_probabilities(PREDICTED), CLASSES)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_predict_classes_of_a_tie_takes_the_first() -> None:
    probabilities = np.array([[0.5, 0.5], [0.2, 0.8], [0.8, 0.2]], np.float32)
    assert predict_classes(probabilities).tolist() == [0, 1, 0]
    assert predict_classes(np.array([[0.2, 0.4, 0.4]], np.float32)).tolist() == [1]
