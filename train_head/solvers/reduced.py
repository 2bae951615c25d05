"""The reduced solver: fits the head on a few hundred inputs, in NumPy, without TensorFlow.

Each gradient step changes the hidden kernel only within the span of the training features X (n, d). With an orthonormal
basis V (d, r) of that span and reduced features Z = X V, a kernel A (r, units) on Z can therefore replace the
kernel W = V A (d, units) on X. docs/explanation/solver.md has the derivation.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from base.terminal import Console
from train_head.config import ClassWeight, TrainConfig
from train_head.data.batches import Array, Indices, PictureOrder, weigh_examples
from train_head.data.split import Targets
from train_head.reduction.record import Reduction
from train_head.reduction.reduce import TrainValidation, reduce_features
from train_head.reduction.row_file import Matrix, RowFile
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
    count_correct,
    draw_mask,
)
from train_head.solvers.optimizers import make_optimizer

HASHED_ROWS = 4096
"""Number of rows hashed at a time."""
SORTED_BLOCK_BYTES = 64 * 2**20
"""Size of the blocks of reduced features that are read at a time if they are not in memory."""


class _Dataset(NamedTuple):
    """Reduced training or validation data. Pictures are in the order of their content hashes."""

    features: Matrix
    """(distinct rows, r)."""
    rows: Indices
    """Row of each example in `features`; for training, the further views of the pictures follow."""
    targets: Targets
    """(pictures,) class numbers, or (pictures, classes) labels."""
    weights: Array
    """Weights in the loss, in the shape of the targets."""
    folder: Path
    """Folder for temporary files."""


def fit_reduced(problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
    """Fit a head on reduced features; raise DivergedError if a loss of the first epoch is NaN or infinite."""
    store, split, config = problem.store, problem.split, problem.config
    started = time.monotonic()
    rows = problem.list_training_rows()
    reduced = reduce_features(store, TrainValidation(rows, split.validation), config.rank, console, config.distribute)
    source = "from the cache" if reduced.from_cache else f"computed in {time.monotonic() - started:.1f} s"
    num_kept, num_inputs = reduced.factors.train.shape[1], int(np.prod(store.feature_shape))
    console.debug(f"inputs reduced from {num_inputs:,} to {num_kept:,}, {source}")
    # Each picture has one weight, however many views it has.
    targets, val_targets = (split.encode(part) for part in (split.train, split.validation))
    weights, val_weights = weigh_examples(targets, config.class_weight), weigh_examples(val_targets, ClassWeight.NONE)
    train = _Dataset(reduced.factors.train, reduced.train.rows, targets, weights, store.derived_folder)
    validation = _Dataset(
        reduced.factors.validation, reduced.validation.rows, val_targets, val_weights, store.derived_folder
    )
    # Recomputed factors may have another basis, in which the weights of an older checkpoint have no meaning.
    checkpoint.extend_key(_hash_rows(train.features))
    num_outputs = count_outputs(len(split.classes), is_multi_label=split.is_multi_label)
    initial = draw_head(num_inputs, num_kept, config.units, num_outputs, config.seed)
    order = PictureOrder(rows, config.seed)
    # A second thread would gain 5% on an idle machine; on a busy one, both threads wait 20 times as long as they run.
    with np.errstate(all="ignore"), threadpool_limits(1, user_api="blas"):
        trainer = HeadTrainer(initial, make_optimizer(config), config.l2)
        stopping, arrays = checkpoint.load(config.patience, console, [array.shape for array in trainer.list_arrays()])
        if arrays:
            trainer.restore(arrays)
        for row in stopping.history:
            problem.on_epoch_end(row)
        with console.progress("train", config.epochs, "epochs") as progress:
            progress.advance(len(stopping.history))
            while len(stopping.history) < config.epochs and not stopping.is_over:
                row = _fit_epoch(trainer, len(stopping.history), order, train, validation, config)
                stopping.record(row, trainer.copy_head)
                progress.advance(1)
                checkpoint.save_if_due(trainer.list_arrays, stopping, config.epochs)
                problem.on_epoch_end(row)
        head = stopping.require_kept(config.learning_rate)
        logits = compute_logits(head, validation.features, validation.rows)
        train_logits = compute_logits(head, train.features, train.rows[order.first_rows])
        expansion = reduced.make_expansion(store, head.input_kernel)
    return Fit(
        head,
        stopping.history,
        stopping.kept_epoch,
        compute_probabilities(train_logits, is_multi_label=split.is_multi_label),
        compute_probabilities(logits, is_multi_label=split.is_multi_label),
        Reduction(reduced.key, reduced.rank, logits, expansion),
    )


def draw_head(num_inputs: int, rank: int, units: int, outputs: int, seed: int) -> HeadWeights:
    """Draw initial weights for a head on reduced inputs, with zero biases.

    Both kernels are uniform in ±√(6 / (fan-in + fan-out)). The fan-in of the hidden kernel is the number of all inputs,
    not the rank: an orthonormal change of basis keeps the variance of independent weights, so that within the span of
    the training features the head starts like the full one. Outside the span the kernel is zero: weights there are
    never trained, and would only add noise to the predictions for other pictures.

    Source: Glorot and Bengio 2010, equation 16; `keras.initializers.GlorotUniform`.

    Args:
        num_inputs: number of all inputs, d.
        rank: number of reduced inputs, r.
        units: units of the hidden layer; 0 for a linear head.
        outputs: 1 for two classes, else the number of classes.
        seed: seed of the weights.

    Returns:
        A hidden kernel (rank, units) and an output kernel (units, outputs), with their biases; only an output kernel
        (rank, outputs) with its bias for a linear head.
    """
    rng = np.random.default_rng((seed, num_inputs, units))

    def draw(fan_in: int, shape: tuple[int, int]) -> Array:
        limit = np.sqrt(6 / (fan_in + shape[1]))
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    if not units:
        return HeadWeights(None, None, draw(num_inputs, (rank, outputs)), np.zeros(outputs, np.float32))
    kernels = draw(num_inputs, (rank, units)), draw(units, (units, outputs))
    return HeadWeights(kernels[0], np.zeros(units, np.float32), kernels[1], np.zeros(outputs, np.float32))


def _hash_rows(features: Matrix) -> bytes:
    """Return the SHA-256 of features, without copying all of them at once."""
    digest = hashlib.sha256()
    for start in range(0, len(features), HASHED_ROWS):
        digest.update(np.ascontiguousarray(features[start : start + HASHED_ROWS]).data)
    return digest.digest()


def _fit_epoch(
    trainer: HeadTrainer, number: int, order: PictureOrder, train: _Dataset, validation: _Dataset, config: TrainConfig
) -> Epoch:
    """Train for one epoch; order, views and dropout depend on the seed and the epoch's number alone."""
    started = time.monotonic()
    plan = order.plan(number)
    masks = np.random.default_rng((config.seed, number, 2))
    num_pictures = len(plan.pictures)
    batches = _iterate_batches(train, train.rows[plan.rows], config.batch_size)
    total_loss, num_correct = 0.0, 0
    for start in range(0, num_pictures, config.batch_size):
        batch = slice(start, start + config.batch_size)
        pictures = plan.pictures[batch]
        mask = draw_mask(masks, (len(pictures), config.units), config.dropout)
        step = Batch(next(batches), train.targets[pictures], train.weights[pictures], mask)
        loss, correct = trainer.train_on_batch(step)
        total_loss += loss * len(pictures)
        num_correct += correct
    logits = compute_logits(trainer.head, validation.features, validation.rows)
    losses, _ = compute_losses(logits, validation.targets)
    val_loss = float(np.mean(losses)) + trainer.compute_penalty()
    val_accuracy = count_correct(logits, validation.targets) / len(validation.targets)
    seconds = time.monotonic() - started
    return Epoch(number + 1, total_loss / num_pictures, num_correct / num_pictures, val_loss, val_accuracy, seconds)


def _iterate_batches(train: _Dataset, rows: Indices, batch_size: int) -> Iterator[Array]:
    """Yield the features of rows, (b, r), in batches; rows of a file are first sorted into blocks of many batches."""
    if not isinstance(train.features, RowFile):
        for start in range(0, len(rows), batch_size):
            yield train.features[rows[start : start + batch_size]]
        return
    block_rows = max(1, SORTED_BLOCK_BYTES // (4 * train.features.shape[1]) // batch_size) * batch_size
    blocks = train.features.sort(rows, block_rows, train.folder)
    for number in range(blocks.num_blocks):
        block = blocks.read(number)
        for start in range(0, len(block), batch_size):
            yield block[start : start + batch_size]
