"""How good a head was found to be, and how far that can be off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_head.evaluation.baselines import Baseline
from train_head.evaluation.metrics import list_losses
from train_head.evaluation.uncertainty import CONFIDENCE, compute_interval
from train_head.runs.read import Run
from train_head.sweep.config import MetricName

Z_95 = 1.959964
"""Standard errors to each side that a 95 % interval spans."""


@dataclass(frozen=True)
class Score:
    """A metric with its uncertainty."""

    value: float
    low: float
    """Of the 95 % interval."""
    high: float
    standard_error: float
    """How far chance alone moves the value, with as many pictures: about √(p (1 − p) / n) for an accuracy."""
    num_fits: int = 1
    """How many accuracies the value is the mean of."""
    std: float = 0.0
    """Standard deviation of these accuracies; 0 for one."""
    num_pictures: int = 0
    """How many were judged."""
    num_candidates: int = 1
    """From how many the head was chosen by these pictures, which the interval allows for."""

    def allow_for_choice(self, metric: MetricName, num_candidates: int) -> Score:
        """Return the score with an interval that holds for the best of so many, by Bonferroni's inequality."""
        if metric is MetricName.VAL_LOSS:
            low, high = _bound_loss(self.value, self.standard_error, self.num_pictures, num_candidates)
        else:
            low, high = compute_interval(self.value * self.num_pictures, self.num_pictures, num_candidates)
        return replace(self, low=low, high=high, num_candidates=num_candidates)


UNSCORED = Score(math.nan, math.nan, math.nan, math.nan, 0)
"""Of a head that was not fitted to its end."""


def score_accuracy(accuracies: Sequence[float], num_pictures: int) -> Score:
    """Scores by accuracy.

    Args:
        accuracies: one; or each repeat's or fold's, of which the mean counts.
        num_pictures: how many were judged: the validation pictures, and with folds all of them.
    """
    value = float(np.mean(accuracies))
    low, high = compute_interval(value * num_pictures, num_pictures)
    std = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    return Score(value, low, high, (high - low) / 2 / Z_95, len(accuracies), std, num_pictures)


def score_loss(losses: NDArray[np.floating[Any]]) -> Score:
    """Scores by the mean of the validation pictures' losses, (n,) in nats, with its 95 % interval.

    The interval is Student's, which is approximate: losses are skewed.
    """
    value, num = float(np.mean(losses)), len(losses)
    standard_error = float(np.std(losses, ddof=1) / np.sqrt(num)) if num > 1 else 0.0
    low, high = _bound_loss(value, standard_error, num, 1)
    return Score(value, low, high, standard_error, num_pictures=num)


def score_run(metrics: Mapping[str, Any], losses: NDArray[np.floating[Any]], metric: MetricName) -> Score:
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


def read_losses(run: Run) -> NDArray[np.float64]:
    """Reads each validation picture's loss, without the L2 term, so that heads of different ones compare."""
    return list_losses(*run.read_probabilities())


def _bound_loss(value: float, standard_error: float, num_pictures: int, num_candidates: int) -> tuple[float, float]:
    if num_pictures < 2:
        return value, value
    from scipy.stats import t

    half = standard_error * float(t.isf((1 - CONFIDENCE) / num_candidates / 2, num_pictures - 1))
    return max(0.0, value - half), value + half
