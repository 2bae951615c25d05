"""The ridge solver: a linear head by least squares to targets of ±1, with exact leave-one-out scores.

The penalty is the one with the lowest leave-one-out error. The scores of each training picture from a fit without it
then give the scale of the logits, so that no validation picture is used. docs/explanation/solver.md has the formulas.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from base.terminal import Console
from features.store import Example
from train_head.config import ClassWeight
from train_head.data.batches import Array, Indices, weigh_examples
from train_head.data.split import Targets
from train_head.reduction.decompose import MAX_EXACT_ROWS
from train_head.reduction.matrix import FeatureMatrix, open_workers
from train_head.reduction.record import Reduction
from train_head.reduction.reduce import TrainValidation, UniqueRows, list_unique, reduce_features
from train_head.reduction.row_file import Matrix
from train_head.solvers import Fit, LeaveOneOut, Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import Epoch
from train_head.solvers.least_squares import Reader, fit_least_squares, make_targets
from train_head.solvers.network import compute_logits, compute_losses, compute_probabilities, count_correct
from train_head.solvers.scaling import fit_scale

DEFAULT_SKETCH_RANK = 1024
"""Number of reduced inputs if there are more than `MAX_EXACT_ROWS` training rows and inputs."""
BLOCK_ROWS = 1024
"""Rows of features converted to float64 at a time."""


@dataclass(frozen=True)
class Pictures:
    """Training pictures, and the rows of features that show them.

    A row can show several pictures, if files have the same content, and a picture has a row for each of its views.
    """

    targets: Targets
    """(pictures,) class numbers, or (pictures, classes) labels."""
    weights: Array
    """Weight of each target in the loss, in the shape of the targets."""
    rows: Indices
    """(pairs,) rows of features: the first view of each picture in order, then the further views."""
    pictures: Indices
    """(pairs,) the picture of each row."""
    groups: Indices | None = None
    """(rows of features,) ascending numbers of the contents, if there are several views; see `fit_least_squares`."""


@dataclass(frozen=True)
class RidgeHead:
    """Head fitted by least squares."""

    weights: HeadWeights
    """Linear head whose logits are calibrated."""
    logits: Array
    """(pictures, outputs) logits of each picture, from a fit without its content."""
    penalty: float
    """Chosen penalty, relative to the mean squared length of a centred row."""


def fit_ridge(problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
    """Fit a linear head with the penalty of the lowest leave-one-out error; a fit takes no epochs and no checkpoint."""
    store, split, config = problem.store, problem.split, problem.config
    started = time.monotonic()
    examples = problem.list_training_rows()
    train, validation = list_unique(examples), list_unique(split.validation)
    targets, val_targets = (split.encode(part) for part in (split.train, split.validation))
    pictures = _list_pictures(examples, train, targets, config.class_weight)
    num_classes, reduction = len(split.classes), None
    rank = choose_rank(config.rank, len(train.examples), int(np.prod(store.feature_shape)))
    with open_workers() as workers:
        if rank:
            parts = TrainValidation(examples, split.validation)
            reduced = reduce_features(store, parts, rank, console, config.distribute)
            features = reduced.factors.train
            head = fit_ridge_head(partial(slice_blocks, features), pictures, num_classes)
            val_logits = compute_logits(head.weights, reduced.factors.validation, validation.rows)
            train_logits = compute_logits(head.weights, features, train.rows[: len(targets)])
            expansion = reduced.make_expansion(store, head.weights.input_kernel)
            reduction = Reduction(reduced.key, reduced.rank, val_logits, expansion)
        else:
            matrices = [FeatureMatrix(store, rows.examples, workers) for rows in (train, validation)]
            head = fit_ridge_head(partial(read_blocks, matrices[0]), pictures, num_classes)
            train_logits, val_logits = (
                (matrix.multiply(head.weights.input_kernel) + head.weights.output_bias)[rows]
                for matrix, rows in zip(matrices, (train.rows[: len(targets)], validation.rows), strict=True)
            )
    loss, accuracy = measure_logits(train_logits, targets)
    val_loss, val_accuracy = measure_logits(val_logits, val_targets)
    row = Epoch(1, loss, accuracy, val_loss, val_accuracy, time.monotonic() - started)
    problem.on_epoch_end(row)
    num_right = count_correct(head.logits, targets)
    return Fit(
        head.weights,
        [row],
        1,
        compute_probabilities(train_logits, is_multi_label=split.is_multi_label),
        compute_probabilities(val_logits, is_multi_label=split.is_multi_label),
        reduction,
        leave_one_out=LeaveOneOut(head.penalty, num_right),
    )


def fit_ridge_head(read_blocks: Reader, pictures: Pictures, num_classes: int) -> RidgeHead:
    """Fit a linear head, and scale its logits to the leave-one-out scores.

    Two pictures with the same content are one row, whose target is the weighted mean of theirs. Both are left out
    together, so that a copy never predicts itself.

    With several labels a picture, all labels share one eigendecomposition, and thus one weight for each picture: the
    weights of the labels only apply to the scale of the logits, which has a slope and an offset for each label.

    Args:
        read_blocks: reads the rows of features, (rows, inputs), as in `fit_least_squares`.
        pictures: the labels and weights of the pictures.
        num_classes: two or more.
    """
    num_rows = int(pictures.rows.max()) + 1
    is_multi_label = pictures.targets.ndim == 2
    own_weights = np.ones(len(pictures.targets)) if is_multi_label else pictures.weights
    shares = (own_weights / np.bincount(pictures.pictures))[pictures.pictures]
    weights = np.bincount(pictures.rows, shares, num_rows).astype(np.float64)
    signs = 2.0 * pictures.targets - 1 if is_multi_label else make_targets(pictures.targets, num_classes)
    columns = signs[pictures.pictures].T
    sums = [np.bincount(pictures.rows, shares * column, num_rows) for column in columns]
    targets = np.stack(sums, axis=1) / np.maximum(weights, np.finfo(np.float64).tiny)[:, None]
    fitted = fit_least_squares(read_blocks, targets, weights, pictures.groups)
    scores = fitted.scores[pictures.rows[: len(pictures.targets)]]
    slope, offset = fit_scale(scores, pictures.targets, pictures.weights.astype(np.float64))
    kernel, bias = (np.asarray(slope * array, np.float32) for array in (fitted.kernel, fitted.bias + offset / slope))
    logits = np.asarray(slope * scores + offset, np.float32)
    return RidgeHead(HeadWeights(None, None, kernel, bias), logits, fitted.penalty)


def choose_rank(requested: int | None, num_rows: int, num_inputs: int) -> int:
    """Return the number of reduced inputs; 0 to fit on the features themselves."""
    if requested:
        return requested
    if num_inputs <= min(num_rows, MAX_EXACT_ROWS):
        return 0
    if num_rows <= MAX_EXACT_ROWS:
        return num_rows
    return min(DEFAULT_SKETCH_RANK, num_inputs)


def _list_pictures(
    examples: list[Example], unique: UniqueRows, targets: Targets, class_weight: ClassWeight
) -> Pictures:
    """List the pictures of examples with their further views; the rows are those of `unique`."""
    number_of = {example.path: number for number, example in enumerate(examples[: len(targets)])}
    pictures = np.array([number_of[example.path] for example in examples], np.int64)
    groups = None
    if len(examples) > len(targets):
        hashes = [example.content_hash for example in unique.examples]
        is_new = [hashes[0] != hashes[0], *(first != second for first, second in zip(hashes, hashes[1:], strict=False))]
        groups = np.cumsum(is_new, dtype=np.int64)
    return Pictures(targets, weigh_examples(targets, class_weight), unique.rows, pictures, groups)


def measure_logits(logits: Array, targets: Targets) -> tuple[float, float]:
    """Return the mean cross-entropy in nats, and the accuracy, of (n, outputs) logits."""
    losses, _ = compute_losses(logits, targets)
    return float(np.mean(losses)), count_correct(logits, targets) / len(targets)


def slice_blocks(features: Matrix) -> Iterator[Array]:
    """Yield reduced features, (rows, inputs), in blocks of rows."""
    for start in range(0, len(features), BLOCK_ROWS):
        yield features[start : start + BLOCK_ROWS]


def read_blocks(matrix: FeatureMatrix) -> Iterator[Array]:
    """Yield stored features in blocks of rows, as float32."""
    for block in matrix.list_blocks():
        for start in range(0, len(block.features), BLOCK_ROWS):
            yield block.features[start : start + BLOCK_ROWS].astype(np.float32)
