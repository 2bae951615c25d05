"""What tests of fits share: the full solver and Keras by hand, comparisons, and Ctrl-C at a chosen epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.terminal import Console, ConsoleOptions, ProgressBar
from features.store import FeatureStore
from tests.train_head.synthetic import SHAPE
from train_head.config import OptimizerName, TrainConfig
from train_head.data.batches import Array
from train_head.data.split import split_examples
from train_head.solvers import Fit, Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights, build_head
from train_head.solvers.history import Epoch

FIELDS = ("hidden_kernel", "hidden_bias", "output_kernel", "output_bias")


class _Followed(ProgressBar):
    def __init__(self, console: Interrupting, total: int) -> None:
        super().__init__(total)
        self._console = console

    def advance(self, num_done: int, note: str = "") -> None:
        self._console.advance(num_done, note)


class Interrupting(Console):
    """Ctrl-C when some epoch is told as done, counted through all fits; 0 only counts."""

    def __init__(self, after: int) -> None:
        super().__init__(ConsoleOptions(quiet=True))
        self.after, self.told = after, 0

    @contextmanager
    def progress(self, description: str, total: int, unit: str) -> Iterator[ProgressBar]:
        yield _Followed(self, total)

    def advance(self, num_done: int, note: str = "") -> None:
        self.told += num_done
        if num_done and self.told == self.after:
            raise KeyboardInterrupt


def fit(store: FeatureStore, config: TrainConfig, console: Console, checkpoint: Checkpoint | None = None) -> Fit:
    """Fits with the full solver on a store's split by folders."""
    from train_head.solvers.full import fit_full

    problem = Problem(store, split_examples(store.examples, 0.2), config)
    return fit_full(problem, checkpoint or Checkpoint(None), console)


def list_values(fitted: Fit) -> list[tuple[float, ...]]:
    """The history without its seconds."""
    return [(row.epoch, row.loss, row.accuracy, row.val_loss, row.val_accuracy) for row in fitted.history]


def assert_same_weights(mine: HeadWeights, theirs: HeadWeights) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name), err_msg=name)


def assert_same_fit(mine: Fit, theirs: Fit) -> None:
    """Every bit but the seconds."""
    assert list_values(mine) == list_values(theirs)
    assert mine.kept_epoch == theirs.kept_epoch
    assert_same_weights(mine.weights, theirs.weights)
    np.testing.assert_array_equal(mine.train_probabilities, theirs.train_probabilities)
    np.testing.assert_array_equal(mine.validation_probabilities, theirs.validation_probabilities)


def build_plain_model(config: TrainConfig, num_classes: int) -> Any:
    """The head as a course would write it, from the initial weights that the seed gives."""
    import keras

    two = num_classes == 2
    outputs, activation = (1, "sigmoid") if two else (num_classes, "softmax")
    decay = keras.regularizers.L2(config.l2) if config.l2 else None
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(config.units, activation="relu", kernel_regularizer=decay),
            keras.layers.Dense(outputs, activation=activation, kernel_regularizer=decay),
        ]
    )
    model.set_weights(build_head(SHAPE, num_classes, config.units, 0.0, config.seed).get_weights())
    optimizers = {
        OptimizerName.RMSPROP: keras.optimizers.RMSprop,
        OptimizerName.ADAM: keras.optimizers.Adam,
        OptimizerName.SGD: keras.optimizers.SGD,
    }
    options = {"momentum": config.momentum} if config.momentum else {}
    loss = "binary_crossentropy" if two else "sparse_categorical_crossentropy"
    model.compile(optimizers[config.optimizer](learning_rate=config.learning_rate, **options), loss=loss)
    return model


def fit_by_hand(
    store: FeatureStore, config: TrainConfig, class_weight: dict[int, float] | None = None
) -> tuple[list[NDArray[np.float32]], list[tuple[float, float]], NDArray[np.float32]]:
    """Returns final weights, (loss, validation loss) of each epoch, and the validation outputs."""
    split = split_examples(store.examples, 0.2)
    inputs = store.read(split.train).astype(np.float32)
    targets = np.array([split.classes.index(example.label) for example in split.train])
    val_inputs = store.read(split.validation).astype(np.float32)
    val_targets = np.array([split.classes.index(example.label) for example in split.validation])
    model = build_plain_model(config, len(split.classes))
    losses = []
    for epoch in range(config.epochs):
        order = np.random.default_rng((config.seed, epoch)).permutation(len(inputs))
        total = 0.0
        for start in range(0, len(order), config.batch_size):
            batch = order[start : start + config.batch_size]
            model.reset_metrics()
            batch_targets = targets[batch][:, None].astype(np.float32)
            loss = model.train_on_batch(inputs[batch], batch_targets, class_weight=class_weight)
            total += float(loss) * len(batch)
        model.reset_metrics()
        val_loss = model.test_on_batch(val_inputs, val_targets[:, None].astype(np.float32))
        losses.append((total / len(order), float(val_loss)))
    return model.get_weights(), losses, model.predict_on_batch(val_inputs)


def assert_as_by_hand(
    store: FeatureStore, config: TrainConfig, console: Console, class_weight: dict[int, float] | None = None
) -> None:
    """Compares the full solver with Keras by hand: weights, losses of each epoch, and what the head says."""
    fitted = fit(store, config, console)
    weights, losses, outputs = fit_by_hand(store, config, class_weight)
    for name, expected in zip(FIELDS, weights, strict=True):
        np.testing.assert_allclose(getattr(fitted.weights, name), expected, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose([(row.loss, row.val_loss) for row in fitted.history], losses, rtol=1e-5)
    probabilities = fitted.validation_probabilities
    np.testing.assert_allclose(probabilities[:, -outputs.shape[1] :], outputs, atol=1e-6)
    assert [row.epoch for row in fitted.history] == list(range(1, config.epochs + 1))


def make_fit(probabilities: Array, losses: Sequence[float], kept_epoch: int) -> Fit:
    """What a solver would return that had these losses, and says this of the validation pictures."""
    history = [Epoch(number, loss, 0.5, loss / 2, 0.5, 0.1) for number, loss in enumerate(losses, 1)]
    weights = HeadWeights(*(np.zeros(shape, np.float32) for shape in ((2, 1), (1,), (1, 1), (1,))))
    return Fit(weights, history, kept_epoch, np.zeros((0, 2), np.float32), probabilities)
