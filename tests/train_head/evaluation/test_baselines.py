"""Baselines, compared with scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from features.store import Example, FeatureStore
from tests.train_head.synthetic import FINGERPRINT, list_paths, make_store
from train_head.data.folds import split_into_folds
from train_head.data.split import Split, split_examples
from train_head.evaluation.baselines import LOGISTIC, MAJORITY, measure_baselines
from train_head.evaluation.metrics import compute_loss, list_losses

pytestmark = pytest.mark.unit


def fit_by_hand(store: FeatureStore, split: Split) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Predict the validation pictures from their channel means."""

    def read(examples: list[Example]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        features = store.read(examples).astype(np.float32)
        means = features.mean(axis=(1, 2)) if features.ndim == 4 else features
        return means.astype(np.float16).astype(np.float32)

    scaler = StandardScaler().fit(read(split.train))
    model = LogisticRegression(max_iter=1000)
    model.fit(scaler.transform(read(split.train)), [example.label for example in split.train])
    assert list(model.classes_) == split.classes
    found: np.ndarray[tuple[int, int], np.dtype[np.float64]] = model.predict_proba(
        scaler.transform(read(split.validation))
    )
    return found


def measure_accuracy(split: Split, probabilities: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    predicted = [split.classes[number] for number in probabilities.argmax(axis=1)]
    return float(np.mean([label == example.label for label, example in zip(predicted, split.validation, strict=True)]))


def test_measure_baselines_equals_scikit_learn_on_channel_means(noisy: FeatureStore) -> None:
    split = split_examples(noisy.examples, 0.2)
    majority, logistic = measure_baselines(noisy, split, 0)
    probabilities = fit_by_hand(noisy, split)
    truth = [split.classes.index(example.label) for example in split.validation]
    assert (majority.name, logistic.name) == (MAJORITY, LOGISTIC)
    assert logistic.val_accuracy == measure_accuracy(split, probabilities)
    assert 0.5 < logistic.val_accuracy < 1
    np.testing.assert_allclose(logistic.losses, -np.log(probabilities[range(16), truth]), rtol=1e-5)
    assert (majority.fold_accuracies, logistic.fold_accuracies) == ([], [])


def test_measure_baselines_of_three_separable_classes_is_perfect(three_classes: FeatureStore) -> None:
    majority, logistic = measure_baselines(three_classes, split_examples(three_classes.examples, 0.2), 0)
    assert majority.val_accuracy == pytest.approx(1 / 3)
    assert logistic.val_accuracy == 1.0


def test_measure_baselines_predicts_the_largest_training_class(tmp_path: Path) -> None:
    counts = {"train/cats": 3, "train/dogs": 9, "validation/cats": 6, "validation/dogs": 2}
    store = make_store(tmp_path / "store", list_paths(counts))
    majority, _ = measure_baselines(store, split_examples(store.examples, 0.2), 0)
    assert majority.val_accuracy == 2 / 8
    # Its probabilities are the class shares of training: 3 of 12 are cats.
    np.testing.assert_allclose(sorted(majority.losses), [-np.log(0.75)] * 2 + [-np.log(0.25)] * 6, rtol=1e-6)


def test_measure_baselines_with_folds_measures_each_fold(noisy: FeatureStore) -> None:
    split = split_examples(noisy.examples, 0.2)
    majority, logistic = measure_baselines(noisy, split, 3)
    folds = split_into_folds(split, 3)
    assert logistic.val_accuracy == measure_accuracy(split, fit_by_hand(noisy, split))
    assert logistic.fold_accuracies == [measure_accuracy(fold, fit_by_hand(noisy, fold)) for fold in folds]
    assert majority.fold_accuracies == [
        float(np.mean([example.label == "cats" for example in fold.validation])) for fold in folds
    ]


def test_measure_baselines_uses_pooled_features_unchanged(tmp_path: Path) -> None:
    paths = list_paths({"train/cats": 8, "train/dogs": 8, "validation/cats": 4, "validation/dogs": 4})
    features = np.random.default_rng(4).normal(0, 1, (24, 5))
    features[[path.split("/")[1] == "dogs" for path in paths]] += 0.4
    store = make_store(tmp_path / "store", paths, features=features, fingerprint=replace(FINGERPRINT, pool="avg"))
    split = split_examples(store.examples, 0.2)
    _, logistic = measure_baselines(store, split, 0)
    assert logistic.val_accuracy == measure_accuracy(split, fit_by_hand(store, split))


def test_list_losses_has_the_mean_of_compute_loss() -> None:
    probabilities = np.array([[0.9, 0.1], [0.0, 1.0], [0.25, 0.75]], np.float32)
    targets = np.array([0, 0, 1])
    losses = list_losses(targets, probabilities)
    np.testing.assert_allclose(losses, [-np.log(0.9), 25 * np.log(2), -np.log(0.75)], rtol=1e-5)
    assert float(losses.mean()) == pytest.approx(compute_loss(targets, probabilities))
