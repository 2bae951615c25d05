"""Least squares with an L2 penalty (ridge regression), and its exact leave-one-out scores.

For features x (n, d), targets y (n, k) of ±1 and weights w (n,), the kernel B and the bias b minimise

    Σ wᵢ ‖xᵢ B + b - yᵢ‖² + λ ‖B‖²

With the weighted means x̄ and ȳ, X̃ = x - x̄, W = diag(w) and the eigendecomposition X̃ᵀ W X̃ = V E Vᵀ,

    B = V (E + λ)⁻¹ Vᵀ X̃ᵀ W (y - ȳ)                        b = ȳ - x̄ B
    hᵢ = wᵢ / Σw + wᵢ Σⱼ (X̃ V)ᵢⱼ² / (Eⱼ + λ)               leverage
    sᵢ = yᵢ - (yᵢ - xᵢ B - b) / (1 - hᵢ)                    score of row i from a fit without row i

After one eigendecomposition, each further λ costs a few products. Rows are read in three passes, so that they need not
fit in memory. Rows of one group, such as the views of a picture, are left out together: hᵢ becomes the block of the hat
matrix Hᵢⱼ = wⱼ / Σw + wⱼ Σₖ (X̃ V)ᵢₖ (X̃ V)ⱼₖ / (Eₖ + λ) of the group, and 1 / (1 - hᵢ) the inverse of 1 - H.

Source: Allen 1974 (PRESS); Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, equation 7.64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train_head.data.batches import Array, Indices

PENALTIES = tuple(float(value) for value in 10.0 ** np.arange(-4.0, 3.25, 0.25))
"""Penalties to choose from, relative to the mean squared length of a centred row."""
MIN_REMAINDER = 1e-10
"""Smallest 1 - h: a row that determines a coefficient alone has a leverage of 1, and no leave-one-out score."""
_ROUNDING = 1e-7
"""Eigenvalues below this share of the largest one are rounding errors of float32 features."""

Reader = Callable[[], Iterator[Array]]
"""Function that yields the rows (b, d) of the features in order, as float32 or float64; called once for each pass."""
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class LeastSquares:
    """Fitted coefficients, and the leave-one-out scores at the chosen penalty."""

    kernel: Float64
    """(d, outputs)."""
    bias: Float64
    """(outputs,)."""
    scores: Float64
    """(n, outputs): the score of each row from a fit to all other rows."""
    penalty: float
    """Chosen penalty, relative to the mean squared length of a centred row; one of `PENALTIES`."""
    errors: Float64
    """(penalties,) weighted mean squared leave-one-out error of each of `PENALTIES`."""


@dataclass(frozen=True)
class _Moments:
    """Weighted first and second moments of features and targets, centred."""

    mean: Float64
    """(d,) x̄."""
    target_mean: Float64
    """(outputs,) ȳ."""
    covariance: Float64
    """(d, d) X̃ᵀ W X̃."""
    products: Float64
    """(d, outputs) X̃ᵀ W (y - ȳ)."""


def make_targets(numbers: Indices, num_classes: int) -> Float64:
    """Return targets of ±1 for class numbers (n,): (n, 1) for two classes, 1 for the second; else (n, classes)."""
    targets = np.where(numbers[:, None] == np.arange(num_classes), 1.0, -1.0)
    return targets[:, 1:] if num_classes == 2 else targets


def fit_least_squares(
    read_blocks: Reader, targets: Float64, weights: NDArray[np.floating], groups: Indices | None = None
) -> LeastSquares:
    """Fit the coefficients with the penalty of the lowest weighted leave-one-out error.

    Sums are computed in float64, block by block in the given order. The caller limits BLAS to one thread, so that the
    bits of the result do not depend on the number of threads (`reduction.matrix.open_workers`).

    Args:
        read_blocks: reads the features (n, d). Needs memory for a few (d, d) matrices of float64.
        targets: (n, outputs) targets of ±1, as `make_targets` returns them.
        weights: (n,) weights of the rows, 0 or more. A row of weight 0 has no influence and gets an ordinary score.
        groups: (n,) ascending group number of each row. Rows of a group are left out together. None leaves out each
            row alone.
    """
    row_weights = weights.astype(np.float64)
    total = float(row_weights.sum())
    moments = _sum_moments(read_blocks, targets, row_weights)
    eigenvalues, vectors = np.linalg.eigh(moments.covariance)
    kept = eigenvalues > _ROUNDING * max(float(eigenvalues.max(initial=0.0)), np.finfo(np.float64).tiny)
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    scale = float(eigenvalues.sum()) / total if len(eigenvalues) else 1.0
    inverses = 1 / (eigenvalues[:, None] + np.array(PENALTIES) * scale)
    projected = vectors.T @ moments.products

    def list_residuals(numbers: Sequence[int]) -> Iterator[tuple[slice, int, Float64]]:
        """Yield the (b, outputs) leave-one-out residuals of each block of rows at each of the numbered penalties."""
        start = 0
        for block in read_blocks() if groups is None else _align(read_blocks(), groups):
            rows = slice(start, start + len(block))
            start += len(block)
            # In the basis of the eigenvectors, (b, kept).
            places = (block.astype(np.float64) - moments.mean) @ vectors
            squares = None if groups is not None else places**2
            for number in numbers:
                fitted = places @ (inverses[:, [number]] * projected)
                residuals = targets[rows] - moments.target_mean - fitted
                if squares is not None:
                    leverages = row_weights[rows] * (1 / total + squares @ inverses[:, number])
                    residuals /= np.maximum(1 - leverages, MIN_REMAINDER)[:, None]
                elif groups is not None:
                    hat = _Hat(places, row_weights[rows], inverses[:, number], total)
                    residuals = hat.leave_out(residuals, groups[rows])
                yield rows, number, residuals

    errors = np.zeros(len(PENALTIES))
    for rows, number, residuals in list_residuals(range(len(PENALTIES))):
        errors[number] += row_weights[rows] @ (residuals**2).mean(axis=1) / total
    chosen = int(np.argmin(errors))
    scores = np.empty_like(targets)
    for rows, _, residuals in list_residuals([chosen]):
        scores[rows] = targets[rows] - residuals
    kernel = vectors @ (inverses[:, [chosen]] * projected)
    return LeastSquares(kernel, moments.target_mean - moments.mean @ kernel, scores, PENALTIES[chosen], errors)


def _sum_moments(read_blocks: Reader, targets: Float64, weights: Float64) -> _Moments:
    """Sum the moments about the first row, which avoids cancellation, and move them to the means."""
    total, start = weights.sum(), 0
    origin = sums = covariance = products = np.zeros(0)
    target_mean = weights @ targets / total
    for block in read_blocks():
        if not start:
            origin = block[0].astype(np.float64)
            sums, covariance = np.zeros(len(origin)), np.zeros((len(origin), len(origin)))
            products = np.zeros((len(origin), targets.shape[1]))
        rows = slice(start, start + len(block))
        start += len(block)
        moved = block.astype(np.float64) - origin
        weighted = moved * weights[rows, None]
        sums += weighted.sum(axis=0)
        covariance += weighted.T @ moved
        products += weighted.T @ (targets[rows] - target_mean)
    shift = sums / total
    # The products need no correction, because the weighted targets are centred.
    return _Moments(origin + shift, target_mean, covariance - np.outer(shift, sums), products)


@dataclass(frozen=True)
class _Hat:
    """Hat matrix of a block of rows at one penalty, which maps targets to fitted values."""

    places: Float64
    """(b, kept) X̃ V."""
    weights: Float64
    """(b,)."""
    inverses: Float64
    """(kept,) 1 / (E + λ)."""
    total: float
    """Σw, of all rows."""

    def leave_out(self, residuals: Float64, groups: Indices) -> Float64:
        """Return the residuals, (b, outputs), that fits without the group of each row would have."""
        _, starts, sizes = np.unique(groups, return_index=True, return_counts=True)
        found = np.empty_like(residuals)
        for size in np.unique(sizes):
            members = starts[sizes == size, None] + np.arange(size)
            places = self.places[members]
            products = (places * self.inverses) @ places.transpose(0, 2, 1)
            hat = (products + 1 / self.total) * self.weights[members][:, None, :]
            found[members] = np.linalg.solve((1 + MIN_REMAINDER) * np.eye(size) - hat, residuals[members])
        return found


def _align(blocks: Iterable[Array], groups: Indices) -> Iterator[Array]:
    """Yield the rows of blocks in blocks that divide no group; `groups` has the group number of every row."""
    held, start = np.zeros((0, 0), np.float32), 0
    for block in blocks:
        joined = np.concatenate([held, block]) if len(held) else block
        end = start + len(joined)
        is_divided = end < len(groups) and groups[end] == groups[end - 1]
        num_whole = int(np.searchsorted(groups[start:end], groups[end - 1])) if is_divided else len(joined)
        if num_whole:
            yield joined[:num_whole]
        held, start = joined[num_whole:], start + num_whole
