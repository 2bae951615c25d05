"""Rows of a sweep's table: one for each head and each baseline, with its score, and their order."""

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
"""Standard errors to each side that a 95 % interval spans."""


class Status(StrEnum):
    """How a fit ended."""

    DONE = "done"
    PRUNED = "pruned"
    """Given up, because others were better by then."""
    DIVERGED = "diverged"
    """Its loss became NaN or infinite."""
    BASELINE = "baseline"


@dataclass(frozen=True)
class Score:
    """A metric with its uncertainty."""

    metric: float
    low: float
    """Of the 95 % interval, which allows for the choice."""
    high: float
    standard_error: float
    """Standard deviation that chance alone gives the metric: about √(p (1 − p) / n) for an accuracy."""
    num_fits: int = 1
    """Number of accuracies that the metric is the mean of."""
    std: float = 0.0
    """Standard deviation of these accuracies; 0 for one."""
    num_pictures: int = 0
    """Number of pictures that it was measured on."""
    num_candidates: int = 1
    """Number of heads from which the best is chosen by these pictures."""


UNSCORED = Score(math.nan, math.nan, math.nan, math.nan, 0)
"""Score of a head that was not fitted to its end."""


def score_accuracies(accuracies: Sequence[float], num_pictures: int, num_candidates: int = 1) -> Score:
    """Score by the mean accuracy of one fit, or of each repeat or fold, on so many pictures."""
    mean = float(np.mean(accuracies))
    low, high = compute_interval(mean * num_pictures, num_pictures)
    standard_error = (high - low) / 2 / Z_95
    interval = compute_interval(mean * num_pictures, num_pictures, num_candidates)
    std = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    return Score(mean, *interval, standard_error, len(accuracies), std, num_pictures, num_candidates)


def score_losses(losses: NDArray[np.floating[Any]], num_candidates: int = 1) -> Score:
    """Score by the mean of the validation pictures' losses, (n,) in nats, without the L2 term.

    The interval is Student's, by Bonferroni's inequality; it is approximate, as losses are skewed.
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
    """Score a run: by its losses, or by its folds where it has some, else by its repeats, else by its one accuracy."""
    if by is MetricName.VAL_LOSS:
        return score_losses(losses, num_candidates)
    num_validation = metrics["num_validation"]
    if folds := metrics.get("folds"):
        return score_accuracies(folds["val_accuracies"], num_validation + metrics["num_train"], num_candidates)
    repeats = metrics.get("repeats") or {"val_accuracies": [metrics["val_accuracy"]]}
    return score_accuracies(repeats["val_accuracies"], num_validation, num_candidates)


@dataclass(frozen=True)
class Row:
    """A head or a baseline, and its results."""

    name: str
    status: Status
    values: dict[str, Any]
    """Its value of each axis."""
    score: Score
    val_accuracy: float | None = None
    val_loss: float | None = None
    """Mean cross-entropy in nats, without the L2 term."""
    epochs: int = 0
    seconds: float = 0.0
    run: str = ""
    """Its folder as seen from the sweep's; empty where there is none."""

    @property
    def is_scored(self) -> bool:
        """Whether it was fitted to its end."""
        return self.score is not UNSCORED

    def describe(self) -> dict[str, Any]:
        """Return the row in JSON's types."""
        values = {name: value if isinstance(value, int | float) else str(value) for name, value in self.values.items()}
        flat = asdict(self) | {"status": self.status.value, "values": values}
        score: dict[str, Any] = flat.pop("score")
        return flat | (score if self.is_scored else dict.fromkeys(score))


def sort_rows(rows: Iterable[Row], metric: MetricName) -> list[Row]:
    """Sort the best first: by the metric, of equal ones by the lower loss, unfinished ones last."""

    def rank(row: Row) -> tuple[bool, float, float]:
        loss = math.inf if row.val_loss is None else row.val_loss
        return not row.is_scored, _measure_badness(row, metric) if row.is_scored else 0.0, loss

    return sorted(rows, key=rank)


def find_best(rows: Iterable[Row], metric: MetricName) -> Row | None:
    """Find the best head that was fitted to its end; None where there is none."""
    return next(iter(sort_rows((row for row in rows if row.status is Status.DONE), metric)), None)


def count_close(rows: Sequence[Row], best: Row, metric: MetricName) -> int:
    """Count the heads within one standard error of the best, itself among them: chance could have chosen any."""
    limit = _measure_badness(best, metric) + best.score.standard_error
    return sum(row.status is Status.DONE and _measure_badness(row, metric) <= limit for row in rows)


def shorten_paths(paths: Iterable[Path]) -> dict[Path, str]:
    """Name folders by as few of their last parts as distinguish them, which shows no more of a machine than needed."""
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


def _measure_badness(row: Row, metric: MetricName) -> float:
    return row.score.metric if metric is MetricName.VAL_LOSS else -row.score.metric
