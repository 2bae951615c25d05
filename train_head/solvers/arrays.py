"""Fits on features in memory, without a store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from train_head.data.batches import Array
from train_head.reduction.decompose import MAX_EXACT_ROWS, Basis, decompose_exactly, sketch
from train_head.reduction.matrix import FeatureMatrix, open_workers
from train_head.reduction.reduce import SKETCH_SEED
from train_head.solvers.network import Batch
from train_head.solvers.ridge import (
    Pictures,
    RidgeHead,
    choose_rank,
    fit_ridge_head,
    measure_logits,
    read_blocks,
    slice_blocks,
)


def open_matrix(features: Any, workers: ThreadPoolExecutor) -> FeatureMatrix:
    """Return features, (n, inputs) float16 or float32, as the matrix of a reduction."""
    store: Any = SimpleNamespace(feature_shape=features.shape[1:], read=lambda rows: features[rows.start : rows.stop])
    return FeatureMatrix(store, range(len(features)), workers)  # type: ignore[arg-type]


def decompose(rows: FeatureMatrix, rank: int) -> Basis[Array]:
    """Compute the leading directions as `reduce_features` does: a sketch of as many directions as inputs is exact."""
    is_exact = rows.num_rows <= MAX_EXACT_ROWS and rank < rows.num_columns
    return decompose_exactly(rows, rank) if is_exact else sketch(rows, rank, SKETCH_SEED)


def find_directions(rows: FeatureMatrix, basis: Basis[Array]) -> Array:
    """Return the directions V, (inputs, r), of a decomposition of the rows."""
    if basis.directions is not None:
        return basis.directions
    return rows.multiply_transposed(np.asarray(basis.train / basis.eigenvalues, np.float32))


def fit_ridge_arrays(train: Batch, num_classes: int, rank: int | None) -> tuple[RidgeHead, float, float]:
    """Fit a linear head on all inputs by least squares, as `fit_ridge` does.

    Args:
        train: features, class numbers and weights of all rows. Each row counts as a picture of its own.
        num_classes: two or more.
        rank: requested number of reduced inputs; None chooses it by the shape of the features.

    Returns:
        The head, and its loss in nats and its accuracy on the rows.
    """
    numbers = np.arange(len(train.targets))
    pictures = Pictures(train.targets, train.weights, numbers, numbers)
    with open_workers() as workers:
        rows = open_matrix(train.features, workers)
        kept = choose_rank(rank, rows.num_rows, rows.num_columns)
        basis = decompose(rows, kept) if kept else None
        read = partial(slice_blocks, basis.train) if basis else partial(read_blocks, rows)
        head = fit_ridge_head(read, pictures, num_classes)
        kernel = head.weights.input_kernel
        if basis and basis.directions is None:
            # Without V, which is as large as the features.
            kernel = rows.multiply_transposed(np.asarray((basis.train / basis.eigenvalues) @ kernel, np.float32))
        elif basis:
            kernel = np.asarray(find_directions(rows, basis) @ kernel, np.float32)
        logits = rows.multiply(kernel) + head.weights.output_bias
    head = replace(head, weights=head.weights.with_input_kernel(kernel))
    return head, *measure_logits(logits, train.targets)
