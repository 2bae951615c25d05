"""How good a head was found to be, and how far that can be off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from train_head.baseline import Baseline, list_losses
from train_head.evaluation import compute_interval
from train_head.head import Array
from train_head.run import Run
from train_head.sweeping.config import MetricName

Z_95 = 1.959964
"""Standard errors to each side that a 95 % interval spans."""


@dataclass(frozen=True)
class Score:
    """A metric with its uncertainty."""

    value: float
    low: float
    """Of the 95 % interval of one validation; of several, one standard deviation below the mean."""
    high: float
    standard_error: float
    """How far chance alone moves the value, with as many pictures: about √(p (1 − p) / n) for an accuracy."""
    num_fits: int = 1
    """How many accuracies the value is the mean of."""


UNSCORED = Score(math.nan, math.nan, math.nan, math.nan, 0)
"""Of a head that was not fitted to its end."""


def score_accuracy(accuracies: Sequence[float], num_pictures: int) -> Score:
    """Scores by accuracy.

    Args:
        accuracies: one; or each repeat's or fold's, of which the mean counts.
        num_pictures: how many were judged: the validation pictures, and with folds all of them.
    """
    value = float(np.mean(accuracies))
    low, high = compute_interval(round(value * num_pictures), num_pictures)
    standard_error = (high - low) / 2 / Z_95
    if len(accuracies) > 1:
        std = float(np.std(accuracies, ddof=1))
        low, high = value - std, value + std
    return Score(value, low, high, standard_error, len(accuracies))


def score_loss(losses: Array) -> Score:
    """Scores by the mean of the validation pictures' losses, (n,) in nats, with its 95 % interval."""
    value = float(np.mean(losses))
    standard_error = float(np.std(losses, ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else 0.0
    return Score(value, value - Z_95 * standard_error, value + Z_95 * standard_error, standard_error)


def score_run(metrics: Mapping[str, Any], losses: Array, metric: MetricName) -> Score:
    """Scores a run: by its folds where it has some, else by its repeats, else by its one validation."""
    if metric is MetricName.VAL_LOSS:
        return score_loss(losses)
    num_validation = int(metrics["num_validation"])
    if folds := metrics.get("folds"):
        return score_accuracy(folds["val_accuracies"], num_validation + int(metrics["num_train"]))
    repeats = metrics.get("repeats") or {"val_accuracies": [metrics["val_accuracy"]]}
    return score_accuracy(repeats["val_accuracies"], num_validation)


def score_baseline(baseline: Baseline, num_pictures: int, metric: MetricName) -> Score:
    """Scores a baseline as the heads beside it are scored."""
    if metric is MetricName.VAL_LOSS:
        return score_loss(baseline.losses)
    return score_accuracy(baseline.fold_accuracies or [baseline.val_accuracy], num_pictures)


def read_losses(run: Run) -> Array:
    """Reads each validation picture's loss, without the L2 term, so that heads of different ones compare."""
    return list_losses(*run.read_probabilities())
