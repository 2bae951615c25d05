"""Optimizers in NumPy: step for step what Keras does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from train_head.config import OptimizerName, TrainConfig
from train_head.data.batches import Array
from train_head.solvers.head import HeadWeights
from train_head.solvers.network import Batch, HeadTrainer, draw_mask
from train_head.solvers.optimizers import make_optimizer

FIELDS = ("hidden_kernel", "hidden_bias", "output_kernel", "output_bias")
NUM_INPUTS, UNITS, BATCH_SIZE, NUM_STEPS, DROPOUT = 12, 10, 6, 200, 0.3


class Way(NamedTuple):
    """An optimizer and how it is set."""

    optimizer: OptimizerName
    learning_rate: float
    momentum: float = 0.0

    def configure(self, l2: float = 0.0) -> TrainConfig:
        return TrainConfig(
            Path("store"),
            Path("run"),
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            l2=l2,
        )

    def build_for_keras(self) -> Any:
        import keras

        match self.optimizer:
            case OptimizerName.RMSPROP:
                return keras.optimizers.RMSprop(self.learning_rate)
            case OptimizerName.ADAM:
                return keras.optimizers.Adam(self.learning_rate)
            case OptimizerName.SGD:
                return keras.optimizers.SGD(self.learning_rate, momentum=self.momentum)


class Trace(NamedTuple):
    """What a fit did: the loss of each step, and the four arrays after some of them."""

    losses: list[float]
    weights: dict[int, list[Array]]


WAYS = [
    pytest.param(Way(OptimizerName.RMSPROP, 0.003), id="rmsprop"),
    pytest.param(Way(OptimizerName.ADAM, 0.005), id="adam"),
    pytest.param(Way(OptimizerName.SGD, 0.1), id="sgd"),
    pytest.param(Way(OptimizerName.SGD, 0.02, 0.9), id="sgd with momentum"),
]


def draw_head(num_classes: int) -> HeadWeights:
    """Weights that are no zeros anywhere, so that each array has something to be wrong about."""
    rng = np.random.default_rng(5)
    outputs = 1 if num_classes == 2 else num_classes
    shapes = [(NUM_INPUTS, UNITS), (UNITS,), (UNITS, outputs), (outputs,)]
    return HeadWeights(*(rng.normal(0, 0.4, shape).astype(np.float32) for shape in shapes))


def draw_batches(num_classes: int, *, weigh: bool) -> list[Batch]:
    """Noisy classes that a head can learn in part, so that gradients stay away from zero."""
    rng = np.random.default_rng(6)
    batches = []
    for _ in range(NUM_STEPS):
        targets = rng.integers(num_classes, size=BATCH_SIZE)
        features = rng.normal(size=(BATCH_SIZE, NUM_INPUTS)).astype(np.float32)
        features[np.arange(BATCH_SIZE), targets] += 1.5
        weights = np.array([0.5, 2, 1.25], np.float32)[targets] if weigh else np.ones(BATCH_SIZE, np.float32)
        batches.append(Batch(features, targets, weights, draw_mask(rng, (BATCH_SIZE, UNITS), DROPOUT)))
    return batches


def run_numpy(way: Way, head: HeadWeights, batches: Sequence[Batch], l2: float) -> Trace:
    stepper = HeadTrainer(head, make_optimizer(way.configure(l2)), l2)
    trace = Trace([], {})
    for number, batch in enumerate(batches, 1):
        trace.losses.append(stepper.train_on_batch(batch)[0])
        if number in (1, len(batches)):
            copy = stepper.copy_head()
            trace.weights[number] = [getattr(copy, field) for field in FIELDS]
    return trace


def run_keras(way: Way, head: HeadWeights, batches: Sequence[Batch], l2: float) -> Trace:
    import keras

    num_outputs = len(head.output_bias)
    decay = keras.regularizers.L2(l2) if l2 else None
    features, mask = keras.Input((NUM_INPUTS,)), keras.Input((UNITS,))
    hidden = keras.layers.Dense(UNITS, activation="relu", kernel_regularizer=decay)(features)
    activation = "sigmoid" if num_outputs == 1 else "softmax"
    outputs = keras.layers.Dense(num_outputs, activation=activation, kernel_regularizer=decay)(
        keras.layers.Multiply()([hidden, mask])
    )
    model = keras.Model([features, mask], outputs)
    loss = "binary_crossentropy" if num_outputs == 1 else "sparse_categorical_crossentropy"
    model.compile(way.build_for_keras(), loss=loss, jit_compile=False)
    model.set_weights([getattr(head, field) for field in FIELDS])
    trace = Trace([], {})
    for number, batch in enumerate(batches, 1):
        model.reset_metrics()
        targets = batch.targets.astype(np.float32)[:, None]
        loss = model.train_on_batch([batch.features, batch.mask], targets, sample_weight=batch.weights)
        trace.losses.append(float(loss))
        if number in (1, len(batches)):
            trace.weights[number] = model.get_weights()
    return trace


def assert_same_fit(way: Way, num_classes: int, *, l2: float = 0.0, weigh: bool = False) -> None:
    head, batches = draw_head(num_classes), draw_batches(num_classes, weigh=weigh)
    mine, theirs = run_numpy(way, head, batches, l2), run_keras(way, head, batches, l2)
    # One step is equal to the last bits; over 200 their roundings add up.
    assert mine.losses[0] == pytest.approx(theirs.losses[0], rel=1e-6)
    np.testing.assert_allclose(mine.losses, theirs.losses, rtol=1e-5, atol=1e-5)
    for number, tolerance in ((1, 3e-7), (NUM_STEPS, 1e-5)):
        for field, found, expected in zip(FIELDS, mine.weights[number], theirs.weights[number], strict=True):
            np.testing.assert_allclose(
                found, expected, rtol=tolerance, atol=tolerance, err_msg=f"{field}, step {number}"
            )
    # The fit went somewhere, in each of the arrays: nothing agrees because nothing moved.
    for field, after in zip(FIELDS, mine.weights[NUM_STEPS], strict=True):
        assert np.abs(after - getattr(head, field)).max() > 0.03, field
    assert np.mean(mine.losses[-20:]) < 0.8 * np.mean(mine.losses[:20])


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_optimizer_for_one_and_200_steps_equals_keras(way: Way, num_classes: int) -> None:
    assert_same_fit(way, num_classes)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_optimizer_with_l2_equals_keras_with_regularized_kernels(way: Way, num_classes: int) -> None:
    assert_same_fit(way, num_classes, l2=0.01)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_optimizer_with_weighted_rows_equals_keras_with_sample_weights(way: Way, num_classes: int) -> None:
    assert_same_fit(way, num_classes, weigh=True)


@pytest.mark.parametrize("way", WAYS)
def test_optimizer_update_by_gradients_of_any_size_equals_keras(way: Way) -> None:
    import keras

    sizes = np.concatenate([10.0 ** np.arange(-10, 5), [0]])
    gradients = (sizes * np.random.default_rng(8).normal(size=(20, len(sizes)))).astype(np.float32)
    gradients[10:, :3] = 0
    optimizer, theirs = make_optimizer(way.configure()), way.build_for_keras()
    variable = np.ones(len(sizes), np.float32)
    slots = [np.zeros(len(sizes), np.float32) for _ in range(optimizer.num_slots)]
    expected = keras.Variable(variable.copy())
    for number, gradient in enumerate(gradients):
        theirs.apply([gradient], [expected])
        optimizer.begin_step(number)
        optimizer.update(variable, gradient, slots)
        np.testing.assert_allclose(variable, expected.numpy(), rtol=3e-6, atol=1e-6, err_msg=f"step {number}")
    assert variable[-1] == 1
