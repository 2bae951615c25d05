"""Ridge regression: coefficients, exact leave-one-out scores and the choice of the penalty."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from train_head.solvers.least_squares import PENALTIES, Reader, fit_least_squares, make_targets

pytestmark = pytest.mark.unit

Float64 = NDArray[np.float64]


def read_in_blocks(features: NDArray[np.floating], size: int = 7) -> Reader:
    def read() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(features), size):
            yield features[start : start + size].astype(np.float32)

    return read


def draw(num_rows: int, num_inputs: int, num_classes: int, seed: int = 0) -> tuple[NDArray[np.float32], Float64]:
    """Draw float32 features with a shift for each class, and the targets."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(num_rows) % num_classes
    features = rng.normal(size=(num_rows, num_inputs)) + rng.normal(size=(num_classes, num_inputs))[numbers] + 3
    return features.astype(np.float32), make_targets(numbers, num_classes)


def solve_directly(features: Float64, targets: Float64, weights: Float64, penalty: float) -> tuple[Float64, Float64]:
    """Solve the normal equations with a free bias."""
    extended = np.c_[features, np.ones(len(features))]
    damping = np.diag([*[penalty] * features.shape[1], 0.0])
    solved = np.linalg.solve(
        extended.T @ (weights[:, None] * extended) + damping, extended.T @ (weights[:, None] * targets)
    )
    return solved[:-1], solved[-1]


def measure_scale(features: Float64, weights: Float64) -> float:
    mean = weights @ features / weights.sum()
    return float(weights @ ((features - mean) ** 2).sum(axis=1) / weights.sum())


@pytest.mark.parametrize(("num_rows", "num_inputs"), [(12, 5), (9, 20)])
@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_fit_small_problem_equals_refits_without_each_row(
    num_rows: int, num_inputs: int, num_classes: int, is_weighted: bool
) -> None:
    features, targets = draw(num_rows, num_inputs, num_classes)
    weights = np.random.default_rng(1).uniform(0.5, 2, num_rows) if is_weighted else np.ones(num_rows)
    fitted = fit_least_squares(read_in_blocks(features), targets, weights)

    exact = features.astype(np.float64)
    unit = measure_scale(exact, weights)
    kernel, bias = solve_directly(exact, targets, weights, fitted.penalty * unit)
    np.testing.assert_allclose(fitted.kernel, kernel, atol=1e-6)
    np.testing.assert_allclose(fitted.bias, bias, atol=1e-6)

    errors = []
    for penalty in PENALTIES:
        scores = np.empty_like(targets)
        for row in range(num_rows):
            others = np.arange(num_rows) != row
            kernel, bias = solve_directly(exact[others], targets[others], weights[others], penalty * unit)
            scores[row] = exact[row] @ kernel + bias
        errors.append(weights @ ((scores - targets) ** 2).mean(axis=1) / weights.sum())
        if penalty == fitted.penalty:
            np.testing.assert_allclose(fitted.scores, scores, atol=1e-6)
    np.testing.assert_allclose(fitted.errors, errors, rtol=1e-5)
    assert fitted.penalty == PENALTIES[int(np.argmin(errors))]


@pytest.mark.parametrize("num_inputs", [5, 30])
def test_fit_with_groups_equals_refits_without_each_group(num_inputs: int) -> None:
    features, targets = draw(14, num_inputs, 3)
    groups = np.array([0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5, 5, 6])
    weights = np.random.default_rng(1).uniform(0.5, 2, 14)
    # Blocks of three rows divide groups.
    fitted = fit_least_squares(read_in_blocks(features, 3), targets, weights, groups)
    exact = features.astype(np.float64)
    scores = np.empty_like(targets)
    for group in range(7):
        others = groups != group
        penalty = fitted.penalty * measure_scale(exact, weights)
        kernel, bias = solve_directly(exact[others], targets[others], weights[others], penalty)
        scores[~others] = exact[~others] @ kernel + bias
    np.testing.assert_allclose(fitted.scores, scores, atol=1e-6)
    errors = weights @ ((scores - targets) ** 2).mean(axis=1) / weights.sum()
    assert fitted.errors[PENALTIES.index(fitted.penalty)] == pytest.approx(errors)
    assert min(fitted.errors) == fitted.errors[PENALTIES.index(fitted.penalty)]


def test_fit_does_not_depend_on_the_size_of_the_blocks() -> None:
    features, targets = draw(40, 6, 3)
    first, second = (fit_least_squares(read_in_blocks(features, size), targets, np.ones(40)) for size in (3, 40))
    assert first.penalty == second.penalty
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-9)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_fit_constant_features_predicts_the_mean_of_the_other_targets(num_classes: int) -> None:
    targets = make_targets(np.arange(9) % num_classes, num_classes)
    fitted = fit_least_squares(read_in_blocks(np.full((9, 4), 2.5)), targets, np.ones(9))
    assert not fitted.kernel.any()
    np.testing.assert_allclose(fitted.scores, (targets.sum(axis=0) - targets) / 8, atol=1e-12)


def test_fit_random_labels_chooses_a_large_penalty_and_separable_ones_a_small_one() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 30))
    random = make_targets(rng.permutation(60) % 2, 2)
    learnable = np.where(features @ rng.normal(size=(30, 1)) > 0, 1.0, -1.0)
    penalties = [
        fit_least_squares(read_in_blocks(features), targets, np.ones(60)).penalty for targets in (random, learnable)
    ]
    assert penalties[0] > 10 * penalties[1]


def test_make_targets_two_classes_has_one_column() -> None:
    assert make_targets(np.array([0, 1]), 2).tolist() == [[-1], [1]]
    assert make_targets(np.array([2, 0]), 3).tolist() == [[-1, -1, 1], [1, -1, -1]]
