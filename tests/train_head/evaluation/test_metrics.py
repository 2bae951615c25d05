"""Metrics of a head, against values computed by hand and by scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

from features.validation_split import encode_labels
from tests.train_head.synthetic import list_paths, make_store
from train_head.data.split import split_examples
from train_head.evaluation.baselines import measure_majority
from train_head.evaluation.metrics import (
    compute_loss,
    compute_metrics,
    evaluate,
    find_largest_class,
    predict_classes,
)

pytestmark = pytest.mark.unit

CLASSES = ["cats", "dogs", "owls"]
TARGETS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = [0, 1, 1, 1, 0, 1]


def make_probabilities(predicted: list[int], num_classes: int = 3) -> NDArray[np.float32]:
    return (0.1 + 0.7 * np.eye(num_classes)[predicted]).astype(np.float32)


def test_compute_metrics_of_a_small_case_equals_values_computed_by_hand() -> None:
    assert compute_metrics(TARGETS, make_probabilities(PREDICTED), CLASSES, 0) == {
        "val_accuracy": pytest.approx(2 / 6),
        "val_accuracy_interval": pytest.approx([0.0968, 0.7], abs=1e-4),
        "largest_class": "cats",
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


def test_compute_metrics_confusion_has_true_classes_in_rows() -> None:
    metrics = compute_metrics(np.array([0, 0, 0]), make_probabilities([1, 1, 0], 2), ["cats", "dogs"], 0)
    assert metrics["confusion"] == [[1, 2], [0, 0]]


def draw_case(seed: int, num_classes: int, num_pictures: int) -> tuple[NDArray[np.int64], list[int]]:
    """Draw targets and predictions that agree in about half of the rows."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, num_classes, num_pictures)
    guesses = rng.integers(0, num_classes, num_pictures)
    return targets, np.where(rng.random(num_pictures) < 0.4, targets, guesses).tolist()


@pytest.mark.parametrize(
    ("targets", "predicted", "num_classes"),
    [
        pytest.param(TARGETS, PREDICTED, 3, id="one never predicted"),
        pytest.param([0, 1, 2], [0, 0, 0], 3, id="two never predicted"),
        pytest.param([0, 1, 2], [1, 2, 0], 3, id="none right"),
        pytest.param([0, 1, 2, 1], [0, 1, 2, 1], 3, id="all right"),
        pytest.param([0, 0, 0], [0, 1, 2], 3, id="two that never occur"),
        pytest.param([1, 1], [1, 1], 3, id="two that neither occur nor are predicted"),
        pytest.param([1], [0], 2, id="one picture"),
        *(
            pytest.param(*draw_case(seed, num_classes, num_pictures), num_classes, id=f"random {num_classes}-{seed}")
            for seed, (num_classes, num_pictures) in enumerate([(2, 200), (2, 7), (3, 200), (10, 1000), (10, 12)])
        ),
    ],
)
def test_compute_metrics_agrees_with_scikit_learn(
    targets: NDArray[np.int64], predicted: list[int], num_classes: int
) -> None:
    labels = [f"class {number}" for number in range(num_classes)]
    metrics = compute_metrics(np.asarray(targets), make_probabilities(predicted, num_classes), labels, 0)
    numbers = list(range(num_classes))
    expected = precision_recall_fscore_support(targets, predicted, labels=numbers, average=None, zero_division=0)
    rows = [metrics["per_class"][label] for label in labels]
    for name, values in zip(("precision", "recall", "f1", "pictures"), expected, strict=True):
        assert [row[name] for row in rows] == pytest.approx(values.tolist()), name
    assert list(metrics["per_class"]) == labels
    assert metrics["confusion"] == confusion_matrix(targets, predicted, labels=numbers).tolist()
    assert metrics["val_accuracy"] == pytest.approx(accuracy_score(targets, predicted))
    assert metrics["largest_class_share"] == np.mean(np.asarray(targets) == 0)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


@pytest.mark.parametrize("num_classes", [2, 5])
def test_compute_loss_agrees_with_scikit_learn(num_classes: int) -> None:
    rng = np.random.default_rng(num_classes)
    targets = rng.integers(0, num_classes, 300)
    probabilities = rng.dirichlet(np.ones(num_classes), 300).astype(np.float32)
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    expected = log_loss(targets, exact, labels=list(range(num_classes)))
    assert compute_loss(targets, probabilities) == pytest.approx(expected, rel=1e-6)


def test_compute_loss_uses_tiny_probabilities_unchanged() -> None:
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    assert compute_loss(np.array([1, 0]), probabilities) == pytest.approx(-(np.log(0.75) + np.log(0.5)) / 2)
    certain = np.array([[1, 0], [1, 0]], np.float32)
    assert compute_loss(np.array([0, 0]), certain) == 0
    sure = np.array([[1, 1.5e-8], [1, 1e-30]], np.float32)
    assert compute_loss(np.array([1, 1]), sure) == pytest.approx(-np.log(1.5e-8 * 1e-30) / 2)


def test_compute_loss_counts_a_probability_of_0_as_2_to_the_minus_25() -> None:
    # 1 - 2**-25 is 1 in float32, 1 - 2**-24 is not.
    assert compute_loss(np.array([1]), np.array([[1, 0]], np.float32)) == pytest.approx(25 * np.log(2))


def test_largest_class_is_that_of_training_everywhere(tmp_path: Path) -> None:
    counts = {"train/cats": 4, "train/dogs": 9, "validation/cats": 6, "validation/dogs": 5}
    store = make_store(tmp_path / "store", list_paths(counts))
    split = split_examples(store.examples, 0.2)
    largest = find_largest_class(encode_labels(split.train, split.classes), 2)
    truth, probabilities = encode_labels(split.validation, split.classes), np.full((11, 2), 0.5, np.float32)
    found = compute_metrics(truth, probabilities, split.classes, largest)
    evaluation = evaluate(truth, probabilities, split.classes, largest)
    majority = measure_majority(split, 0)
    assert (found["largest_class"], evaluation["largest_class"]) == ("dogs", "dogs")
    assert found["largest_class_share"] == evaluation["largest_class_share"] == majority.val_accuracy == 5 / 11


def test_compute_metrics_survives_json_unchanged() -> None:
    metrics = compute_metrics(TARGETS, make_probabilities(PREDICTED), CLASSES, 0)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_predict_classes_of_a_tie_takes_the_first() -> None:
    probabilities = np.array([[0.5, 0.5], [0.2, 0.8], [0.8, 0.2]], np.float32)
    assert predict_classes(probabilities).tolist() == [0, 1, 0]
    assert predict_classes(np.array([[0.2, 0.4, 0.4]], np.float32)).tolist() == [1]
