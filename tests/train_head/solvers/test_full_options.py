"""The full solver's options: class weights, L2, momentum, patience; and what is left of a fit that diverges."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.fits import FIELDS, assert_as_by_hand, assert_same_fit, assert_same_weights, fit, list_values
from tests.train_head.synthetic import list_paths, make_store
from train_head.config import ClassWeight, OptimizerName, TrainConfig
from train_head.data.split import split_examples

BASE = TrainConfig(Path("store"), Path("run"), epochs=3, batch_size=4, units=6, dropout=0.0, learning_rate=0.01, seed=7)
UNSTABLE = replace(BASE, epochs=60, learning_rate=0.3, l2=5.0, optimizer=OptimizerName.SGD)
"""Each step multiplies the kernels by about 1 - 2 * 0.3 * 5 = -2, so that their squares overflow in the end."""
OVERFITTING = replace(BASE, epochs=60, units=24, learning_rate=0.02, dropout=0.3, optimizer=OptimizerName.ADAM)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """14 cats and 5 dogs to train on, 4 and 3 to validate with."""
    counts = {"train/cats": 14, "train/dogs": 5, "validation/cats": 4, "validation/dogs": 3}
    return make_store(tmp_path_factory.mktemp("uneven") / "two", list_paths(counts))


@pytest.fixture(scope="module")
def uneven_three(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """12 cats, 2 dogs and 5 owls to train on, 2, 3 and 2 to validate with."""
    counts = {"train/cats": 12, "train/dogs": 2, "train/owls": 5}
    counts |= {"validation/cats": 2, "validation/dogs": 3, "validation/owls": 2}
    return make_store(tmp_path_factory.mktemp("uneven") / "three", list_paths(counts))


def test_fit_full_balanced_equals_a_loop_by_hand_with_class_weight(uneven: FeatureStore, quiet: Console) -> None:
    config = replace(BASE, class_weight=ClassWeight.BALANCED)
    assert_as_by_hand(uneven, config, quiet, {0: 19 / (2 * 14), 1: 19 / (2 * 5)})


def test_fit_full_balanced_of_three_classes_equals_a_loop_by_hand_with_class_weight(
    uneven_three: FeatureStore, quiet: Console
) -> None:
    config = replace(BASE, class_weight=ClassWeight.BALANCED)
    assert_as_by_hand(uneven_three, config, quiet, {0: 19 / (3 * 12), 1: 19 / (3 * 2), 2: 19 / (3 * 5)})


def test_fit_full_balanced_weighs_neither_accuracy_nor_validation(uneven: FeatureStore, quiet: Console) -> None:
    # A rate of nothing: both are of the initial head.
    config = replace(BASE, epochs=1, learning_rate=1e-30, optimizer=OptimizerName.SGD)
    plain = fit(uneven, config, quiet).history[0]
    balanced = fit(uneven, replace(config, class_weight=ClassWeight.BALANCED), quiet).history[0]
    assert balanced.loss != pytest.approx(plain.loss, rel=1e-3)
    assert (balanced.accuracy, balanced.val_loss, balanced.val_accuracy) == (
        plain.accuracy,
        plain.val_loss,
        plain.val_accuracy,
    )


@pytest.mark.parametrize("optimizer", [OptimizerName.RMSPROP, OptimizerName.ADAM])
def test_fit_full_with_l2_equals_a_loop_by_hand_with_both_kernels_regularized(
    two_classes: FeatureStore, quiet: Console, optimizer: OptimizerName
) -> None:
    assert_as_by_hand(two_classes, replace(BASE, l2=0.05, optimizer=optimizer), quiet)


def test_fit_full_with_l2_tells_losses_with_the_penalty_of_both_kernels_and_no_bias(
    two_classes: FeatureStore, quiet: Console
) -> None:
    fitted = fit(two_classes, replace(BASE, l2=0.05, epochs=8), quiet)
    validation = split_examples(two_classes.examples, 0.2).validation
    targets = [int(example.label == "dogs") for example in validation]
    losses = -np.log(fitted.validation_probabilities[np.arange(len(targets)), targets])
    kernels = (fitted.weights.hidden_kernel, fitted.weights.output_kernel)
    penalty = 0.05 * sum(float(np.square(kernel, dtype=np.float64).sum()) for kernel in kernels)
    assert penalty > 0.05
    assert fitted.history[-1].val_loss == pytest.approx(losses.mean() + penalty, rel=1e-5)


def test_fit_full_with_momentum_equals_a_loop_by_hand(two_classes: FeatureStore, quiet: Console) -> None:
    config = replace(BASE, epochs=5, momentum=0.9, optimizer=OptimizerName.SGD)
    assert_as_by_hand(two_classes, config, quiet)


def test_fit_full_with_everything_at_once_equals_a_loop_by_hand(uneven_three: FeatureStore, quiet: Console) -> None:
    changes: dict[str, Any] = {"l2": 0.02, "momentum": 0.8, "class_weight": ClassWeight.BALANCED, "batch_size": 5}
    config = replace(BASE, optimizer=OptimizerName.SGD, **changes)
    assert_as_by_hand(uneven_three, config, quiet, {0: 19 / (3 * 12), 1: 19 / (3 * 2), 2: 19 / (3 * 5)})


def test_fit_full_with_patience_keeps_the_best_epoch_and_stops_as_many_after_it(
    noisy: FeatureStore, quiet: Console
) -> None:
    fitted = fit(noisy, replace(OVERFITTING, patience=3), quiet)
    losses = [row.val_loss for row in fitted.history]
    assert fitted.kept_epoch == 1 + int(np.argmin(losses))
    assert 1 < fitted.kept_epoch < 57
    assert [row.epoch for row in fitted.history] == list(range(1, fitted.kept_epoch + 4))
    exact = fit(noisy, replace(OVERFITTING, epochs=fitted.kept_epoch), quiet)
    assert list_values(exact) == list_values(fitted)[: fitted.kept_epoch]
    assert exact.kept_epoch == fitted.kept_epoch
    assert_same_weights(fitted.weights, exact.weights)
    np.testing.assert_array_equal(fitted.train_probabilities, exact.train_probabilities)
    np.testing.assert_array_equal(fitted.validation_probabilities, exact.validation_probabilities)


def test_fit_full_with_more_patience_than_epochs_runs_all_and_keeps_the_best(
    noisy: FeatureStore, quiet: Console
) -> None:
    config = replace(OVERFITTING, epochs=25, patience=25)
    fitted = fit(noisy, config, quiet)
    assert len(fitted.history) == 25
    assert fitted.kept_epoch == 1 + int(np.argmin([row.val_loss for row in fitted.history])) < 25
    last = fit(noisy, replace(config, patience=0), quiet)
    assert (last.kept_epoch, list_values(last)) == (25, list_values(fitted))
    assert not np.array_equal(last.weights.hidden_kernel, fitted.weights.hidden_kernel)


def test_fit_full_that_diverges_later_keeps_the_weights_of_the_last_good_epoch(
    two_classes: FeatureStore, quiet: Console
) -> None:
    fitted = fit(two_classes, UNSTABLE, quiet)
    bad = len(fitted.history)
    assert 2 < bad < 60
    assert [row.is_finite for row in fitted.history] == [True] * (bad - 1) + [False]
    assert fitted.kept_epoch == bad - 1
    good = fit(two_classes, replace(UNSTABLE, epochs=bad - 1), quiet)
    assert_same_weights(fitted.weights, good.weights)
    assert all(np.isfinite(getattr(fitted.weights, name)).all() for name in FIELDS)
    np.testing.assert_array_equal(fitted.validation_probabilities, good.validation_probabilities)
    assert list_values(fitted)[:-1] == list_values(good)


def test_fit_full_with_patience_that_diverges_keeps_the_best_epoch(two_classes: FeatureStore, quiet: Console) -> None:
    fitted = fit(two_classes, replace(UNSTABLE, patience=60), quiet)
    losses = [row.val_loss for row in fitted.history]
    assert not math.isfinite(losses[-1])
    assert fitted.kept_epoch == 1 + int(np.argmin(losses[:-1])) < len(losses) - 1
    assert_same_fit(
        replace(fitted, history=fitted.history[: fitted.kept_epoch]),
        fit(two_classes, replace(UNSTABLE, epochs=fitted.kept_epoch), quiet),
    )
