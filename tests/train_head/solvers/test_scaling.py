"""Scale of scores by maximum likelihood, compared with a general minimiser."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from train_head.solvers.scaling import LIMITS, fit_line, fit_temperature

pytestmark = pytest.mark.unit


def draw_scores(num_rows: int, num_classes: int, sharpness: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw scores, and classes with the probabilities softmax(sharpness × scores)."""
    rng = np.random.default_rng(num_classes)
    scores = rng.normal(0, 2, (num_rows, num_classes))
    raised = np.exp(sharpness * scores)
    shares = raised / raised.sum(axis=1, keepdims=True)
    return scores, np.array([rng.choice(num_classes, p=row) for row in shares])


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_fit_temperature_minimises_the_smoothed_cross_entropy(num_classes: int, is_weighted: bool) -> None:
    scores, targets = draw_scores(200, num_classes, 0.7)
    weights = np.where(targets == 0, 3.0, 1.0) if is_weighted else np.ones(200)
    wanted = np.full(scores.shape, 1 / 202 / (num_classes - 1))
    wanted[np.arange(200), targets] = 1 - 1 / 202

    def compute_loss(sharpness: float) -> float:
        logits = sharpness * scores
        losses = np.log(np.exp(logits).sum(axis=1)) - (wanted * logits).sum(axis=1)
        return float(weights @ losses)

    best = minimize_scalar(compute_loss, bounds=(0.01, 10), method="bounded", options={"xatol": 1e-9}).x
    found = fit_temperature(scores, targets, weights if is_weighted else None)
    assert found == pytest.approx(1 / best, rel=1e-4)
    # Scores with another scale have the same probabilities after scaling.
    assert fit_temperature(100 * scores, targets, weights) == pytest.approx(100 * found, rel=1e-6)


@pytest.mark.parametrize("shift", [1.5, 0.0, 8.0])
def test_fit_line_minimises_the_cross_entropy_of_platts_targets(shift: float) -> None:
    rng = np.random.default_rng(0)
    is_second = rng.random(100) < 0.3
    scores, weights = rng.normal(0.5, 1, 100) + shift * is_second, np.where(is_second, 2.0, 0.5)
    num_second, num_first = weights[is_second].sum(), weights[~is_second].sum()
    targets = np.where(is_second, (num_second + 1) / (num_second + 2), 1 / (num_first + 2))

    def compute_loss(line: NDArray[np.float64]) -> float:
        logits = line[0] * scores + line[1]
        return float(weights @ (np.logaddexp(0, logits) - targets * logits))

    best = minimize(compute_loss, [1, 0], bounds=[LIMITS, (None, None)], options={"ftol": 1e-15, "gtol": 1e-10})
    np.testing.assert_allclose(fit_line(scores, is_second, weights), best.x, rtol=1e-3, atol=1e-4)


def test_fit_of_scores_that_separate_the_classes_is_finite() -> None:
    is_second = np.arange(40) % 2 == 1
    scores = np.where(is_second, 1.0, -1.0)
    line = fit_line(scores, is_second, np.ones(40))
    # The probability of each class is Platt's target, 21 of 22.
    assert line.slope == pytest.approx(np.log(21))
    assert line.offset == pytest.approx(0, abs=1e-6)
    temperature = fit_temperature(np.stack([-scores, scores], axis=1) / 2, is_second.astype(np.int64))
    assert temperature == pytest.approx(1 / np.log(41))


def test_fit_of_scores_opposite_to_the_labels_has_the_smallest_slope() -> None:
    is_second = np.arange(40) % 4 == 0
    scores = np.where(is_second, -1.0, 1.0)
    line = fit_line(scores, is_second, np.ones(40))
    assert line.slope == pytest.approx(LIMITS[0])
    # The share of the second class remains.
    assert 1 / (1 + np.exp(-line.offset)) == pytest.approx(0.26, abs=0.01)
    assert fit_temperature(np.stack([-scores, scores], axis=1), is_second.astype(np.int64)) > 100


def test_fit_of_equal_scores_is_finite() -> None:
    numbers = np.arange(6) % 3
    assert np.isfinite(fit_temperature(np.zeros((6, 3)), numbers))
    assert np.isfinite(fit_line(np.zeros(6), numbers == 0, np.ones(6))).all()
