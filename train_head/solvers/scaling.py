"""Fit the scale of scores by maximum likelihood, so that their probabilities agree with observed frequencies.

Two scalings: p = softmax(β z) with one parameter, the inverse temperature β = 1 / T, and p = sigmoid(a z + b) for two
classes. The labels are smoothed, as if there were a few further pictures: without that, scores that separate the
classes would make β or a infinite.

Source: Platt 1999; Lin, Lin and Weng 2007, A note on Platt's probabilistic outputs; Guo et al. 2017, On calibration of
modern neural networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from train_head.data.batches import Indices
from train_head.data.split import Targets

Float64 = NDArray[np.float64]

LIMITS = (1e-3, 1e3)
"""Smallest and largest β and a. Scores that predict nothing, or the opposite of the labels, get the smallest."""
_MAX_STEPS = 100
_PRECISION = 1e-10
"""Relative change at which the iteration ends."""
_BLOCK_NUMBERS = 2**22


class Line(NamedTuple):
    """Slope and offset of a logit a z + b."""

    slope: float
    offset: float


def fit_scale(scores: Float64, targets: Targets, weights: Float64) -> tuple[Float64, Float64]:
    """Fit the slopes and the offsets that turn leave-one-out scores into logits.

    Args:
        scores: (n, outputs): one output for two classes, else one per class or label.
        targets: (n,) class numbers, or (n, labels).
        weights: weights of the targets, in their shape.

    Returns:
        Slopes and offsets, each for all outputs, (), or for each label, (labels,).
    """
    if targets.ndim == 2:
        lines = np.array([fit_line(*column) for column in zip(scores.T, targets.T == 1, weights.T, strict=True)])
        return lines[:, 0], lines[:, 1]
    if scores.shape[1] == 1:
        slope, offset = fit_line(scores[:, 0], targets == 1, weights)
        return np.array(slope), np.array(offset)
    return np.array(1 / fit_temperature(scores, targets, weights)), np.array(0.0)


def fit_temperature(scores: NDArray[np.floating], targets: Indices, weights: Float64 | None = None) -> float:
    """Return the temperature T that minimises the cross-entropy of softmax(scores / T).

    The true class of each of the n rows counts 1 - 1 / (n + 2), the others share the rest: Laplace's rule of
    succession, as if one further picture had been classified correctly and one incorrectly.

    Args:
        scores: (n, classes) logits, or logarithms of probabilities.
        targets: (n,) class numbers.
        weights: (n,) weights of the rows; None for equal weights.

    Returns:
        T, positive and finite. Dividing by it never changes the order of the classes.
    """
    num_rows, num_classes = scores.shape
    shares = np.full(num_rows, 1 / num_rows) if weights is None else weights / weights.sum()
    smoothing = 1 / (num_rows + 2)
    step = max(1, _BLOCK_NUMBERS // num_classes)

    def differentiate(sharpness: float) -> tuple[float, float]:
        first = second = 0.0
        for start in range(0, num_rows, step):
            rows = slice(start, start + step)
            part = scores[rows].astype(np.float64)
            part -= part.max(axis=1, keepdims=True)
            raised = np.exp(sharpness * part)
            raised /= raised.sum(axis=1, keepdims=True)
            means = (raised * part).sum(axis=1)
            true = part[np.arange(len(part)), targets[rows]]
            others = (part.sum(axis=1) - true) / (num_classes - 1)
            first += float(shares[rows] @ (means - (1 - smoothing) * true - smoothing * others))
            second += float(shares[rows] @ ((raised * part**2).sum(axis=1) - means**2))
        return first, second

    return 1 / _find_root(differentiate)


def fit_line(scores: Float64, is_second: NDArray[np.bool_], weights: Float64) -> Line:
    """Return the slope a and the offset b that minimise the cross-entropy of sigmoid(a z + b).

    The target of the second class is (n₂ + 1) / (n₂ + 2) instead of 1, that of the first 1 / (n₁ + 2) instead of 0,
    with the sums of the weights n₁ and n₂ of the two classes (Platt 1999).

    Args:
        scores: (n,) scores z; higher for the second class.
        is_second: (n,) whether each row is of the second class.
        weights: (n,) weights of the rows.
    """
    num_second, num_first = float(weights[is_second].sum()), float(weights[~is_second].sum())
    targets = np.where(is_second, (num_second + 1) / (num_second + 2), 1 / (num_first + 2))
    shares = weights / weights.sum()
    offset = 0.0

    def differentiate(slope: float) -> tuple[float, float]:
        """Return both derivatives of the cross-entropy at the best offset, which replaces `offset`."""
        nonlocal offset
        offset = _find_offset(slope * scores, targets, shares, offset)
        given = _compute_sigmoid(slope * scores + offset)
        curvature = shares * given * (1 - given)
        total = max(float(curvature.sum()), np.finfo(np.float64).tiny)
        mean = float(curvature @ scores) / total
        return float(shares @ ((given - targets) * scores)), float(curvature @ (scores - mean) ** 2)

    slope = _find_root(differentiate)
    return Line(slope, _find_offset(slope * scores, targets, shares, offset))


def _find_offset(logits: Float64, targets: Float64, shares: Float64, start: float) -> float:
    """Return b, for which the mean of sigmoid(logits + b) equals the mean of the targets."""
    wanted = float(shares @ targets)
    centre = float(np.log(wanted / (1 - wanted)))
    low, high = centre - float(logits.max()), centre - float(logits.min())
    offset = min(max(start, low), high)
    for _ in range(_MAX_STEPS):
        given = _compute_sigmoid(logits + offset)
        excess, slope = float(shares @ given) - wanted, float(shares @ (given * (1 - given)))
        low, high = (low, offset) if excess > 0 else (offset, high)
        found = offset - excess / slope if slope > 0 else low
        found = found if low < found < high else (low + high) / 2
        if abs(found - offset) <= _PRECISION * max(1.0, abs(found)):
            break
        offset = found
    return found


def _find_root(differentiate: Callable[[float], tuple[float, float]]) -> float:
    """Return the minimum of a convex function within `LIMITS`, by Newton's method with a bracket.

    Args:
        differentiate: returns the first and second derivative at a positive number.
    """
    low, high = LIMITS
    found = 1.0
    for _ in range(_MAX_STEPS):
        first, second = differentiate(found)
        if first == 0:
            return found
        low, high = (low, found) if first > 0 else (found, high)
        following = found - first / second if second > 0 else low
        following = following if low < following < high else float(np.sqrt(low * high))
        if abs(following - found) <= _PRECISION * found:
            break
        found = following
    return following


def _compute_sigmoid(logits: Float64) -> Float64:
    return np.asarray(np.exp(-np.logaddexp(0, -logits)), np.float64)
