"""Leading right singular vectors of the training features: exact for few rows, by a randomized sketch for many.

X (rows, columns) is the matrix of training features, a row for each distinct view, with height, width and channels
flattened. The order of the rows fixes the order of all sums, and each vector has a fixed sign, so that equal features
give equal bits. LAPACK and BLAS run in one thread; see `open_workers`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError
from train_head.data.batches import Array
from train_head.reduction.matrix import FeatureMatrix, Products, sum_in_order
from train_head.reduction.row_file import Matrix, RowFile

MAX_EXACT_ROWS = 4096
"""Largest number of training rows whose Gram matrix is computed and decomposed."""
CHUNK_ROWS = 4096
"""Rows of a (columns, r) matrix multiplied at a time."""
OVERSAMPLING = 32
"""Number of directions that a sketch computes beyond the rank, so that the weakest kept ones are accurate too."""
ROUNDING = float(np.finfo(np.float32).eps)
"""Machine epsilon ε of float32."""

ReportRows = Callable[[int], None]
"""Called with the number of rows processed since the last call."""
CreateMatrix = Callable[[tuple[int, int], bool], Matrix]
"""Creates a matrix of a shape; True for the reduced features, False for a temporary matrix."""

Reduced = TypeVar("Reduced", bound=Matrix)


class Basis(NamedTuple, Generic[Reduced]):
    """Leading right singular vectors V (columns, r) of X, strongest first, and the reduced training features X V."""

    train: Reduced
    """(rows, r) float32: Z = X V."""
    eigenvalues: NDArray[np.float64]
    """(r,) largest eigenvalues λ of X Xᵀ in descending order: the squared lengths of the columns of Z."""
    directions: Array | None
    """(columns, r) float32: V, with the largest component of each column positive. None from `decompose_exactly`,
    where V = Xᵀ Z diag(1 / λ) and the largest component of each column of Z is positive."""


def decompose_exactly(rows: FeatureMatrix, rank: int) -> Basis[Array]:
    """Compute the leading singular vectors from the Gram matrix.

    With the eigendecomposition X Xᵀ = Q Λ Qᵀ the right singular vectors are V = Xᵀ Q Λ^-½, and Z = X V = Q Λ^½.
    Needs memory for rows² float64 numbers.

    Source: Sirovich 1987, the "method of snapshots".

    Args:
        rows: the training features.
        rank: number of directions to keep; fewer are kept if the rows span fewer.

    Raises:
        HeadstartError: all features are zero.
    """
    eigenvalues, vectors = np.linalg.eigh(rows.compute_gram())
    strongest = _select_strongest(eigenvalues, rank, rows.num_rows)
    kept = eigenvalues[strongest]
    chosen = vectors[:, strongest]
    return Basis((chosen * (find_signs(chosen) * np.sqrt(kept))).astype(np.float32), kept, None)


def sketch(rows: FeatureMatrix, rank: int, seed: int) -> Basis[Array]:
    """Approximate the leading singular vectors as `sketch_rows` does, with Z in memory."""
    basis = sketch_rows(rows, rank, seed, SketchMeans(Products(rows.workers)))
    return Basis(basis.train[:], basis.eigenvalues, basis.directions)


@dataclass(frozen=True)
class SketchMeans:
    """How a sketch is computed."""

    products: Products
    create: CreateMatrix = lambda shape, _: np.empty(shape, np.float32)
    """Creates Z and P, which need not fit in memory."""
    advance: ReportRows = lambda _: None
    """Called after each block with its number of rows, in both passes."""


def sketch_rows(rows: FeatureMatrix, rank: int, seed: int, means: SketchMeans) -> Basis[Matrix]:
    """Approximate the leading singular vectors in two passes over rows that need not fit in memory.

    The first pass computes Y = Xᵀ X Ω for a Gaussian matrix Ω (columns, r + 32): the range finder with one power
    iteration. Y is made orthonormal. The second pass computes P = X Y, and the eigenvectors U of Pᵀ P give V = Y U and
    Z = P U (Rayleigh-Ritz). Needs memory for two (columns, r + 32) matrices.

    Source: Halko, Martinsson and Tropp 2011, algorithms 4.3 and 5.1.

    Args:
        rows: the training features.
        rank: number of directions to keep; fewer are kept if the rows span fewer.
        seed: seed of Ω.
        means: how it is computed.

    Raises:
        HeadstartError: all features are zero.
    """
    num_directions = min(rank + OVERSAMPLING, rows.num_columns)
    gaussian = np.random.default_rng(seed).standard_normal((rows.num_columns, num_directions), np.float32)
    found = np.zeros_like(gaussian)
    for num_rows in means.products.add_squares(rows.list_blocks(), gaussian, found):
        means.advance(num_rows)
    del gaussian
    # The second orthonormalization removes the errors of the first one, which occur if columns are nearly dependent.
    found = _orthonormalize(_orthonormalize(found, rows.workers), rows.workers)
    projected = means.create((rows.num_rows, found.shape[1]), False)
    gram = np.zeros((found.shape[1],) * 2)
    for numbers, part in means.products.multiply(rows.list_blocks(), found):
        projected[numbers] = part
        gram += part.T @ part
        means.advance(len(part))
    eigenvalues, vectors = np.linalg.eigh(gram)
    strongest = _select_strongest(eigenvalues, rank, rows.num_rows)
    rotation = vectors[:, strongest].astype(np.float32)
    directions = _rotate(found, rotation, rows.workers)
    signs = find_signs(directions)
    directions *= signs
    reduced: Matrix
    if isinstance(projected, RowFile):
        reduced = means.create((rows.num_rows, len(strongest)), True)
        _rotate_into(projected, rotation * signs, reduced, rows.workers)
    else:
        reduced = _rotate(projected, rotation * signs, rows.workers)
    return Basis(reduced, eigenvalues[strongest], directions)


def reduce_gram(gram: NDArray[np.float64]) -> Array:
    """Return coordinates (n, r) float32 whose inner products are those of the centred rows of a Gram matrix (n, n).

    A linear head with an L2 penalty gives the same outputs on them as on the rows, which may have more columns.
    """
    means = gram.mean(axis=0)
    eigenvalues, vectors = np.linalg.eigh(gram - means - means[:, None] + means.mean())
    kept = eigenvalues > ROUNDING * max(float(eigenvalues[-1]), np.finfo(np.float64).tiny)
    return np.asarray(vectors[:, kept] * np.sqrt(eigenvalues[kept]), np.float32)


def find_signs(vectors: NDArray[Any]) -> Array:
    """Return the (columns,) signs, 1 or -1, that make the largest component of each column positive.

    Both signs of an eigenvector are valid, and which one LAPACK returns depends on rounding.
    """
    largest = np.argmax(np.abs(vectors), axis=0)
    return np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, np.float32(-1), np.float32(1))


def _rotate(columns: Array, rotation: Array, workers: ThreadPoolExecutor) -> Array:
    """Write (n, k) @ (k, r) into the first r columns, and return these; n is too large for a copy."""
    rotated = columns[:, : rotation.shape[1]]
    _rotate_into(columns, rotation, rotated, workers)
    return rotated


def _rotate_into(columns: Matrix, rotation: Array, rotated: Matrix, workers: ThreadPoolExecutor) -> None:
    """Write (n, k) @ (k, r) into `rotated`, (n, r), which may be the first r columns of the first matrix."""

    def rotate_chunk(rows: slice) -> None:
        rotated[rows] = columns[rows] @ rotation

    list(workers.map(rotate_chunk, _list_chunks(columns)))


def _list_chunks(columns: Matrix) -> list[slice]:
    """List slices of at most `CHUNK_ROWS` rows."""
    return [slice(start, start + CHUNK_ROWS) for start in range(0, len(columns), CHUNK_ROWS)]


def _orthonormalize(columns: Array, workers: ThreadPoolExecutor) -> Array:
    """Return a nearly orthonormal basis of the span of (n, k) columns, from the eigenvectors of their Gram matrix."""
    if not columns.any():
        return columns[:, :0]

    def multiply_chunk(rows: slice) -> NDArray[np.float64]:
        part = columns[rows].astype(np.float64)
        return part.T @ part

    gram = sum_in_order(workers, multiply_chunk, _list_chunks(columns), np.zeros((columns.shape[1],) * 2))
    eigenvalues, vectors = np.linalg.eigh(gram)
    kept = eigenvalues > ROUNDING**2 * eigenvalues.max() * len(gram)
    rotation = vectors[:, kept] / np.sqrt(eigenvalues[kept])
    return _rotate(columns, rotation.astype(np.float32), workers)


def _select_strongest(eigenvalues: NDArray[np.float64], rank: int, num_rows: int) -> NDArray[np.int64]:
    """Return the indices of the `rank` largest eigenvalues of X Xᵀ, largest first, without those below the noise.

    Rounding adds a matrix of independent errors to X Xᵀ. Each error is about ε times the mean squared length of a row,
    Σλ / rows. The norm of the error matrix, and thus a spurious eigenvalue, is about √rows times as large. The
    threshold is 10 times this norm: 10 ε √rows Σλ / rows.
    """
    noise = 10 * ROUNDING * np.sqrt(num_rows) * eigenvalues.sum() / num_rows
    strongest = np.argsort(-eigenvalues)[:rank]
    strongest = strongest[eigenvalues[strongest] > noise]
    if not len(strongest):
        advice = "Check the pictures and the weights, and extract again"
        raise HeadstartError("the training features", "values other than zero", "only zeros", advice)
    return np.asarray(strongest, np.int64)
