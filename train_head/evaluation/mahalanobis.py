"""Mahalanobis distance to the nearest class mean, with one shrunk covariance for all classes.

Sources: Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial
attacks"; Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.schema import Features
from train_head.data.batches import Array, Indices
from train_head.reduction.matrix import open_workers, sum_in_order

_ROWS = 1024
"""Number of rows that are converted to float64 at a time."""
_SMALLEST_NORM = 1e-6
"""Smallest length by which a feature is divided, as in Keras's `UnitNormalization` of version 3.4."""
_ROUNDING = 2.0**-12
"""Relative error of a float16 number. Smaller differences between features have no meaning."""

Matrix = NDArray[np.float64]


class ClassModel(NamedTuple):
    """Class means and covariance of features that are scaled to length 1."""

    center: Array
    """(channels,) float32: mean of the class means."""
    kernel: Array
    """(channels, channels) float32 whitening matrix W: the inverse of the covariance is W Wᵀ."""
    means: Array
    """(classes, channels) float32 whitened class means: (mean - center) W."""

    def check(self) -> None:
        """Raise ValueError if the shapes of the arrays do not match."""
        num_channels, num_classes = self.center.size, len(self.means)
        shapes = [(num_channels,), (num_channels, num_channels), (num_classes, num_channels)]
        if [array.shape for array in self] != shapes or not num_channels * num_classes:
            raise ValueError(f"arrays of shapes {[array.shape for array in self]}")

    def measure(self, features: Features | Array) -> Array:
        """Compute the least squared distances to a class mean, (n,) float32, of features (n, channels)."""
        distances = np.empty(len(features), np.float32)
        squares = np.sum(self.means**2, axis=1)
        with open_workers():
            for rows in _list_blocks(len(features)):
                white = (scale_to_unit(features[rows].astype(np.float32)) - self.center) @ self.kernel
                nearest = np.max(2 * white @ self.means.T - squares, axis=1)
                distances[rows] = np.maximum(np.sum(white**2, axis=1) - nearest, 0)
        return distances


def fit_classes(features: Features | Array, class_numbers: Indices) -> tuple[ClassModel, Array]:
    """Fit the class means and the covariance, and measure each row without itself.

    Args:
        features: (n, channels) features of different pictures.
        class_numbers: (n,) class number of each picture; every class from 0 on has a picture.

    Returns:
        The model, and the distances, (n,) float32, of the rows to the models that are fitted without them. The only
        picture of a class has none, which is NaN. All are NaN if no picture differs from the others of its class by
        more than rounding, as pictures of one colour do.
    """
    counts = np.bincount(class_numbers)
    num_rows, num_channels = features.shape
    with open_workers() as workers:
        means = np.zeros((len(counts), num_channels))
        for rows in _list_blocks(num_rows):
            np.add.at(means, class_numbers[rows], _scale_block(features[rows]))
        means /= counts[:, None]

        def sum_block(rows: slice) -> Matrix:
            residuals = _scale_block(features[rows]) - means[class_numbers[rows]]
            fourth = np.full((1, num_channels), np.sum(np.sum(residuals**2, axis=1) ** 2))
            return np.concatenate([residuals.T @ residuals, fourth])

        sums = sum_in_order(workers, sum_block, _list_blocks(num_rows), np.zeros((num_channels + 1, num_channels)))
        scatter, shrinkage = sums[:-1] / num_rows, compute_shrinkage(sums[:-1] / num_rows, sums[-1, 0], num_rows)
        floor = max(shrinkage * np.trace(scatter) / num_channels, _ROUNDING**2 / num_channels)
        covariance = (1 - shrinkage) * scatter + floor * np.eye(num_channels)
        kernel = invert_triangular(np.linalg.cholesky(covariance)).T
        center: Matrix = means.mean(axis=0)
        white_means = (means - center) @ kernel

        def leave_out(rows: slice) -> Matrix:
            white = (_scale_block(features[rows]) - center) @ kernel
            return _leave_out(white, class_numbers[rows], white_means, counts, (1 - shrinkage) / num_rows)

        held_out = np.concatenate([*workers.map(leave_out, _list_blocks(num_rows))])
    if np.trace(scatter) <= _ROUNDING**2:
        held_out[:] = np.nan
    model = ClassModel(*(array.astype(np.float32) for array in (center, kernel, white_means)))
    return model, held_out.astype(np.float32)


def compute_shrinkage(covariance: Matrix, fourth_moment: float, num_rows: int) -> float:
    """Return the share of the multiple of the identity in the shrunk covariance, from 0 to 1.

    Source: Ledoit and Wolf 2004, lemma 3.2 to 3.4; scikit-learn's `ledoit_wolf` gives the same.

    Args:
        covariance: (d, d) mean of r rᵀ over the rows r.
        fourth_moment: sum of ‖r‖⁴ over the rows.
        num_rows: number of rows.
    """
    squares, num_columns = float(np.sum(covariance**2)), len(covariance)
    spread = squares - float(np.trace(covariance)) ** 2 / num_columns
    error = (fourth_moment / num_rows - squares) / num_rows
    return min(1.0, max(0.0, error / spread)) if spread > 0 else 1.0


def invert_triangular(lower: Matrix) -> Matrix:
    """Invert a lower triangular matrix by halves, in an eighth of the operations of `numpy.linalg.inv`."""
    half = len(lower) // 2
    if half < 32:
        return np.asarray(np.tril(np.linalg.inv(lower)))
    inverse = np.zeros_like(lower)
    inverse[:half, :half] = invert_triangular(lower[:half, :half])
    inverse[half:, half:] = invert_triangular(lower[half:, half:])
    inverse[half:, :half] = -inverse[half:, half:] @ lower[half:, :half] @ inverse[:half, :half]
    return inverse


def scale_to_unit(features: NDArray[Any]) -> NDArray[Any]:
    """Scale rows to length 1; a row of zeros stays so."""
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _SMALLEST_NORM))


def _leave_out(white: Matrix, class_numbers: Indices, means: Matrix, counts: Indices, weight: float) -> Matrix:
    """Compute the distances of training pictures to the classes without them.

    Without a picture whose difference from its class mean is r, the mean of its n pictures moves by r / (n - 1), and
    the covariance loses b r rᵀ with b = weight · n / (n - 1). By the formula of Sherman and Morrison, vᵀ Σ⁻¹ v grows by
    b (vᵀ Σ⁻¹ r)² / (1 - b rᵀ Σ⁻¹ r). The shrinkage, and the number by which sums are divided, stay those of all.

    Args:
        white: (b, channels) whitened features.
        class_numbers: (b,) their class numbers.
        means: (classes, channels) whitened class means.
        counts: (classes,) numbers of pictures.
        weight: weight of each picture's r rᵀ in the covariance.

    Returns:
        (b,) distances; NaN for the only picture of a class.
    """
    rows, own = np.arange(len(white)), counts[class_numbers]
    residuals = white - means[class_numbers]
    lengths = np.sum(residuals**2, axis=1)
    products = np.sum(white * residuals, axis=1)[:, None] - residuals @ means.T
    distances = np.sum(white**2, axis=1)[:, None] - 2 * white @ means.T + np.sum(means**2, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = own / (own - 1)
        distances[rows, class_numbers] = scales**2 * lengths
        products[rows, class_numbers] = scales * lengths
        growth = weight * scales / (1 - weight * scales * lengths)
        return np.asarray(np.min(distances + growth[:, None] * products**2, axis=1))


def _list_blocks(num_rows: int) -> list[slice]:
    return [slice(start, min(start + _ROWS, num_rows)) for start in range(0, num_rows, _ROWS)]


def _scale_block(features: Features | Array) -> Matrix:
    return scale_to_unit(features.astype(np.float64))
