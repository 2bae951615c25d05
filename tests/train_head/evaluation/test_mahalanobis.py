"""Mahalanobis distances: closed forms against refits and scikit-learn, and inputs at the limits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from train_head.data.batches import Array, Indices
from train_head.evaluation import mahalanobis
from train_head.evaluation.mahalanobis import compute_shrinkage, fit_classes, invert_triangular, scale_to_unit

pytestmark = pytest.mark.unit


def draw(num_rows: int, num_channels: int, num_classes: int) -> tuple[Array, Indices]:
    rng = np.random.default_rng(0)
    numbers = np.arange(num_rows) % num_classes
    classes = rng.gamma(1, size=(num_classes, num_channels))
    return (classes[numbers] + rng.gamma(1, size=(num_rows, num_channels))).astype(np.float32), numbers


def measure_without(features: Array, numbers: Indices, row: int) -> float:
    """Fit the classes without a row, and measure it; the shrinkage and the divisor are those of all rows."""
    units = scale_to_unit(features.astype(np.float64))
    num_rows, num_channels = units.shape

    def fit(kept: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        means = [units[kept & (numbers == number)].mean(axis=0) for number in np.unique(numbers[kept])]
        residuals = units[kept] - np.array(means)[np.searchsorted(np.unique(numbers[kept]), numbers[kept])]
        return np.array(means), residuals

    _, residuals = fit(np.ones(num_rows, bool))
    scatter = residuals.T @ residuals / num_rows
    shrinkage = compute_shrinkage(scatter, float(np.sum(np.sum(residuals**2, axis=1) ** 2)), num_rows)
    means, residuals = fit(np.arange(num_rows) != row)
    covariance = (1 - shrinkage) * residuals.T @ residuals / num_rows
    covariance += shrinkage * np.trace(scatter) / num_channels * np.eye(num_channels)
    return min(float((units[row] - mean) @ np.linalg.solve(covariance, units[row] - mean)) for mean in means)


@pytest.mark.parametrize(("num_rows", "num_channels"), [(40, 12), (20, 50)])
def test_fit_classes_leaves_out_each_row_exactly(num_rows: int, num_channels: int) -> None:
    features, numbers = draw(num_rows, num_channels, 3)
    _, held_out = fit_classes(features, numbers)
    expected = [measure_without(features, numbers, row) for row in range(num_rows)]
    np.testing.assert_allclose(held_out, expected, rtol=1e-6)


def test_compute_shrinkage_equals_that_of_scikit_learn() -> None:
    from sklearn.covariance import ledoit_wolf_shrinkage

    features, _ = draw(30, 20, 1)
    rows = features.astype(np.float64) - features.mean(axis=0)
    fourth = float(np.sum(np.sum(rows**2, axis=1) ** 2))
    found = compute_shrinkage(rows.T @ rows / len(rows), fourth, len(rows))
    assert found == pytest.approx(ledoit_wolf_shrinkage(rows, assume_centered=True), rel=1e-9)


def test_measure_is_the_squared_distance_to_the_nearest_mean() -> None:
    features, numbers = draw(60, 8, 2)
    model, _ = fit_classes(features, numbers)
    units = scale_to_unit(features.astype(np.float64))
    means = np.array([units[numbers == number].mean(axis=0) for number in (0, 1)])
    inverse = model.kernel.astype(np.float64) @ model.kernel.T.astype(np.float64)
    differences = units[:, None] - means
    expected = np.einsum("ncd,de,nce->nc", differences, inverse, differences).min(axis=1)
    np.testing.assert_allclose(model.measure(features), expected, rtol=1e-4)
    np.testing.assert_allclose(model.measure(features * 7), model.measure(features), rtol=1e-4)


def test_measure_of_rows_of_another_kind_is_far_above_all_others() -> None:
    features, numbers = draw(200, 30, 2)
    model, held_out = fit_classes(features[:150], numbers[:150])
    other = np.random.default_rng(1).gamma(0.1, size=(50, 30)).astype(np.float32)
    assert np.median(model.measure(features[150:])) < held_out.max() < np.median(model.measure(other))


def test_fit_classes_in_blocks_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, numbers = draw(50, 10, 3)
    whole, held_out = fit_classes(features, numbers)
    monkeypatch.setattr(mahalanobis, "_ROWS", 7)
    blocks, held_out_blocks = fit_classes(features, numbers)
    np.testing.assert_allclose(held_out_blocks, held_out, rtol=1e-5)
    np.testing.assert_allclose(blocks.measure(features), whole.measure(features), rtol=1e-4)


@pytest.mark.parametrize(
    ("features", "numbers"),
    [
        (np.ones((6, 4)), [0, 0, 0, 1, 1, 1]),
        (np.zeros((6, 4)), [0, 0, 0, 1, 1, 1]),
        (np.eye(5), [0, 1, 2, 3, 4]),
        (np.eye(3, 40), [0, 0, 1]),
        (np.repeat(np.eye(2, 5), 4, axis=0), [0] * 4 + [1] * 4),
        (np.random.default_rng(0).random((1000, 6)), [*range(500)] * 2),
    ],
    ids=["constant", "zero", "a picture a class", "fewer rows than channels", "equal rows", "500 classes"],
)
def test_fit_classes_at_the_limits_is_finite(features: NDArray[np.float64], numbers: list[int]) -> None:
    counts = np.bincount(numbers)
    model, held_out = fit_classes(features.astype(np.float16), np.array(numbers))
    model.check()
    assert all(np.isfinite(array).all() for array in model)
    assert np.isfinite(model.measure(features.astype(np.float32))).all()
    has_spread = any(len(np.unique(features[np.array(numbers) == number], axis=0)) > 1 for number in numbers)
    assert (np.isnan(held_out) == ((counts[numbers] == 1) | (not has_spread))).all()


@pytest.mark.parametrize("size", [1, 5, 64, 131])
def test_invert_triangular_gives_the_inverse(size: int) -> None:
    lower = np.tril(np.random.default_rng(0).random((size, size))) + np.eye(size) * size
    np.testing.assert_allclose(invert_triangular(lower) @ lower, np.eye(size), atol=1e-12)
