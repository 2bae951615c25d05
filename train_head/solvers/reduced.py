"""The reduced solver: the head on a few hundred inputs, in NumPy, without TensorFlow."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from base.terminal import Console
from features.store import Example
from train_head.config import ClassWeight, TrainConfig
from train_head.data.batches import Array, Indices, PictureOrder, number_targets, weigh_examples
from train_head.reduction.record import Reduction
from train_head.reduction.reduce import TrainValidation, reduce_features
from train_head.solvers import Fit, Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights, count_outputs
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

HASHED_ROWS = 4096


class _Side(NamedTuple):
    """Training or validation pictures, in the order of their content hashes."""

    features: Array
    """(distinct rows, r)."""
    rows: Indices
    """The row of each example; of training pictures the views as well."""
    targets: NDArray[np.int64]
    """(pictures,) class numbers."""
    weights: Array
    """(pictures,) how much each counts in the loss."""


@dataclass(frozen=True)
class _Epochs:
    """The epochs of a fit, each a function of its number and of the weights before it."""

    order: PictureOrder
    train: _Side
    config: TrainConfig

    def run(self, stepper: Stepper, number: int) -> tuple[float, float]:
        """Run an epoch; return the mean loss and the accuracy, as they were step by step."""
        train, config, plan = self.train, self.config, self.order.plan(number)
        masks = np.random.default_rng((config.seed, number, 2))
        num_pictures = len(plan.pictures)
        total, right = 0.0, 0
        for start in range(0, num_pictures, config.batch_size):
            batch = slice(start, start + config.batch_size)
            pictures, rows = plan.pictures[batch], train.rows[plan.rows[batch]]
            mask = draw_mask(masks, (len(rows), config.units), config.dropout)
            step = Batch(train.features[rows], train.targets[pictures], train.weights[pictures], mask)
            loss, num_right = stepper.take_step(step)
            total += loss * len(rows)
            right += num_right
        return total / num_pictures, right / num_pictures


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
    store, split, config = problem.store, problem.split, problem.config
    started = time.monotonic()
    rows = problem.list_training_rows()
    reduced = reduce_features(store, TrainValidation(rows, split.validation), config.rank, console)
    source = "from the cache" if reduced.from_cache else f"made in {time.monotonic() - started:.1f} s"
    num_kept, num_inputs = reduced.factors.train.shape[1], int(np.prod(store.feature_shape))
    console.detail(f"{num_kept:,} inputs in the place of {num_inputs:,}, {source}")
    train = _arrange(problem, split.train, reduced.factors.train, reduced.train.rows, config.class_weight)
    validation = _arrange(
        problem, split.validation, reduced.factors.validation, reduced.validation.rows, ClassWeight.NONE
    )
    # Factors that were lost and made again may be another basis, in which a checkpoint's weights mean nothing.
    checkpoint.narrow(_hash_rows(train.features))
    initial = draw_head(num_inputs, num_kept, config.units, count_outputs(len(split.classes)), config.seed)
    order = PictureOrder(rows, config.seed)
    # A step is too small to share: a second thread gains 5 % alone, and costs 20 times as much on a busy machine.
    with np.errstate(all="ignore"), threadpool_limits(1, user_api="blas"):
        stepper, watch = _run(initial, _Epochs(order, train, config), validation, problem, checkpoint, console)
        head = watch.require_kept(config.learning_rate)
        logits = compute_logits(head, validation.features, validation.rows)
        train_logits = compute_logits(head, train.features, train.rows[order.first_rows])
        expansion = reduced.make_expansion(store, head.hidden_kernel)
    return Fit(
        head,
        watch.history,
        watch.kept_epoch,
        compute_probabilities(train_logits),
        compute_probabilities(logits),
        Reduction(reduced.key, reduced.rank, logits, expansion),
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


def _arrange(
    problem: Problem, examples: Sequence[Example], features: Array, rows: Indices, class_weight: ClassWeight
) -> _Side:
    """Put together a side; pictures are weighed, not their views."""
    targets = number_targets(examples, problem.split.classes)
    return _Side(features, rows, targets, weigh_examples(targets, class_weight))


def _hash_rows(features: Array) -> bytes:
    """Hash features without a copy of all of them."""
    digest = hashlib.sha256()
    for start in range(0, len(features), HASHED_ROWS):
        digest.update(np.ascontiguousarray(features[start : start + HASHED_ROWS]).data)
    return digest.digest()


def _run(
    initial: HeadWeights,
    epochs: _Epochs,
    validation: _Side,
    problem: Problem,
    checkpoint: Checkpoint,
    console: Console,
) -> tuple[Stepper, Watch]:
    config = problem.config
    stepper = Stepper(initial, make_optimizer(config), config.l2)
    watch = Watch(config.patience)
    if state := checkpoint.load(console, [array.shape for array in stepper.list_arrays()]):
        if state.arrays:
            stepper.restore(state.arrays)
        watch = state.resume(config.patience)
    for row in watch.history:
        problem.follow(row)
    with console.progress("train", config.epochs, "epochs") as progress:
        progress.advance(len(watch.history))
        while len(watch.history) < config.epochs and not watch.is_over:
            started = time.monotonic()
            number = len(watch.history)
            loss, accuracy = epochs.run(stepper, number)
            val_loss, val_accuracy = _evaluate(stepper, validation)
            seconds = time.monotonic() - started
            watch.record(Epoch(number + 1, loss, accuracy, val_loss, val_accuracy, seconds), stepper.copy_head)
            progress.advance(1)
            checkpoint.offer(stepper.list_arrays, watch, config.epochs)
            problem.follow(watch.history[-1])
    return stepper, watch


def _evaluate(stepper: Stepper, side: _Side) -> tuple[float, float]:
    logits = compute_logits(stepper.head, side.features, side.rows)
    losses, _ = compute_losses(logits, side.targets)
    accuracy = np.mean(predict_targets(logits) == side.targets)
    return float(np.mean(losses)) + stepper.compute_penalty(), float(accuracy)
