"""Optimizers in NumPy: equal to Keras step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from train_head.config import OptimizerName, TrainConfig
from train_head.data.batches import Array
from train_head.solvers.head import HeadWeights
from train_head.solvers.network import Batch, HeadTrainer, draw_mask
from train_head.solvers.optimizers import make_optimizer

FIELDS = ("hidden_kernel", "hidden_bias", "output_kernel", "output_bias")
NUM_INPUTS, UNITS, BATCH_SIZE, NUM_STEPS, DROPOUT = 12, 10, 6, 200, 0.3


class Setting(NamedTuple):
    """Optimizer with its options."""

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

    def build_keras_optimizer(self) -> Any:
        import keras

        match self.optimizer:
            case OptimizerName.RMSPROP:
                return keras.optimizers.RMSprop(self.learning_rate)
            case OptimizerName.ADAM:
                return keras.optimizers.Adam(self.learning_rate)
            case OptimizerName.SGD:
                return keras.optimizers.SGD(self.learning_rate, momentum=self.momentum)


class Trace(NamedTuple):
    """Loss of each step, and the four arrays after the first and the last."""

    losses: list[float]
    weights: dict[int, list[Array]]


RMSPROP = Setting(OptimizerName.RMSPROP, 0.003)
ADAM = Setting(OptimizerName.ADAM, 0.005)
SGD = Setting(OptimizerName.SGD, 0.1)
MOMENTUM = Setting(OptimizerName.SGD, 0.02, 0.9)


def draw_head(num_classes: int) -> HeadWeights:
    """Draw weights that are nonzero in all four arrays."""
    rng = np.random.default_rng(5)
    outputs = 1 if num_classes == 2 else num_classes
    shapes = [(NUM_INPUTS, UNITS), (UNITS,), (UNITS, outputs), (outputs,)]
    return HeadWeights(*(rng.normal(0, 0.4, shape).astype(np.float32) for shape in shapes))


def draw_batches(num_classes: int, *, is_weighted: bool) -> list[Batch]:
    """Draw batches of noisy classes, which a head learns in part, so that gradients stay away from zero."""
    rng = np.random.default_rng(6)
    batches = []
    for _ in range(NUM_STEPS):
        targets = rng.integers(num_classes, size=BATCH_SIZE)
        features = rng.normal(size=(BATCH_SIZE, NUM_INPUTS)).astype(np.float32)
        features[np.arange(BATCH_SIZE), targets] += 1.5
        weights = np.array([0.5, 2, 1.25], np.float32)[targets] if is_weighted else np.ones(BATCH_SIZE, np.float32)
        batches.append(Batch(features, targets, weights, draw_mask(rng, (BATCH_SIZE, UNITS), DROPOUT)))
    return batches


def run_numpy(setting: Setting, head: HeadWeights, batches: Sequence[Batch], l2: float) -> Trace:
    trainer = HeadTrainer(head, make_optimizer(setting.configure(l2)), l2)
    trace = Trace([], {})
    for number, batch in enumerate(batches, 1):
        trace.losses.append(trainer.train_on_batch(batch)[0])
        if number in (1, len(batches)):
            copy = trainer.copy_head()
            trace.weights[number] = [getattr(copy, field) for field in FIELDS]
    return trace


def run_keras(setting: Setting, head: HeadWeights, batches: Sequence[Batch], l2: float) -> Trace:
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
    model.compile(setting.build_keras_optimizer(), loss=loss, jit_compile=False)
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


@pytest.mark.parametrize(
    ("setting", "num_classes", "l2", "is_weighted"),
    [
        pytest.param(RMSPROP, 3, 0.01, True, id="rmsprop-three-l2-weighted"),
        pytest.param(ADAM, 2, 0.01, True, id="adam-l2-weighted"),
        pytest.param(SGD, 3, 0.01, False, id="sgd-three-l2"),
        pytest.param(MOMENTUM, 2, 0.0, True, id="momentum-weighted"),
    ],
)
def test_trainer_after_1_and_200_steps_equals_keras(
    setting: Setting, num_classes: int, l2: float, is_weighted: bool
) -> None:
    head, batches = draw_head(num_classes), draw_batches(num_classes, is_weighted=is_weighted)
    found, expected = run_numpy(setting, head, batches, l2), run_keras(setting, head, batches, l2)
    # After one step only the last bits differ; over 200 steps rounding errors accumulate.
    assert found.losses[0] == pytest.approx(expected.losses[0], rel=1e-6)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5, atol=1e-5)
    for number, tolerance in ((1, 3e-7), (NUM_STEPS, 1e-5)):
        for field, mine, theirs in zip(FIELDS, found.weights[number], expected.weights[number], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance, err_msg=f"{field}, step {number}")
    # Each array has changed, and the head has learned.
    for field, after in zip(FIELDS, found.weights[NUM_STEPS], strict=True):
        assert np.abs(after - getattr(head, field)).max() > 0.03, field
    assert np.mean(found.losses[-20:]) < 0.8 * np.mean(found.losses[:20])


@pytest.mark.parametrize("setting", [RMSPROP, ADAM, SGD, MOMENTUM], ids=["rmsprop", "adam", "sgd", "momentum"])
def test_optimizer_with_gradients_of_any_size_equals_keras(setting: Setting) -> None:
    import keras

    sizes = np.concatenate([10.0 ** np.arange(-10, 5), [0]])
    gradients = (sizes * np.random.default_rng(8).normal(size=(20, len(sizes)))).astype(np.float32)
    gradients[10:, :3] = 0
    optimizer, theirs = make_optimizer(setting.configure()), setting.build_keras_optimizer()
    variable = np.ones(len(sizes), np.float32)
    slots = [np.zeros(len(sizes), np.float32) for _ in range(optimizer.num_slots)]
    expected = keras.Variable(variable.copy())
    for number, gradient in enumerate(gradients):
        theirs.apply([gradient], [expected])
        optimizer.begin_step(number)
        optimizer.update(variable, gradient, slots)
        np.testing.assert_allclose(variable, expected.numpy(), rtol=3e-6, atol=1e-6, err_msg=f"step {number}")
    assert variable[-1] == 1


def apply_formula(setting: Setting, gradients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply an optimizer's formula in float64 to a variable that starts at one, gradient by gradient."""
    rate, variable, first, second = setting.learning_rate, np.ones(gradients.shape[1]), 0.0, 0.0
    for step, gradient in enumerate(gradients, 1):
        match setting.optimizer:
            case OptimizerName.RMSPROP:
                second = 0.9 * second + 0.1 * gradient**2
                variable = variable - rate * gradient / np.sqrt(second + 1e-7)
            case OptimizerName.ADAM:
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient**2
                scale = np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
                variable = variable - rate * scale * first / (np.sqrt(second) + 1e-7)
            case OptimizerName.SGD:
                first = setting.momentum * first - rate * gradient
                variable = variable + first
    return np.asarray(variable)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("setting", "num_slots"),
    [
        pytest.param(RMSPROP, 1, id="rmsprop"),
        pytest.param(ADAM, 2, id="adam"),
        pytest.param(SGD, 0, id="sgd"),
        pytest.param(MOMENTUM, 1, id="momentum"),
    ],
)
def test_optimizer_equals_its_formula(setting: Setting, num_slots: int) -> None:
    # From far below the square root of ε = 1e-7 to far above it.
    sizes = np.array([1e-6, 1e-4, 3e-4, 1e-2, 1.0, 100.0])
    gradients = sizes * np.random.default_rng(8).normal(size=(5, len(sizes)))
    optimizer, variable = make_optimizer(setting.configure()), np.ones(len(sizes), np.float32)
    assert optimizer.num_slots == num_slots
    slots = [np.zeros(len(sizes), np.float32) for _ in range(num_slots)]
    for number, gradient in enumerate(gradients):
        optimizer.begin_step(number)
        optimizer.update(variable, gradient.astype(np.float32), slots)
        expected = apply_formula(setting, gradients[: number + 1])
        np.testing.assert_allclose(variable - 1, expected - 1, rtol=2e-4, atol=2e-7, err_msg=f"step {number}")
