"""The reduced solver: the head on a few hundred inputs, in NumPy, without TensorFlow."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from features.console import Console
from features.store import Example
from train_head.batches import number_targets, weigh_examples
from train_head.config import TrainConfig
from train_head.head import Array, HeadWeights, count_outputs
from train_head.reduction.reduce import Reduced, Sides, reduce_features
from train_head.solvers import Fit, Problem, Reduction
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.history import Epoch, Watch
from train_head.solvers.network import (
    Batch,
    Stepper,
    compute_logits,
    compute_losses,
    compute_probabilities,
    draw_mask,
    predict_targets,
)
from train_head.solvers.optimizers import make_optimizer


class _Side(NamedTuple):
    """Training or validation pictures as the solver sees them."""

    features: Array
    """(n, r)."""
    targets: NDArray[np.int64]
    weights: Array
    """(n,) how much each counts in the loss."""


def fit_reduced(problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
    """Fits a head on reduced features.

    Args:
        problem: what to fit, on what.
        checkpoint: where an interrupted fit goes on.
        console: where progress goes.

    Returns:
        A head on the reduced inputs; the same for the same seed, also after an interruption.

    Raises:
        UsageError: the rank is above the number of training pictures.
        HeadstartError: the loss was NaN or infinite in the first epoch.
    """
    split, config = problem.split, problem.config
    started = time.monotonic()
    rows = problem.list_training_rows()
    reduced = reduce_features(problem.store, Sides(rows, split.validation), config.rank, console)
    source = "kept by an earlier run" if reduced.was_kept else f"made in {time.monotonic() - started:.1f} s"
    num_kept, num_inputs = reduced.train.shape[1], int(np.prod(problem.store.feature_shape))
    console.detail(f"{num_kept:,} inputs in the place of {num_inputs:,}, {source}")
    train, validation = _arrange(problem, rows, reduced)
    # Factors that were lost and made again may be another basis, in which a checkpoint's weights mean nothing.
    checkpoint.narrow(hashlib.sha256(np.ascontiguousarray(reduced.train).data).digest())
    initial = draw_head(num_inputs, num_kept, config.units, count_outputs(len(split.classes)), config.seed)
    # A step is too small to share: a second thread gains 5 % alone, and costs 20 times as much on a busy machine.
    with np.errstate(all="ignore"), threadpool_limits(1, user_api="blas"):
        stepper, watch = _run(initial, train, validation, problem, checkpoint, console)
    head = watch.require_kept(config.learning_rate)
    logits = compute_logits(head, validation.features)
    return Fit(
        head,
        watch.history,
        watch.kept_epoch,
        compute_probabilities(compute_logits(head, train.features[: len(split.train)])),
        compute_probabilities(logits),
        Reduction(reduced.key, reduced.rank, logits),
    )


def draw_head(num_inputs: int, rank: int, units: int, outputs: int, seed: int) -> HeadWeights:
    """Draws initial weights: of the variance that Glorot uniform has on all inputs, and zero biases.

    An orthonormal change of basis keeps the variance of independent numbers, so the head starts like the
    full one does within the span of the training features; what is outside of it is nothing but noise to
    other pictures, and starts at zero.

    Source: Glorot and Bengio 2010, equation 16, as `keras.initializers.GlorotUniform`.
    """
    rng = np.random.default_rng((seed, num_inputs, units))

    def draw(fan_in: int, shape: tuple[int, int]) -> Array:
        limit = np.sqrt(6 / (fan_in + shape[1]))
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    return HeadWeights(
        draw(num_inputs, (rank, units)),
        np.zeros(units, np.float32),
        draw(units, (units, outputs)),
        np.zeros(outputs, np.float32),
    )


def _arrange(problem: Problem, rows: Sequence[Example], reduced: Reduced) -> tuple[_Side, _Side]:
    split = problem.split
    train_targets = number_targets(rows, split.classes)
    validation_targets = number_targets(split.validation, split.classes)
    return (
        _Side(reduced.train, train_targets, weigh_examples(train_targets, problem.config.class_weight)),
        _Side(reduced.validation, validation_targets, np.ones(len(validation_targets), np.float32)),
    )


def _run(
    initial: HeadWeights, train: _Side, validation: _Side, problem: Problem, checkpoint: Checkpoint, console: Console
) -> tuple[Stepper, Watch]:
    config = problem.config
    stepper = Stepper(initial, make_optimizer(config), config.l2)
    watch = Watch(config.patience)
    if state := checkpoint.load(console, [array.shape for array in stepper.list_arrays()]):
        stepper.restore(state.arrays)
        watch = state.resume(config.patience)
    for row in watch.history:
        problem.follow(row)
    with console.progress("train", config.epochs, "epochs") as progress:
        progress.advance(len(watch.history))
        while len(watch.history) < config.epochs and not watch.is_over:
            started = time.monotonic()
            number = len(watch.history)
            loss, accuracy = _run_epoch(stepper, train, config, number)
            val_loss, val_accuracy = _evaluate(stepper, validation)
            seconds = time.monotonic() - started
            watch.record(Epoch(number + 1, loss, accuracy, val_loss, val_accuracy, seconds), stepper.copy_head)
            progress.advance(1)
            checkpoint.offer(stepper.list_arrays, watch, config.epochs)
            problem.follow(watch.history[-1])
    return stepper, watch


def _run_epoch(stepper: Stepper, train: _Side, config: TrainConfig, number: int) -> tuple[float, float]:
    """Returns the mean loss and the accuracy, as they were step by step."""
    num_rows = len(train.targets)
    order = np.random.default_rng((config.seed, number)).permutation(num_rows)
    masks = np.random.default_rng((config.seed, number, 1))
    total, right = 0.0, 0
    for start in range(0, num_rows, config.batch_size):
        rows = order[start : start + config.batch_size]
        mask = draw_mask(masks, (len(rows), config.units), config.dropout)
        loss, num_right = stepper.take_step(Batch(train.features[rows], train.targets[rows], train.weights[rows], mask))
        total += loss * len(rows)
        right += num_right
    return total / num_rows, right / num_rows


def _evaluate(stepper: Stepper, side: _Side) -> tuple[float, float]:
    logits = compute_logits(stepper.head, side.features)
    losses, _ = compute_losses(logits, side.targets)
    accuracy = np.mean(predict_targets(logits) == side.targets)
    return float(np.mean(losses)) + stepper.compute_penalty(), float(accuracy)
