"""The full solver: equal to plain Keras, early stopping, divergence, probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.terminal import Console
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.fits import FIELDS, assert_equals_plain_fit, fit
from tests.train_head.synthetic import SHAPE, list_paths, make_store
from train_head.config import ClassWeight, OptimizerName, TrainConfig
from train_head.data.split import split_examples
from train_head.solvers import Fit
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights, build_head, restore_head
from train_head.solvers.history import DivergedError, Epoch
from train_head.solvers.network import compute_logits, compute_probabilities

BASE = TrainConfig(Path("store"), Path("run"), epochs=3, batch_size=4, units=6, dropout=0.0, learning_rate=0.01, seed=7)
OVERFITTING = replace(BASE, epochs=60, units=24, learning_rate=0.02, dropout=0.3, optimizer=OptimizerName.ADAM)
UNSTABLE = replace(BASE, epochs=60, learning_rate=1.0, l2=5.0, optimizer=OptimizerName.SGD)
"""Each step multiplies the kernels by about 1 - 2 * 1 * 5 = -9, so their squares overflow after some epochs."""


@pytest.fixture(scope="module")
def three_uneven(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Store with 12 cats, 2 dogs and 5 owls for training, and 2, 3 and 2 for validation."""
    counts = {"train/cats": 12, "train/dogs": 2, "train/owls": 5}
    counts |= {"validation/cats": 2, "validation/dogs": 3, "validation/owls": 2}
    return make_store(tmp_path_factory.mktemp("uneven") / "three", list_paths(counts))


@pytest.mark.parametrize(
    ("store_name", "class_weight", "changes"),
    [
        pytest.param("noisy", None, {"batch_size": 5}, id="rmsprop"),
        pytest.param(
            "noisy",
            {0: 36 / (2 * 20), 1: 36 / (2 * 16)},
            {"optimizer": OptimizerName.ADAM, "l2": 0.05, "class_weight": ClassWeight.BALANCED},
            id="adam-l2-balanced",
        ),
        pytest.param(
            "three_uneven",
            {0: 19 / (3 * 12), 1: 19 / (3 * 2), 2: 19 / (3 * 5)},
            {
                **{"optimizer": OptimizerName.SGD, "momentum": 0.8, "learning_rate": 0.05},
                **{"l2": 0.02, "class_weight": ClassWeight.BALANCED, "batch_size": 5},
            },
            id="three-momentum-l2-balanced",
        ),
        pytest.param("two_classes", None, {"units": 0, "l2": 0.01}, id="two-linear"),
    ],
)
def test_fit_full_without_dropout_equals_plain_keras(
    request: pytest.FixtureRequest,
    quiet: Console,
    store_name: str,
    class_weight: dict[int, float] | None,
    changes: dict[str, Any],
) -> None:
    store: FeatureStore = request.getfixturevalue(store_name)
    config = replace(BASE, **changes)
    fitted = assert_equals_plain_fit(store, config, quiet, class_weight)
    split = split_examples(store.examples, 0.2)
    targets = [split.classes.index(example.label) for example in split.validation]
    losses = -np.log(fitted.validation_probabilities[np.arange(len(targets)), targets])
    kernels = fitted.weights.list_weights()[::2]
    penalty = config.l2 * sum(float(np.square(kernel, dtype=np.float64).sum()) for kernel in kernels)
    # The validation loss has the penalty of all kernels, and no class weights.
    assert fitted.history[-1].val_loss == pytest.approx(losses.mean() + penalty, rel=1e-5)


def test_fit_full_with_batches_of_one_averages_over_all_examples(two_classes: FeatureStore, quiet: Console) -> None:
    # At this low learning rate, the values of the epoch are those of the initial head.
    config = replace(BASE, epochs=1, batch_size=1, learning_rate=1e-12, optimizer=OptimizerName.SGD)
    fitted = fit(two_classes, config, quiet)
    split = split_examples(two_classes.examples, 0.2)
    head = build_head(SHAPE, 2, config.units, 0.0, config.seed)
    outputs = head.predict_on_batch(two_classes.read(split.train).astype(np.float32))[:, 0]
    targets = np.array([example.label == "dogs" for example in split.train])
    expected = -np.log(np.where(targets, outputs, 1 - outputs)).mean()
    assert fitted.history[0].loss == pytest.approx(expected, rel=1e-5)
    assert fitted.history[0].accuracy == pytest.approx(np.mean((outputs > 0.5) == targets))


def test_fit_full_that_diverges_in_the_last_step_of_the_first_epoch_raises(
    two_classes: FeatureStore, quiet: Console
) -> None:
    # The batch size exceeds the number of pictures, 23, so there is only one batch.
    config = replace(BASE, batch_size=1000, learning_rate=1e30, optimizer=OptimizerName.SGD)
    with raises(DivergedError, where="epoch 1") as caught:
        fit(two_classes, config, quiet)
    row = caught.value.row
    assert (row.epoch, np.isfinite(row.loss), np.isnan(row.val_loss)) == (1, True, True)
    assert "1e+30" in caught.value.got


def fit_with_weights(
    store: FeatureStore, config: TrainConfig, path: Path, console: Console
) -> tuple[Fit, dict[int, list[NDArray[Any]]]]:
    """Fit a head, and return the weights after each epoch but the last, from the arrays of its checkpoints."""
    weights: dict[int, list[NDArray[Any]]] = {}

    def load_weights(row: Epoch) -> None:
        _, arrays = Checkpoint(path, "key").load(0, console)
        weights[row.epoch] = [array for array in arrays if array.dtype == np.float32][: len(FIELDS)]

    return fit(store, config, console, Checkpoint(path, "key"), load_weights), weights


def assert_keeps(fitted: Fit, weights: Sequence[NDArray[Any]], store: FeatureStore) -> None:
    """Compare the kept weights bit for bit, and the probabilities with those of the same weights in NumPy."""
    for name, expected in zip(FIELDS, weights, strict=True):
        np.testing.assert_array_equal(getattr(fitted.weights, name), expected, err_msg=name)
    split = split_examples(store.examples, 0.2)
    for examples, probabilities in (
        (split.train, fitted.train_probabilities),
        (split.validation, fitted.validation_probabilities),
    ):
        inputs = store.read(examples).reshape(len(examples), -1).astype(np.float32)
        logits = compute_logits(HeadWeights(*weights), inputs)
        np.testing.assert_allclose(probabilities, compute_probabilities(logits), atol=1e-5)


@pytest.mark.usefixtures("eager")
def test_fit_full_that_diverges_later_keeps_the_last_finite_epoch(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    fitted, weights = fit_with_weights(two_classes, UNSTABLE, tmp_path / "fit.npz", quiet)
    num_epochs = len(fitted.history)
    assert 2 < num_epochs < 10
    assert [row.is_finite for row in fitted.history] == [True] * (num_epochs - 1) + [False]
    assert fitted.kept_epoch == num_epochs - 1
    assert_keeps(fitted, weights[num_epochs - 1], two_classes)
    assert all(np.isfinite(array).all() for array in fitted.weights.list_weights())


@pytest.mark.usefixtures("eager")
def test_fit_full_with_patience_stops_and_keeps_the_best_epoch(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    fitted, weights = fit_with_weights(noisy, replace(OVERFITTING, patience=3), tmp_path / "fit.npz", quiet)
    losses = [row.val_loss for row in fitted.history]
    assert fitted.kept_epoch == 1 + int(np.argmin(losses))
    assert 1 < fitted.kept_epoch < 57
    assert [row.epoch for row in fitted.history] == list(range(1, fitted.kept_epoch + 4))
    assert_keeps(fitted, weights[fitted.kept_epoch], noisy)
    assert not np.array_equal(weights[fitted.kept_epoch][0], weights[fitted.kept_epoch + 1][0])


def test_fit_full_of_confident_errors_gives_the_probabilities_of_its_loss(noisy: FeatureStore, quiet: Console) -> None:
    fitted = fit(noisy, replace(BASE, learning_rate=3.0, units=32), quiet)
    split = split_examples(noisy.examples, 0.2)
    targets = np.array([split.classes.index(example.label) for example in split.validation])
    likelihoods = fitted.validation_probabilities[np.arange(len(targets)), targets]
    # Float32 has no number between 1 - 6e-8 and 1: 1 - p would be 0.
    assert 0 < likelihoods.min() < 1e-8
    assert -np.log(likelihoods.astype(np.float64)).mean() == pytest.approx(fitted.history[-1].val_loss, rel=1e-4)
    head = restore_head(fitted.weights, SHAPE, 2, 0.0)
    outputs = head.predict_on_batch(noisy.read(split.validation).astype(np.float32))[:, 0]
    np.testing.assert_allclose(fitted.validation_probabilities[:, 1], outputs, atol=1e-6)
