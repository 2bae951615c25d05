"""The head in NumPy: losses, gradients, dropout masks, training steps, and restored state."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from train_head.config import OptimizerName, TrainConfig
from train_head.data.batches import Array
from train_head.evaluation.metrics import predict_classes
from train_head.solvers.head import HeadWeights
from train_head.solvers.network import (
    LOGIT_ROWS,
    SLAB_ROWS,
    Batch,
    HeadTrainer,
    compute_logits,
    compute_losses,
    compute_outputs,
    compute_probabilities,
    draw_mask,
    predict_targets,
)
from train_head.solvers.optimizers import make_optimizer

pytestmark = pytest.mark.unit

FIELDS = [field.name for field in fields(HeadWeights)]
UNITS = 7
Float64Array = NDArray[np.float64]


def configure(optimizer: OptimizerName, momentum: float = 0.0, learning_rate: float = 0.01) -> TrainConfig:
    return TrainConfig(Path("store"), Path("run"), optimizer=optimizer, learning_rate=learning_rate, momentum=momentum)


SETTINGS = [
    pytest.param(configure(OptimizerName.RMSPROP), id="rmsprop"),
    pytest.param(configure(OptimizerName.ADAM), id="adam"),
    pytest.param(configure(OptimizerName.SGD), id="sgd"),
    pytest.param(configure(OptimizerName.SGD, 0.9), id="sgd with momentum"),
]


def draw_head(num_inputs: int, num_classes: int, seed: int = 1) -> HeadWeights:
    rng = np.random.default_rng(seed)
    outputs = 1 if num_classes == 2 else num_classes
    shapes = [(num_inputs, UNITS), (UNITS,), (UNITS, outputs), (outputs,)]
    return HeadWeights(*(rng.normal(0, 0.5, shape).astype(np.float32) for shape in shapes))


def draw_batch(num_inputs: int, num_classes: int, seed: int = 2, dropout: float = 0.3) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(
        rng.normal(size=(5, num_inputs)).astype(np.float32),
        rng.integers(num_classes, size=5),
        rng.uniform(0.5, 2, 5).astype(np.float32),
        draw_mask(rng, (5, UNITS), dropout),
    )


def compute_loss_in_float64(arrays: dict[str, Float64Array], batch: Batch, l2: float) -> float:
    """Compute the loss in float64 from its definition."""
    assert batch.mask is not None
    hidden = np.maximum(batch.features.astype(np.float64) @ arrays["hidden_kernel"] + arrays["hidden_bias"], 0)
    logits = (hidden * batch.mask) @ arrays["output_kernel"] + arrays["output_bias"]
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    raised = np.exp(logits)
    likelihoods = (raised / raised.sum(axis=1, keepdims=True))[np.arange(len(logits)), batch.targets]
    penalty = l2 * sum((arrays[name] ** 2).sum() for name in ("hidden_kernel", "output_kernel"))
    return float((-np.log(likelihoods) * batch.weights).mean() + penalty)


def differentiate(arrays: dict[str, Float64Array], name: str, batch: Batch, l2: float) -> Float64Array:
    """Compute the gradient of the loss with respect to an array by central differences."""
    gradient, step = np.empty_like(arrays[name]), 1e-6
    for place in np.ndindex(gradient.shape):
        losses = []
        for sign in (1, -1):
            moved = arrays[name].copy()
            moved[place] += sign * step
            losses.append(compute_loss_in_float64({**arrays, name: moved}, batch, l2))
        gradient[place] = (losses[0] - losses[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("num_classes", [2, 3])
def test_train_on_batch_with_sgd_subtracts_the_finite_difference_gradient(num_classes: int) -> None:
    head, batch, l2 = draw_head(6, num_classes), draw_batch(6, num_classes), 0.02
    wide = {name: getattr(head, name).astype(np.float64) for name in FIELDS}
    # With a learning rate of 1 the change is the gradient itself.
    trainer = HeadTrainer(head, make_optimizer(configure(OptimizerName.SGD, learning_rate=1.0)), l2)
    loss, num_correct = trainer.train_on_batch(batch)
    assert loss == pytest.approx(compute_loss_in_float64(wide, batch, l2), rel=1e-6)
    for name in FIELDS:
        gradient = differentiate(wide, name, batch, l2)
        assert np.abs(gradient).max() > 0.01
        np.testing.assert_allclose(wide[name] - getattr(trainer.head, name), gradient, atol=1e-6, err_msg=name)
    hidden = np.maximum(batch.features @ head.input_kernel + head.input_bias, 0) * batch.mask
    logits = hidden @ head.output_kernel + head.output_bias
    assert num_correct == sum(predict_targets(logits) == batch.targets)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_train_on_batch_of_a_linear_head_subtracts_the_gradient(num_classes: int) -> None:
    drawn, batch, l2 = draw_head(6, num_classes), draw_batch(6, num_classes), 0.02
    rng, outputs = np.random.default_rng(3), len(drawn.output_bias)
    head = HeadWeights(None, None, rng.normal(size=(6, outputs)).astype(np.float32), drawn.output_bias)
    trainer = HeadTrainer(head, make_optimizer(configure(OptimizerName.SGD, learning_rate=1.0)), l2)
    logits = batch.features.astype(np.float64) @ head.output_kernel + head.output_bias
    raised = np.exp(np.c_[np.zeros(5), logits] if outputs == 1 else logits)
    errors = raised / raised.sum(axis=1, keepdims=True) - (batch.targets[:, None] == np.arange(num_classes))
    errors = errors[:, -outputs:] * batch.weights[:, None] / 5
    loss, num_correct = trainer.train_on_batch(batch)
    likelihoods = (raised / raised.sum(axis=1, keepdims=True))[np.arange(5), batch.targets]
    expected = (-np.log(likelihoods) * batch.weights).mean() + l2 * (head.output_kernel.astype(np.float64) ** 2).sum()
    assert loss == pytest.approx(expected, rel=1e-6)
    assert num_correct == sum(predict_targets(logits.astype(np.float32)) == batch.targets)
    gradient = batch.features.T @ errors + 2 * l2 * head.output_kernel
    np.testing.assert_allclose(head.output_kernel - trainer.head.output_kernel, gradient, atol=1e-6)
    np.testing.assert_allclose(head.output_bias - trainer.head.output_bias, errors.sum(axis=0), atol=1e-6)
    assert trainer.head.hidden_kernel is None


def test_train_on_batch_changes_neither_the_initial_head_nor_a_copy() -> None:
    head = draw_head(6, 2)
    before = [getattr(head, name).copy() for name in FIELDS]
    trainer = HeadTrainer(head, make_optimizer(configure(OptimizerName.ADAM)), 0.0)
    trainer.train_on_batch(draw_batch(6, 2))
    kept = trainer.copy_head()
    after_one = [getattr(kept, name).copy() for name in FIELDS]
    trainer.train_on_batch(draw_batch(6, 2, seed=3))
    for name, first, second in zip(FIELDS, before, after_one, strict=True):
        np.testing.assert_array_equal(getattr(head, name), first)
        np.testing.assert_array_equal(getattr(kept, name), second)
        assert not np.array_equal(getattr(trainer.head, name), second)


def test_compute_losses_of_two_classes_at_huge_logits_is_exact() -> None:
    logits = np.array([[1000], [1000], [-1000], [-1000], [0], [2]], np.float32)
    losses, slopes = compute_losses(logits, np.array([1, 0, 0, 1, 1, 0]))
    expected = [0, 1000, 0, 1000, np.log(2), 2 + np.log1p(np.exp(-2))]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_allclose(slopes[:, 0], [0, 1, 0, -1, -0.5, 1 / (1 + np.exp(-2))], rtol=1e-6)
    assert losses.dtype == slopes.dtype == np.float32


def test_compute_losses_of_three_classes_at_huge_logits_is_exact() -> None:
    logits = np.array([[1000, -1000, 0], [1000, -1000, 0], [1000, -1000, 0], [1, 2, 3]], np.float32)
    losses, slopes = compute_losses(logits, np.array([0, 1, 2, 1]))
    shares = np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum()
    np.testing.assert_allclose(losses, [0, 2000, 1000, -np.log(shares[1])], rtol=1e-6)
    expected = [[0, 0, 0], [1, -1, 0], [1, 0, -1], shares - [0, 1, 0]]
    np.testing.assert_allclose(slopes, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("outputs", [1, 3])
def test_compute_probabilities_sum_to_one_without_overflow(outputs: int) -> None:
    logits = np.random.default_rng(4).normal(0, 3, (50, outputs)).astype(np.float32)
    logits[:20] *= 1000
    logits[-1] = 3e38
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        probabilities = compute_probabilities(logits)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (50, 2 if outputs == 1 else 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert np.all((probabilities >= 0) & (probabilities <= 1))
    np.testing.assert_array_equal(predict_classes(probabilities), predict_targets(logits))
    wide = logits[20:-1].astype(np.float64)
    if outputs == 1:
        expected = 1 / (1 + np.exp(-wide[:, 0]))
        np.testing.assert_allclose(probabilities[20:-1, 1], expected, rtol=1e-6)
    else:
        expected = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(probabilities[20:-1], expected, rtol=1e-5)


def test_predict_targets_of_equal_logits_returns_the_first_class() -> None:
    assert predict_targets(np.array([[0], [1e-7], [-1]], np.float32)).tolist() == [0, 1, 0]
    assert predict_targets(np.array([[1, 1, 0], [0, 2, 2], [3, 4, 5]], np.float32)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_draw_mask_drops_the_share_and_keeps_the_mean(dropout: float) -> None:
    mask = draw_mask(np.random.default_rng(3), (400, 500), dropout)
    assert mask is not None
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(np.unique(mask), np.array([0, 1 / (1 - dropout)], np.float32))
    # Five standard deviations of a share of 200,000 draws.
    slack = 5 * np.sqrt(dropout * (1 - dropout) / mask.size)
    assert np.mean(mask == 0) == pytest.approx(dropout, abs=slack)
    assert mask.mean(dtype=np.float64) == pytest.approx(1, abs=slack / (1 - dropout))


def test_draw_mask_without_dropout_returns_none_and_draws_nothing() -> None:
    rng = np.random.default_rng(3)
    assert draw_mask(rng, (4, 5), 0.0) is None
    assert rng.random() == np.random.default_rng(3).random()


@pytest.mark.parametrize("num_inputs", [1, 20, SLAB_ROWS, SLAB_ROWS + 1, 70])
@pytest.mark.parametrize("config", SETTINGS)
def test_train_on_batch_in_slabs_equals_an_update_of_the_whole_kernel(config: TrainConfig, num_inputs: int) -> None:
    l2 = 0.01
    trainer, whole = HeadTrainer(draw_head(num_inputs, 3), make_optimizer(config), l2), make_optimizer(config)
    kernel = trainer.head.input_kernel.copy()
    slots = [np.zeros_like(kernel) for _ in range(whole.num_slots)]
    for number in range(3):
        head, batch = trainer.copy_head(), draw_batch(num_inputs, 3, seed=number)
        assert batch.mask is not None
        hidden = np.maximum(batch.features @ head.input_kernel + head.input_bias, 0) * batch.mask
        _, slopes = compute_losses(hidden @ head.output_kernel + head.output_bias, batch.targets)
        slopes *= batch.weights[:, None] / len(slopes)
        back = slopes @ head.output_kernel.T * batch.mask * (hidden > 0)
        gradient = np.asarray(batch.features.T @ back + 2 * l2 * kernel, np.float32)
        whole.begin_step(number)
        whole.update(kernel, gradient, slots)
        trainer.train_on_batch(batch)
        np.testing.assert_allclose(trainer.head.input_kernel, kernel, atol=1e-6)
    for mine, expected in zip(trainer.slots["hidden_kernel"], slots, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-6)
        assert np.all(np.abs(mine).sum(axis=1) > 0)


@pytest.mark.parametrize("config", SETTINGS)
def test_trainer_restored_after_five_steps_continues_bit_for_bit(config: TrainConfig) -> None:
    def run(trainer: HeadTrainer, numbers: range) -> list[float]:
        return [trainer.train_on_batch(draw_batch(40, 3, seed=number))[0] for number in numbers]

    first = HeadTrainer(draw_head(40, 3), make_optimizer(config), 0.01)
    run(first, range(5))
    kept: list[NDArray[Any]] = [array.copy() for array in first.list_arrays()]
    expected_losses = run(first, range(5, 10))
    # Other initial weights: the saved arrays must replace all of them.
    again = HeadTrainer(draw_head(40, 3, seed=9), make_optimizer(config), 0.01)
    again.restore(kept)
    assert again.num_steps == 5
    assert run(again, range(5, 10)) == expected_losses
    for mine, expected in zip(again.list_arrays(), first.list_arrays(), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_compute_logits_equals_its_definition() -> None:
    head, batch = draw_head(6, 3), draw_batch(6, 3)
    features: Array = batch.features.copy()
    expected = np.maximum(features @ head.input_kernel + head.input_bias, 0) @ head.output_kernel + head.output_bias
    np.testing.assert_allclose(compute_logits(head, features), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(features, batch.features)
    mirrored = replace(head, output_kernel=-head.output_kernel, output_bias=-head.output_bias)
    np.testing.assert_array_equal(compute_logits(mirrored, features), -compute_logits(head, features))


@pytest.mark.parametrize("logit", [18.0, 30.0, 80.0])
def test_compute_probabilities_of_a_confident_error_keeps_its_loss(logit: float) -> None:
    logits, targets = np.array([[logit], [-logit]], np.float32), np.array([0, 1])
    found = compute_probabilities(logits)[np.arange(2), targets]
    np.testing.assert_allclose(-np.log(found), compute_losses(logits, targets)[0], rtol=1e-5)


@pytest.mark.parametrize("num_rows", [1, LOGIT_ROWS, LOGIT_ROWS + 1])
def test_compute_logits_of_chosen_rows_equals_those_of_all(num_rows: int) -> None:
    head = draw_head(6, 3)
    features = np.random.default_rng(3).normal(size=(50, 6)).astype(np.float32)
    rows = np.random.default_rng(4).integers(50, size=num_rows)
    found = compute_logits(head, features, rows)
    assert found.shape == (num_rows, 3)
    np.testing.assert_allclose(found, compute_logits(head, features)[rows], rtol=1e-5, atol=1e-5)


def test_compute_outputs_overwrites_the_products() -> None:
    head = draw_head(6, 2)
    products = np.random.default_rng(3).normal(size=(4, UNITS)).astype(np.float32)
    expected = np.maximum(products + head.input_bias, 0)
    logits = compute_outputs(head, products)
    np.testing.assert_array_equal(products, expected)
    np.testing.assert_allclose(logits, expected @ head.output_kernel + head.output_bias, rtol=1e-6)


def test_compute_penalty_is_l2_times_the_squares_of_both_kernels() -> None:
    head = draw_head(6, 3)
    squares = (
        np.square(head.input_kernel, dtype=np.float64).sum() + np.square(head.output_kernel, dtype=np.float64).sum()
    )
    penalties = [
        HeadTrainer(head, make_optimizer(configure(OptimizerName.SGD)), l2).compute_penalty() for l2 in (0.0, 0.25)
    ]
    assert penalties == [0.0, pytest.approx(0.25 * squares, rel=1e-6)]
