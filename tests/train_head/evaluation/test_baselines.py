"""Baseline of the largest class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.store import FeatureStore
from tests.train_head.synthetic import list_paths, make_store
from train_head.data.folds import split_into_folds
from train_head.data.split import split_examples
from train_head.evaluation.baselines import MAJORITY, measure_majority
from train_head.evaluation.metrics import compute_loss, list_losses

pytestmark = pytest.mark.unit


def test_measure_majority_of_three_equal_classes_is_a_third(three_classes: FeatureStore) -> None:
    found = measure_majority(split_examples(three_classes.examples, 0.2), 0)
    assert (found.name, found.fold_accuracies) == (MAJORITY, [])
    assert found.val_accuracy == pytest.approx(1 / 3)


def test_measure_majority_predicts_the_largest_training_class(tmp_path: Path) -> None:
    counts = {"train/cats": 3, "train/dogs": 9, "validation/cats": 6, "validation/dogs": 2}
    store = make_store(tmp_path / "store", list_paths(counts))
    found = measure_majority(split_examples(store.examples, 0.2), 0)
    assert found.val_accuracy == 2 / 8
    # Its probabilities are the class shares of training: 3 of 12 are cats.
    np.testing.assert_allclose(sorted(found.losses), [-np.log(0.75)] * 2 + [-np.log(0.25)] * 6, rtol=1e-6)


def test_measure_majority_with_folds_measures_each_fold(noisy: FeatureStore) -> None:
    split = split_examples(noisy.examples, 0.2)
    assert measure_majority(split, 3).fold_accuracies == [
        float(np.mean([example.label == "cats" for example in fold.validation])) for fold in split_into_folds(split, 3)
    ]


def test_list_losses_has_the_mean_of_compute_loss() -> None:
    probabilities = np.array([[0.9, 0.1], [0.0, 1.0], [0.25, 0.75]], np.float32)
    targets = np.array([0, 0, 1])
    losses = list_losses(targets, probabilities)
    np.testing.assert_allclose(losses, [-np.log(0.9), 25 * np.log(2), -np.log(0.75)], rtol=1e-5)
    assert float(losses.mean()) == pytest.approx(compute_loss(targets, probabilities))
