"""Metrics of heads that predict several labels: equal to those of scikit-learn, and their intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from train_head.evaluation.evaluate import evaluate_head, measure_head
from train_head.evaluation.label_sets import (
    compute_label_metrics,
    differentiate_precision,
    estimate_error,
    evaluate_labels,
    find_largest_set,
)
from train_head.evaluation.metrics import find_correct, list_losses
from train_head.evaluation.uncertainty import Selection, record_selection

pytestmark = pytest.mark.unit

LABELS = ["bird", "boat", "sea", "sun"]


def draw(num: int = 200, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw targets and probabilities with ties; the last label is on no picture."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num, 4)) < [0.5, 0.3, 0.1, 0]).astype(np.uint8)
    given = np.round(np.clip(0.4 * targets + 0.7 * rng.random((num, 4)), 0, 1), 2)
    return targets, given.astype(np.float32)


def test_compute_label_metrics_equals_scikit_learn() -> None:
    targets, given = draw()
    predicted = given >= 0.5
    found = compute_label_metrics(targets, given, LABELS, find_largest_set(targets))
    precisions = [sk.average_precision_score(targets[:, number], given[:, number]) for number in range(3)]
    assert found["val_accuracy"] == pytest.approx(sk.accuracy_score(targets, predicted))
    assert found["mean_average_precision"] == pytest.approx(np.mean(precisions))
    assert found["hamming_loss"] == pytest.approx(sk.hamming_loss(targets, predicted))
    for average in ("micro", "macro"):
        expected = sk.f1_score(targets[:, :3], predicted[:, :3], average=average)
        if average == "micro":
            expected = sk.f1_score(targets, predicted, average=average)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    for number, label in enumerate(LABELS[:3]):
        row = found["per_class"][label]
        truth, column = targets[:, number], predicted[:, number]
        assert row["average_precision"] == pytest.approx(precisions[number])
        assert row["precision"] == pytest.approx(sk.precision_score(truth, column))
        assert row["recall"] == pytest.approx(sk.recall_score(truth, column))
        assert row["f1"] == pytest.approx(sk.f1_score(truth, column))
        assert row["pictures"] == truth.sum()
    assert found["per_class"]["sun"]["average_precision"] is None
    assert json.loads(json.dumps(found)) == found


def test_list_losses_of_label_sets_is_the_mean_cross_entropy_of_the_labels() -> None:
    targets, given = draw()
    given = np.clip(given, 0.01, 0.99)
    expected = [sk.log_loss(row, column, labels=[0, 1]) for row, column in zip(targets, given, strict=True)]
    np.testing.assert_allclose(list_losses(targets, given), expected, rtol=1e-5)
    certain = np.array([[1, 0]], np.float32)
    assert list_losses(np.array([[1, 0]], np.uint8), certain).tolist() == [0.0]
    assert np.isfinite(list_losses(np.array([[0, 1]], np.uint8), certain)).all()


def test_find_correct_of_label_sets_needs_all_labels() -> None:
    targets = np.array([[1, 0], [1, 1], [0, 0]], np.uint8)
    given = np.array([[0.5, 0.49], [0.9, 0.4], [0.1, 0.2]], np.float32)
    assert find_correct(targets, given).tolist() == [True, False, True]


def test_find_largest_set_is_the_most_frequent() -> None:
    targets = np.array([[1, 0], [0, 1], [1, 1], [0, 1], [1, 0]], np.uint8)
    assert find_largest_set(targets).tolist() == [0, 1]
    found = compute_label_metrics(targets, np.zeros((5, 2), np.float32), ["a", "b"], find_largest_set(targets))
    assert (found["largest_class"], found["largest_class_share"]) == ("b", 0.4)


def test_differentiate_precision_is_the_derivative_by_the_weight_of_a_picture() -> None:
    targets, given = draw(40)
    truth, column, step = targets[:, 0] == 1, given[:, 0].astype(np.float64), 1e-6
    slopes = differentiate_precision(truth, column)
    for number in range(len(truth)):
        more, less = np.ones(len(truth)), np.ones(len(truth))
        more[number], less[number] = 1 + step, 1 - step
        high, low = (sk.average_precision_score(truth, column, sample_weight=weights) for weights in (more, less))
        assert slopes[number] == pytest.approx((high - low) / 2 / step, abs=1e-6)
    assert slopes.sum() == pytest.approx(0, abs=1e-12)


def test_estimate_error_is_about_that_of_bootstrap_samples() -> None:
    targets, given = draw()
    rng, means = np.random.default_rng(1), []
    for _ in range(300):
        rows = rng.integers(len(targets), size=len(targets))
        found = compute_label_metrics(targets[rows], given[rows], LABELS, targets[0])
        means.append(found["mean_average_precision"])
    assert estimate_error(targets, given) == pytest.approx(np.std(means), rel=0.2)


def test_evaluate_labels_has_thresholds_of_labels_with_pictures() -> None:
    targets, given = draw()
    found = evaluate_labels(targets, given, LABELS, targets[0])
    assert [len(row["thresholds"]) > 0 for row in found["classes"]] == [True, True, True, False]
    best = found["classes"][0]["thresholds"][0]
    scores = [sk.f1_score(targets[:, 0], given[:, 0] >= limit) for limit in np.unique(given[:, 0])]
    assert best["f1"] == pytest.approx(max(scores))
    assert found["brier"] == pytest.approx(np.mean((given - targets) ** 2), rel=1e-5)


def test_evaluate_head_without_any_label_in_validation_has_no_mean() -> None:
    targets, given = draw()
    for few in (np.zeros((5, 4), np.uint8), np.ones((5, 4), np.uint8)):
        found = evaluate_head(few, given[:5], LABELS, targets)
        assert found["mean_average_precision"] is None
        assert found["mean_average_precision_interval"] is None
        assert [row["average_precision"] for row in found["classes"]] == [None] * 4


def test_record_selection_widens_the_interval_of_the_mean_average_precision() -> None:
    targets, given = draw()
    metrics = {"num_validation": len(targets), **measure_head(targets, given, LABELS, targets)}
    metrics["evaluation"] = evaluate_head(targets, given, LABELS, targets)
    low, high = metrics["mean_average_precision_interval"]
    found = record_selection(metrics, Selection(num_heads=20))
    for part in (found, found["evaluation"]):
        assert part["mean_average_precision_interval"][0] < low
        assert part["mean_average_precision_interval"][1] > high
    assert record_selection(metrics, Selection())["mean_average_precision_interval"] == [low, high]
