"""Evaluation of probabilities, against values computed by hand and by scikit-learn."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.calibration import calibration_curve

from train_head.data.batches import Array
from train_head.evaluation.confusion import MAX_DENSE_CLASSES
from train_head.evaluation.curves import choose_thresholds, measure_areas
from train_head.evaluation.metrics import NUM_DETAILED, evaluate

pytestmark = pytest.mark.unit

# Probabilities of the second of two classes for eight pictures. Those at 0.62 and 0.31 are incorrect.
TARGETS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SECOND = np.array([0.12, 0.22, 0.35, 0.62, 0.31, 0.72, 0.81, 0.95])


def make_two() -> Array:
    return np.stack([1 - SECOND, SECOND], axis=1).astype(np.float32)


def draw_three(count: int = 60) -> tuple[NDArray[np.int64], Array]:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 3, count)
    scores = rng.random((count, 3)) + 0.6 * np.eye(3)[targets]
    return targets, (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


def read_back(values: object) -> Any:
    """Return values as they come back from JSON, with attributes for keys."""
    return json.loads(json.dumps(values, allow_nan=False), object_hook=lambda found: SimpleNamespace(**found))


@pytest.fixture(scope="module")
def two() -> Any:
    return read_back(evaluate(TARGETS, make_two(), ["cats", "dogs"], 0))


@pytest.fixture(scope="module")
def three() -> Any:
    return read_back(evaluate(*draw_three(), ["cats", "dogs", "owls"], 0))


def test_evaluate_two_classes_equals_values_computed_by_hand(two: Any) -> None:
    assert (two.num_pictures, two.accuracy, two.balanced_accuracy) == (8, 0.75, 0.75)
    assert (two.largest_class, two.largest_class_share) == ("cats", 0.5)
    assert two.confusion == [[3, 1], [1, 3]]
    cats, dogs = two.classes
    assert (cats.label, cats.num_pictures, cats.precision, cats.recall, cats.f1) == ("cats", 4, 0.75, 0.75, 0.75)
    assert (dogs.label, dogs.num_pictures, dogs.precision, dogs.recall, dogs.f1) == ("dogs", 4, 0.75, 0.75, 0.75)
    # Of the 16 pairs of a cat and a dog, two are ordered wrongly: the dog at 0.31 is below the cats at 0.35 and 0.62.
    assert two.roc_auc == pytest.approx(14 / 16)
    # Dogs have the ranks 1, 2, 3 and 6.
    assert two.average_precision == pytest.approx((1 + 1 + 1 + 4 / 6) / 4)
    assert two.brier == pytest.approx(np.mean((SECOND - TARGETS) ** 2), abs=1e-7)
    given = np.where(TARGETS == 1, SECOND, 1 - SECOND)
    assert two.log_loss == pytest.approx(-np.mean(np.log(given)), abs=1e-6)


def test_evaluate_two_classes_calibration_is_of_the_second_in_ten_bins(two: Any) -> None:
    bins = [(b.low, b.high, b.num_pictures, round(b.mean_probability, 6), b.share_right) for b in two.reliability]
    expected = [
        (0.1, 0.2, 1, 0.12, 0.0),
        (0.2, 0.3, 1, 0.22, 0.0),
        (0.3, 0.4, 2, 0.33, 0.5),
        (0.6, 0.7, 1, 0.62, 0.0),
        (0.7, 0.8, 1, 0.72, 1.0),
        (0.8, 0.9, 1, 0.81, 1.0),
        (0.9, 1.0, 1, 0.95, 1.0),
    ]
    assert bins == expected
    error = sum(count * abs(share - mean) for _, _, count, mean, share in expected) / 8
    assert two.calibration_error == pytest.approx(error, abs=1e-6)


def test_evaluate_three_classes_equals_scikit_learn(three: Any) -> None:
    targets, probabilities = draw_three()
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    assert three.accuracy == pytest.approx(metrics.accuracy_score(targets, predicted))
    assert three.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(targets, predicted))
    assert three.roc_auc == pytest.approx(metrics.roc_auc_score(targets, exact, multi_class="ovr"))
    assert three.average_precision == pytest.approx(metrics.average_precision_score(targets, exact))
    assert three.macro_precision == pytest.approx(metrics.precision_score(targets, predicted, average="macro"))
    assert three.macro_f1 == pytest.approx(metrics.f1_score(targets, predicted, average="macro"))
    assert three.log_loss == pytest.approx(metrics.log_loss(targets, exact))
    assert three.brier == pytest.approx(np.mean(np.sum((exact - np.eye(3)[targets]) ** 2, axis=1)))
    assert three.confusion == metrics.confusion_matrix(targets, predicted).tolist()
    for number, found in enumerate(three.classes):
        truths, called = targets == number, predicted == number
        assert found.num_pictures == truths.sum()
        assert found.precision == pytest.approx(metrics.precision_score(truths, called))
        assert found.recall == pytest.approx(metrics.recall_score(truths, called))
        assert found.f1 == pytest.approx(metrics.f1_score(truths, called))
        assert found.roc_auc == pytest.approx(metrics.roc_auc_score(truths, exact[:, number]))
        assert found.average_precision == pytest.approx(metrics.average_precision_score(truths, exact[:, number]))


def test_evaluate_three_classes_calibration_is_of_the_predicted(three: Any) -> None:
    targets, probabilities = draw_three()
    right, confidence = probabilities.argmax(axis=1) == targets, probabilities.max(axis=1)
    shares, means = calibration_curve(right, confidence, n_bins=10)
    np.testing.assert_allclose([b.share_right for b in three.reliability], shares)
    np.testing.assert_allclose([b.mean_probability for b in three.reliability], means, rtol=1e-6)
    assert sum(b.num_pictures for b in three.reliability) == 60
    for found in three.reliability:
        inside = (confidence > found.low) & (confidence <= found.high)
        assert found.num_pictures == inside.sum()
        assert found.share_right == pytest.approx(right[inside].mean())


def test_measure_areas_with_ties_equals_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    for num_values in (1, 2, 5, 1000):
        truths, given = np.arange(50) < rng.integers(1, 50), rng.integers(0, num_values, 50) / num_values
        areas = measure_areas(truths, given)
        assert areas
        assert areas.roc_auc == pytest.approx(metrics.roc_auc_score(truths, given), rel=1e-12)
        assert areas.average_precision == pytest.approx(metrics.average_precision_score(truths, given), rel=1e-12)


def test_evaluate_many_classes_has_thresholds_of_those_with_the_lowest_average_precision() -> None:
    num_classes = MAX_DENSE_CLASSES + 1
    rng = np.random.default_rng(2)
    targets = np.arange(3 * num_classes) % num_classes
    scores = rng.random((len(targets), num_classes)) + np.eye(num_classes)[targets]
    probabilities = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    found = read_back(evaluate(targets, probabilities, [str(number) for number in range(num_classes)], 0))
    detailed = [c.average_precision for c in found.classes if c.thresholds]
    others = [c.average_precision for c in found.classes if not c.thresholds]
    assert len(detailed) == NUM_DETAILED
    assert max(detailed) <= min(others)
    assert found.roc_auc == pytest.approx(
        np.mean([metrics.roc_auc_score(targets == n, probabilities[:, n]) for n in range(num_classes)])
    )
    assert found.confusion is None
    assert sum(count for _, _, count in found.confusion_cells) == len(targets)


def test_choose_thresholds_takes_the_best_f1_and_the_best_precision_for_a_recall() -> None:
    found = {t.wanted: t for t in read_back(choose_thresholds(TARGETS == 1, SECOND))}
    # Threshold 0.72: three dogs of three, F1 6/7. Threshold 0.31: four dogs of six, F1 0.8.
    best = found["best F1"]
    assert (best.threshold, best.precision, best.recall) == (0.72, 1.0, 0.75)
    assert best.f1 == pytest.approx(6 / 7)
    for wish in ("recall 0.9", "recall 0.95", "recall 0.99"):
        assert (found[wish].threshold, found[wish].recall) == (0.31, 1.0)
        assert found[wish].precision == pytest.approx(4 / 6)
    # Three dogs are found without an error.
    for wish in ("precision 0.9", "precision 0.95", "precision 0.99"):
        assert (found[wish].threshold, found[wish].precision, found[wish].recall) == (0.72, 1.0, 0.75)


def test_choose_thresholds_leaves_out_a_precision_that_is_not_reached() -> None:
    truths, given = np.array([True, False, True, False]), np.array([0.2, 0.4, 0.6, 0.8])
    found = {t.wanted for t in read_back(choose_thresholds(truths, given))}
    assert found == {"best F1", "recall 0.9", "recall 0.95", "recall 0.99"}


@pytest.mark.parametrize(
    ("truths", "wanted", "thresholds"),
    [
        # The best F1, 2/3, is reached twice: 1 of 1 predicted and 2 of 4 predicted are of the class, which has 2.
        pytest.param([True, False, False, True], "best F1", (0.05, 0.2), id="f1"),
        # Two thresholds have precision 1 and a recall of at least 0.9: they find 10 and 9 of the 10 pictures.
        pytest.param([False, *[True] * 10], "recall 0.9", (0.1, 0.15), id="precision"),
    ],
)
def test_choose_thresholds_in_a_tie_takes_the_highest(
    truths: list[bool], wanted: str, thresholds: tuple[float, float]
) -> None:
    given, is_class = np.arange(1, len(truths) + 1) / 20, np.array(truths)
    predicted = [given >= threshold for threshold in thresholds]
    score = metrics.f1_score if wanted == "best F1" else metrics.precision_score
    assert score(is_class, predicted[0]) == score(is_class, predicted[1])
    found = {t.wanted: t.threshold for t in read_back(choose_thresholds(is_class, given))}
    assert found[wanted] == max(thresholds)


def test_choose_thresholds_precision_and_recall_hold_for_any_probabilities() -> None:
    targets, probabilities = draw_three(100)
    for number in range(3):
        truths, given = targets == number, probabilities[:, number].astype(np.float64)
        all_f1 = [metrics.f1_score(truths, given >= place) for place in given]
        for found in read_back(choose_thresholds(truths, given)):
            called = given >= found.threshold
            assert found.precision == pytest.approx(metrics.precision_score(truths, called))
            assert found.recall == pytest.approx(metrics.recall_score(truths, called))
            assert found.f1 == pytest.approx(metrics.f1_score(truths, called))
            if found.wanted == "best F1":
                assert found.f1 == pytest.approx(max(all_f1))
            else:
                name, share = found.wanted.split()
                assert getattr(found, name) >= float(share)


@pytest.mark.parametrize("sharpness", [0.02, 0.5, 5.0])
def test_choose_thresholds_of_confident_heads_hold_at_four_digits(sharpness: float) -> None:
    rng = np.random.default_rng(0)
    truths = np.arange(40) % 2 == 1
    given = np.clip(0.5 + 0.49999 * np.where(truths, 1, -1) * rng.random(40) ** sharpness, 0, 1)
    for found in read_back(choose_thresholds(truths, given)):
        shown = float(f"{found.threshold:.4f}")
        called = given >= shown
        assert found.recall == (called & truths).sum() / truths.sum()
        assert found.precision == (called & truths).sum() / called.sum()


def test_choose_thresholds_never_rounds_up() -> None:
    given = np.nextafter(np.arange(1, 1000) / 1000, 0)
    for place in (0, 299, 700):
        (best, *_) = read_back(choose_thresholds(np.arange(999) >= place, given))
        assert best.threshold <= given[place]
        assert (best.precision, best.recall) == (1.0, 1.0)


def test_evaluate_log_loss_of_a_confident_error_equals_that_of_its_logit() -> None:
    logits = np.array([[18.0]] + [[3.0]] * 4 + [[-3.0]] * 5, np.float32)
    targets = np.array([0] + [1] * 4 + [0] * 5)
    exact = np.logaddexp(0, np.where(targets == 1, -1, 1) * logits[:, 0].astype(np.float64)).mean()
    second = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
    first = np.exp(-np.logaddexp(0, logits.astype(np.float64)))
    found = read_back(
        evaluate(targets, np.concatenate([first, second], axis=1).astype(np.float32), ["cats", "dogs"], 0)
    )
    assert found.log_loss == pytest.approx(exact, abs=1e-6)
    # In float32, the second probability of the first picture is 1, so the first is 0. The loss counts it as 2⁻²⁵.
    rounded = second.astype(np.float32)
    found = read_back(evaluate(targets, np.concatenate([1 - rounded, rounded], axis=1), ["cats", "dogs"], 0))
    assert found.log_loss == pytest.approx(exact, abs=0.1)


def test_evaluate_pictures_of_one_class_has_no_areas_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_back(evaluate(np.zeros(4, np.int64), np.full((4, 2), 0.5, np.float32), ["cats", "dogs"], 0))
    assert (found.roc_auc, found.average_precision) == (None, None)
    assert [c.thresholds for c in found.classes] == [[], []]
    assert found.classes[1].num_pictures == 0
    assert found.balanced_accuracy == 1.0
