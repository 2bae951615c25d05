"""Rows of a sweep's table, one for each head and each baseline: their scores and their order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_head.evaluation.uncertainty import CONFIDENCE, compute_interval
from train_head.sweep.config import MetricName

Z_95 = 1.959964
"""Half the width of a 95% interval of a normal distribution, in standard errors."""


class Status(StrEnum):
    """How a fit ended."""

    DONE = "done"
    PRUNED = "pruned"
    """Stopped, because other heads were better at the same epoch."""
    DIVERGED = "diverged"
    """The loss became NaN or infinite."""
    BASELINE = "baseline"


@dataclass(frozen=True)
class Score:
    """Metric with its uncertainty."""

    metric: float
    low: float
    """Lower end of the 95% interval, which allows for choosing the best of `num_candidates`."""
    high: float
    """Upper end of the 95% interval."""
    standard_error: float
    """Standard error of the metric; about √(p (1 − p) / n) for an accuracy p on n pictures."""
    num_fits: int = 1
    """Number of fits over which the metric is averaged."""
    std: float = 0.0
    """Standard deviation of the accuracies of these fits; 0 for one fit."""
    num_pictures: int = 0
    """Number of pictures on which the metric was measured."""
    num_candidates: int = 1
    """Number of heads from which the best is chosen on these pictures, counting each epoch that could be kept."""


UNSCORED = Score(math.nan, math.nan, math.nan, math.nan, 0)
"""Score of a head that was not fitted to the end."""


def score_accuracies(accuracies: Sequence[float], num_pictures: int, num_candidates: int = 1) -> Score:
    """Compute the score of one or more accuracies: of one fit, or of each repeat or fold."""
    mean = float(np.mean(accuracies))
    low, high = compute_interval(mean * num_pictures, num_pictures)
    standard_error = (high - low) / 2 / Z_95
    interval = compute_interval(mean * num_pictures, num_pictures, num_candidates)
    std = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    return Score(mean, *interval, standard_error, len(accuracies), std, num_pictures, num_candidates)


def score_losses(losses: NDArray[np.floating[Any]], num_candidates: int = 1) -> Score:
    """Compute the score of the losses of the validation pictures, (n,) in nats, without the L2 term.

    The interval is Student's t interval with Bonferroni's correction. It is approximate, because losses are skewed.
    """
    mean, num = float(np.mean(losses)), len(losses)
    standard_error = half = 0.0
    if num > 1:
        from scipy.special import stdtrit

        standard_error = float(np.std(losses, ddof=1) / np.sqrt(num))
        half = -standard_error * float(stdtrit(num - 1, (1 - CONFIDENCE) / num_candidates / 2))
    interval = (max(0.0, mean - half), mean + half)
    return Score(mean, *interval, standard_error, num_pictures=num, num_candidates=num_candidates)


def score_run(
    metrics: Mapping[str, Any], losses: NDArray[np.floating[Any]], by: MetricName, num_candidates: int = 1
) -> Score:
    """Compute the score of a run: from its losses, or from the accuracies of its folds, its repeats or its one fit."""
    if by is MetricName.VAL_LOSS:
        return score_losses(losses, num_candidates)
    num_validation = metrics["num_validation"]
    if folds := metrics.get("folds"):
        return score_accuracies(folds["val_accuracies"], num_validation + metrics["num_train"], num_candidates)
    repeats = metrics.get("repeats") or {"val_accuracies": [metrics["val_accuracy"]]}
    return score_accuracies(repeats["val_accuracies"], num_validation, num_candidates)


@dataclass(frozen=True)
class Row:
    """Head or baseline with its results."""

    name: str
    status: Status
    values: dict[str, Any]
    """Value of each axis."""
    score: Score
    val_accuracy: float | None = None
    val_loss: float | None = None
    """Mean cross-entropy of the calibrated probabilities in nats, without the L2 term."""
    epochs: int = 0
    seconds: float = 0.0
    run: str = ""
    """Folder of the run, relative to that of the sweep; empty if there is none."""

    @property
    def can_be_kept(self) -> bool:
        """Whether the head was fitted to the end and has a run: a candidate, or a baseline that is a head."""
        return self.status is Status.DONE or (self.status is Status.BASELINE and bool(self.run))

    @property
    def is_scored(self) -> bool:
        """Whether the head was fitted to the end."""
        return self.score is not UNSCORED

    def describe(self) -> dict[str, Any]:
        """Return the row as JSON types."""
        values = {name: value if isinstance(value, int | float) else str(value) for name, value in self.values.items()}
        flat = asdict(self) | {"status": self.status.value, "values": values}
        score: dict[str, Any] = flat.pop("score")
        return flat | (score if self.is_scored else dict.fromkeys(score))


def sort_rows(rows: Iterable[Row], metric: MetricName) -> list[Row]:
    """Sort rows by the metric, best first, then by the loss; put rows without a score last."""

    def rank(row: Row) -> tuple[bool, float, float]:
        loss = math.inf if row.val_loss is None else row.val_loss
        return not row.is_scored, _get_cost(row, metric) if row.is_scored else 0.0, loss

    return sorted(rows, key=rank)


def find_best(rows: Iterable[Row], metric: MetricName) -> Row | None:
    """Find the best head that was fitted to the end, also among the baselines; return None if there is none."""
    return next(iter(sort_rows((row for row in rows if row.can_be_kept), metric)), None)


def count_close(rows: Sequence[Row], best: Row, metric: MetricName) -> int:
    """Count the heads within one standard error of the best head, including it."""
    limit = _get_cost(best, metric) + best.score.standard_error
    return sum(row.can_be_kept and _get_cost(row, metric) <= limit for row in rows)


def shorten_paths(paths: Iterable[Path]) -> dict[Path, str]:
    """Shorten paths to the fewest last parts that distinguish them, so that they reveal little of the machine."""
    parts = {path: path.resolve().parts for path in paths}
    names = {}
    for path, own in parts.items():
        others = {found for found in parts.values() if found != own}
        nums = (num for num in range(1, len(own)) if all(other[-num:] != own[-num:] for other in others))
        names[path] = "/".join(own[-next(nums, 1) :])
    return names


def shorten_values(rows: Iterable[Row]) -> dict[Path, str]:
    """Shorten the paths among the values of rows."""
    return shorten_paths(value for row in rows for value in row.values.values() if isinstance(value, Path))


def _get_cost(row: Row, metric: MetricName) -> float:
    """Return the score as a number that is lower for better rows."""
    return row.score.metric if metric is MetricName.VAL_LOSS else -row.score.metric
