"""The reduced solver: the head on a few hundred inputs, in NumPy, without TensorFlow."""

from __future__ import annotations

import hashlib
import time
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from base.terminal import Console
from features.split import encode_labels
from train_head.config import ClassWeight, TrainConfig
from train_head.data.batches import Array, Indices, PictureOrder, weigh_examples
from train_head.reduction.record import Reduction
from train_head.reduction.reduce import TrainValidation, reduce_features
from train_head.solvers import Fit, Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights, count_outputs
from train_head.solvers.history import Epoch
from train_head.solvers.network import (
    Batch,
    HeadTrainer,
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
    targets: Indices
    """(pictures,) class numbers."""
    weights: Array
    """(pictures,) weight of each in the loss."""


def fit_reduced(problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
    """Fit a head on reduced features; raise DivergedError where the first loss was NaN or infinite."""
    store, split, config = problem.store, problem.split, problem.config
    started = time.monotonic()
    rows = problem.list_training_rows()
    reduced = reduce_features(store, TrainValidation(rows, split.validation), config.rank, console)
    source = "from the cache" if reduced.from_cache else f"made in {time.monotonic() - started:.1f} s"
    num_kept, num_inputs = reduced.factors.train.shape[1], int(np.prod(store.feature_shape))
    console.debug(f"{num_kept:,} inputs in the place of {num_inputs:,}, {source}")
    # Pictures are weighted, not their views.
    targets, val_targets = (encode_labels(side, split.classes) for side in (split.train, split.validation))
    weights, val_weights = weigh_examples(targets, config.class_weight), weigh_examples(val_targets, ClassWeight.NONE)
    train = _Side(reduced.factors.train, reduced.train.rows, targets, weights)
    validation = _Side(reduced.factors.validation, reduced.validation.rows, val_targets, val_weights)
    # Factors that were lost and made again may be another basis, in which a checkpoint's weights mean nothing.
    checkpoint.extend_key(_hash_rows(train.features))
    initial = draw_head(num_inputs, num_kept, config.units, count_outputs(len(split.classes)), config.seed)
    order = PictureOrder(rows, config.seed)
    # A step is too small to share: a second thread gains 5 % alone, and costs 20 times as much on a busy machine.
    with np.errstate(all="ignore"), threadpool_limits(1, user_api="blas"):
        stepper = HeadTrainer(initial, make_optimizer(config), config.l2)
        stopping, arrays = checkpoint.load(config.patience, console, [array.shape for array in stepper.list_arrays()])
        if arrays:
            stepper.restore(arrays)
        for row in stopping.history:
            problem.on_epoch_end(row)
        with console.progress("train", config.epochs, "epochs") as progress:
            progress.advance(len(stopping.history))
            while len(stopping.history) < config.epochs and not stopping.is_over:
                row = _fit_epoch(stepper, len(stopping.history), order, train, validation, config)
                stopping.record(row, stepper.copy_head)
                progress.advance(1)
                checkpoint.save_if_due(stepper.list_arrays, stopping, config.epochs)
                problem.on_epoch_end(row)
        head = stopping.require_kept(config.learning_rate)
        logits = compute_logits(head, validation.features, validation.rows)
        train_logits = compute_logits(head, train.features, train.rows[order.first_rows])
        expansion = reduced.make_expansion(store, head.hidden_kernel)
    return Fit(
        head,
        stopping.history,
        stopping.kept_epoch,
        compute_probabilities(train_logits),
        compute_probabilities(logits),
        Reduction(reduced.key, reduced.rank, logits, expansion),
    )


def draw_head(num_inputs: int, rank: int, units: int, outputs: int, seed: int) -> HeadWeights:
    """Draw initial weights with the variance that Glorot uniform has on all inputs, and zero biases.

    An orthonormal change of basis keeps the variance of independent numbers, so the head starts like the full one
    within the span of the training features; outside of it, where weights are noise to other pictures, it is zero.

    Source: Glorot and Bengio 2010, equation 16, as `keras.initializers.GlorotUniform`.
    """
    rng = np.random.default_rng((seed, num_inputs, units))

    def draw(fan_in: int, shape: tuple[int, int]) -> Array:
        limit = np.sqrt(6 / (fan_in + shape[1]))
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    kernels = draw(num_inputs, (rank, units)), draw(units, (units, outputs))
    return HeadWeights(kernels[0], np.zeros(units, np.float32), kernels[1], np.zeros(outputs, np.float32))


def _hash_rows(features: Array) -> bytes:
    """Hash features without a copy of all of them."""
    digest = hashlib.sha256()
    for start in range(0, len(features), HASHED_ROWS):
        digest.update(np.ascontiguousarray(features[start : start + HASHED_ROWS]).data)
    return digest.digest()


def _fit_epoch(
    stepper: HeadTrainer, number: int, order: PictureOrder, train: _Side, validation: _Side, config: TrainConfig
) -> Epoch:
    """Fit an epoch, which is a function of its number and of the weights before it."""
    started = time.monotonic()
    plan = order.plan(number)
    masks = np.random.default_rng((config.seed, number, 2))
    num_pictures = len(plan.pictures)
    total, right = 0.0, 0
    for start in range(0, num_pictures, config.batch_size):
        batch = slice(start, start + config.batch_size)
        pictures, rows = plan.pictures[batch], train.rows[plan.rows[batch]]
        mask = draw_mask(masks, (len(rows), config.units), config.dropout)
        step = Batch(train.features[rows], train.targets[pictures], train.weights[pictures], mask)
        loss, num_right = stepper.train_on_batch(step)
        total += loss * len(rows)
        right += num_right
    logits = compute_logits(stepper.head, validation.features, validation.rows)
    losses, _ = compute_losses(logits, validation.targets)
    val_loss = float(np.mean(losses)) + stepper.compute_penalty()
    val_accuracy = float(np.mean(predict_targets(logits) == validation.targets))
    seconds = time.monotonic() - started
    return Epoch(number + 1, total / num_pictures, right / num_pictures, val_loss, val_accuracy, seconds)
