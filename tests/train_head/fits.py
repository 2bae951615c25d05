"""Helpers for tests of fits: the full solver, Keras as the reference, comparisons, and interruptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from base.progress import ProgressBar
from base.terminal import Console, ConsoleOptions, Unit
from features.store import FeatureStore
from train_head.config import OptimizerName, TrainConfig
from train_head.data.batches import Array
from train_head.data.split import split_examples
from train_head.solvers import Fit, Problem, ignore_epoch
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights, build_head
from train_head.solvers.history import Epoch

FIELDS = ("hidden_kernel", "hidden_bias", "output_kernel", "output_bias")


class _CountedProgress(ProgressBar):
    def __init__(self, console: InterruptingConsole, total: int) -> None:
        super().__init__(total)
        self._console = console

    def advance(self, num_done: int, note: str = "") -> None:
        self._console.advance(num_done, note)


class InterruptingConsole(Console):
    """Console that counts the epochs of all fits, and raises KeyboardInterrupt between an epoch and its checkpoint."""

    def __init__(self, after: int) -> None:
        """Interrupt after this number of epochs; 0 only counts."""
        super().__init__(ConsoleOptions(quiet=True))
        self.after, self.num_epochs = after, 0

    @contextmanager
    def progress(self, description: str, total: int, unit: str | Unit) -> Iterator[ProgressBar]:
        # Only epochs are counted: the progress of a reduction depends on the factors that earlier tests cached.
        yield _CountedProgress(self, total) if unit == "epochs" else ProgressBar(total)

    def advance(self, num_done: int, note: str = "") -> None:
        self.num_epochs += num_done
        if num_done and self.num_epochs == self.after:
            raise KeyboardInterrupt


def limit_memory(monkeypatch: pytest.MonkeyPatch, num_bytes: int | None) -> None:
    """Keep no features in memory, and read blocks of this size; None keeps all."""
    if num_bytes is not None:
        monkeypatch.setattr("train_head.data.batches.HELD_BYTES", 0)
        monkeypatch.setattr("train_head.data.batches.BLOCK_BYTES", num_bytes)


def fit(
    store: FeatureStore,
    config: TrainConfig,
    console: Console,
    checkpoint: Checkpoint | None = None,
    on_epoch_end: Callable[[Epoch], None] = ignore_epoch,
) -> Fit:
    """Fit a head with the full solver."""
    from train_head.solvers.full import fit_full

    problem = Problem(store, split_examples(store.examples, 0.2), config, on_epoch_end)
    return fit_full(problem, checkpoint or Checkpoint(None), console)


def list_values(fitted: Fit) -> list[tuple[float, ...]]:
    """List the rows of the history without their seconds."""
    return [(row.epoch, row.loss, row.accuracy, row.val_loss, row.val_accuracy) for row in fitted.history]


def assert_same_weights(mine: HeadWeights, theirs: HeadWeights) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name), err_msg=name)


def assert_same_fit(mine: Fit, theirs: Fit) -> None:
    """Assert that two fits are equal bit for bit, except for their seconds."""
    assert list_values(mine) == list_values(theirs)
    assert mine.kept_epoch == theirs.kept_epoch
    assert_same_weights(mine.weights, theirs.weights)
    np.testing.assert_array_equal(mine.train_probabilities, theirs.train_probabilities)
    np.testing.assert_array_equal(mine.validation_probabilities, theirs.validation_probabilities)


def build_plain_model(config: TrainConfig, num_classes: int, shape: Sequence[int]) -> Any:
    """Build and compile the head in plain Keras, with the initial weights of the seed and without dropout."""
    import keras

    is_binary = num_classes == 2
    outputs, activation = (1, "sigmoid") if is_binary else (num_classes, "softmax")
    penalty = keras.regularizers.L2(config.l2) if config.l2 else None
    hidden = [keras.layers.Dense(config.units, activation="relu", kernel_regularizer=penalty)] if config.units else []
    model = keras.Sequential(
        [
            keras.Input(tuple(shape)),
            keras.layers.Flatten(),
            *hidden,
            keras.layers.Dense(outputs, activation=activation, kernel_regularizer=penalty),
        ]
    )
    model.set_weights(build_head(shape, num_classes, config.units, 0.0, config.seed).get_weights())
    optimizers = {
        OptimizerName.RMSPROP: keras.optimizers.RMSprop,
        OptimizerName.ADAM: keras.optimizers.Adam,
        OptimizerName.SGD: keras.optimizers.SGD,
    }
    options = {"momentum": config.momentum} if config.momentum else {}
    loss = "binary_crossentropy" if is_binary else "sparse_categorical_crossentropy"
    model.compile(optimizers[config.optimizer](learning_rate=config.learning_rate, **options), loss=loss)
    return model


def classify(outputs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the class numbers of sigmoid or softmax outputs."""
    return np.asarray(outputs[:, 0] > 0.5 if outputs.shape[1] == 1 else outputs.argmax(axis=1), np.int64)


class PlainFit(NamedTuple):
    """Result of a training loop in plain Keras."""

    weights: list[NDArray[np.float32]]
    rows: list[tuple[float, float, float, float]]
    """Loss, accuracy, validation loss and validation accuracy of each epoch."""
    train_outputs: NDArray[np.float32]
    validation_outputs: NDArray[np.float32]


def fit_plain_model(
    store: FeatureStore,
    config: TrainConfig,
    class_weight: dict[int, float] | None = None,
    initial: Sequence[NDArray[Any]] | None = None,
) -> PlainFit:
    """Fit a plain Keras model batch by batch, in the order that the seed and the epoch give.

    Args:
        store: the features, with a folder validation/.
        config: the options; dropout and patience are ignored.
        class_weight: weight of each class in the loss.
        initial: initial weights; by default those of the seed.
    """
    split = split_examples(store.examples, 0.2)
    inputs = store.read(split.train).astype(np.float32)
    targets = np.array([split.classes.index(example.label) for example in split.train])
    val_inputs = store.read(split.validation).astype(np.float32)
    val_targets = np.array([split.classes.index(example.label) for example in split.validation])
    model = build_plain_model(config, len(split.classes), store.feature_shape)
    if initial:
        model.set_weights(initial)
    rows = []
    for epoch in range(config.epochs):
        order = np.random.default_rng((config.seed, epoch)).permutation(len(inputs))
        total, num_correct = 0.0, 0
        for start in range(0, len(order), config.batch_size):
            batch = order[start : start + config.batch_size]
            num_correct += int(np.sum(classify(np.asarray(model(inputs[batch]))) == targets[batch]))
            model.reset_metrics()
            batch_targets = targets[batch][:, None].astype(np.float32)
            loss = model.train_on_batch(inputs[batch], batch_targets, class_weight=class_weight)
            total += float(loss) * len(batch)
        model.reset_metrics()
        val_loss = float(model.test_on_batch(val_inputs, val_targets[:, None].astype(np.float32)))
        val_accuracy = float(np.mean(classify(np.asarray(model(val_inputs))) == val_targets))
        rows.append((total / len(order), num_correct / len(order), val_loss, val_accuracy))
    return PlainFit(model.get_weights(), rows, np.asarray(model(inputs)), np.asarray(model(val_inputs)))


def assert_equals_plain_fit(
    store: FeatureStore, config: TrainConfig, console: Console, class_weight: dict[int, float] | None = None
) -> Fit:
    """Assert that a fit of the full solver equals plain Keras in weights, history and probabilities; return the fit."""
    fitted = fit(store, config, console)
    plain = fit_plain_model(store, config, class_weight)
    for name, expected in zip(fitted.weights.to_arrays(), plain.weights, strict=True):
        np.testing.assert_allclose(getattr(fitted.weights, name), expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert [row.epoch for row in fitted.history] == list(range(1, config.epochs + 1))
    assert fitted.kept_epoch == config.epochs
    np.testing.assert_allclose([row[1:] for row in list_values(fitted)], plain.rows, rtol=1e-5)
    for probabilities, outputs in (
        (fitted.train_probabilities, plain.train_outputs),
        (fitted.validation_probabilities, plain.validation_outputs),
    ):
        num_classes = max(2, outputs.shape[1])
        assert probabilities.shape == (len(outputs), num_classes)
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities[:, -outputs.shape[1] :], outputs, atol=1e-6)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    return fitted


def make_fit(probabilities: Array, losses: Sequence[float], kept_epoch: int) -> Fit:
    """Make the result of a solver from validation probabilities, and the training loss of each epoch."""
    history = [Epoch(number, loss, 0.5, loss / 2, 0.5, 0.1) for number, loss in enumerate(losses, 1)]
    weights = HeadWeights(*(np.zeros(shape, np.float32) for shape in ((2, 1), (1,), (1, 1), (1,))))
    return Fit(weights, history, kept_epoch, np.zeros((0, 2), np.float32), probabilities)
