"""Find the directions in which training features differ most: exactly for few rows, by sketching for many.

The order of the rows decides the order of all sums, and each direction has a fixed sign, so that the same features give
the same bits. LAPACK and BLAS run in one thread; see `open_workers`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError
from train_head.data.batches import Array
from train_head.reduction.matrix import FeatureMatrix, add_transposed, multiply_block, sum_in_order

MAX_EXACT_ROWS = 4096
CHUNK_ROWS = 4096
"""Rows of a tall matrix that are multiplied at a time."""
OVERSAMPLING = 32
"""Extra directions of a sketch, so that the last ones asked for are good too."""
ROUNDING = float(np.finfo(np.float32).eps)

Advance = Callable[[int], None]


class Basis(NamedTuple):
    """Orthonormal directions V, (columns, r), strongest first, and the training rows in them."""

    train: Array
    """(rows, r): X V."""
    eigenvalues: NDArray[np.float64]
    """(r,) of X Xᵀ, falling: the squared lengths of the columns of X V."""
    directions: Array | None
    """(columns, r): V, each column's largest component positive; None where it is Xᵀ X V diag(1 / eigenvalues)
    exactly. Then the largest component of each column of `train` is positive."""


def decompose_exactly(rows: FeatureMatrix, rank: int) -> Basis:
    """Find the `rank` strongest directions from the Gram matrix; fewer where the rows span fewer.

    With X Xᵀ = Q Λ Qᵀ the directions are V = Xᵀ Q Λ^-½, and X V = Q Λ^½. Memory for rows² numbers.

    Source: the "method of snapshots", Sirovich 1987.
    """
    eigenvalues, vectors = np.linalg.eigh(rows.compute_gram())
    strongest = _choose_strongest(eigenvalues, rank, rows.num_rows)
    kept = eigenvalues[strongest]
    chosen = vectors[:, strongest]
    return Basis((chosen * (find_signs(chosen) * np.sqrt(kept))).astype(np.float32), kept, None)


def sketch(rows: FeatureMatrix, rank: int, seed: int, advance: Advance = lambda _: None) -> Basis:
    """Find nearly the `rank` strongest directions in two passes over rows that need not fit in memory.

    A random Gaussian Ω is multiplied by Xᵀ X in one pass (the range finder with one power iteration), its range
    made orthonormal, and in the second pass X is projected on it and the projection diagonalised
    (Rayleigh-Ritz). Memory for two matrices of (columns, r + 32) and one of (rows, r + 32). `advance` is called with
    the number of rows done, twice as many in all as there are.

    Source: Halko, Martinsson and Tropp 2011, algorithms 4.3 and 5.1.
    """
    num_directions = min(rank + OVERSAMPLING, rows.num_columns)
    start = np.random.default_rng(seed).standard_normal((rows.num_columns, num_directions), np.float32)
    found = np.zeros_like(start)
    for block in rows.list_blocks():
        add_transposed(block, multiply_block(block, start, rows.workers), found, rows.workers)
        advance(len(block.features))
    del start
    found = _orthonormalize(_orthonormalize(found, rows.workers), rows.workers)
    projected = np.empty((rows.num_rows, found.shape[1]), np.float32)
    gram = np.zeros((found.shape[1],) * 2)
    for block in rows.list_blocks():
        projected[block.rows] = part = multiply_block(block, found, rows.workers)
        gram += part.T @ part
        advance(len(block.features))
    eigenvalues, vectors = np.linalg.eigh(gram)
    strongest = _choose_strongest(eigenvalues, rank, rows.num_rows)
    turn = vectors[:, strongest].astype(np.float32)
    directions = _turn(found, turn, rows.workers)
    signs = find_signs(directions)
    directions *= signs
    return Basis(_turn(projected, turn * signs, rows.workers), eigenvalues[strongest], directions)


def find_signs(vectors: NDArray[Any]) -> Array:
    """Return each column's sign that makes its largest component positive; LAPACK's depends on the order of sums."""
    largest = np.argmax(np.abs(vectors), axis=0)
    return np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, np.float32(-1), np.float32(1))


def _turn(columns: Array, turn: Array, workers: ThreadPoolExecutor) -> Array:
    """Compute (n, k) @ (k, r) in place of the first r columns, because n is large, and return those."""

    def turn_chunk(rows: slice) -> None:
        columns[rows, : turn.shape[1]] = columns[rows] @ turn

    list(workers.map(turn_chunk, _list_chunks(columns)))
    return columns[:, : turn.shape[1]]


def _list_chunks(columns: Array) -> list[slice]:
    return [slice(start, start + CHUNK_ROWS) for start in range(0, len(columns), CHUNK_ROWS)]


def _orthonormalize(columns: Array, workers: ThreadPoolExecutor) -> Array:
    """Make columns nearly orthonormal by the eigenvectors of their Gram matrix, without those that depend on others."""
    if not columns.any():
        return columns[:, :0]

    def multiply_chunk(rows: slice) -> NDArray[np.float64]:
        part = columns[rows].astype(np.float64)
        return part.T @ part

    gram = sum_in_order(workers, multiply_chunk, _list_chunks(columns), np.zeros((columns.shape[1],) * 2))
    eigenvalues, vectors = np.linalg.eigh(gram)
    kept = eigenvalues > ROUNDING**2 * eigenvalues.max() * len(gram)
    turn = vectors[:, kept] / np.sqrt(eigenvalues[kept])
    return _turn(columns, turn.astype(np.float32), workers)


def _choose_strongest(eigenvalues: NDArray[np.float64], rank: int, num_rows: int) -> NDArray[np.int64]:
    """Choose the largest eigenvalues of X Xᵀ, strongest first, without those that rounding could have made.

    Rounding errors of the entries are independent: their matrix has a norm of about √rows times an entry's error,
    which is in proportion to the mean squared length of a row.
    """
    noise = 10 * ROUNDING * np.sqrt(num_rows) * eigenvalues.sum() / num_rows
    strongest = np.asarray(np.argsort(-eigenvalues)[:rank], np.int64)
    strongest = strongest[eigenvalues[strongest] > noise]
    if not len(strongest):
        advice = "Look at the pictures and the weights, and extract again; or use --solver full"
        raise HeadstartError("the training features", "features that differ from zero", "nothing but zeros", advice)
    return np.asarray(strongest, np.int64)
