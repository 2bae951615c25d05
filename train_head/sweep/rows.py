"""The rows of a sweep's table: one for each head and each baseline, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from train_head.sweep.config import MetricName
from train_head.sweep.score import UNSCORED, Score


class Status(StrEnum):
    """What became of a head."""

    DONE = "done"
    PRUNED = "pruned"
    """Given up, because others were better by then."""
    DIVERGED = "diverged"
    """Its loss became NaN or infinite."""
    BASELINE = "baseline"


@dataclass(frozen=True)
class Row:
    """A head, or a baseline, and what it came to."""

    name: str
    status: Status
    values: dict[str, Any]
    """Of each axis its value."""
    score: Score
    val_accuracy: float | None = None
    val_loss: float | None = None
    """Mean cross-entropy in nats, without the L2 term."""
    epochs: int = 0
    seconds: float = 0.0
    run: str = ""

    @property
    def is_scored(self) -> bool:
        """Whether it was fitted to its end."""
        return self.score is not UNSCORED

    def describe(self) -> dict[str, Any]:
        """Puts the row into JSON's types."""
        values = {name: value if isinstance(value, int | float) else str(value) for name, value in self.values.items()}
        flat = asdict(self) | {"status": self.status.value, "values": values}
        measured: dict[str, Any] = flat.pop("score")
        if not self.is_scored:
            measured = dict.fromkeys(measured)
        return {**flat, "metric": measured.pop("value"), **measured}


def sort_rows(rows: Sequence[Row], metric: MetricName) -> list[Row]:
    """Sorts the best first: by the metric, of equal ones by the lower loss, what was not finished last."""

    def rank(row: Row) -> tuple[bool, float, float]:
        loss = float("inf") if row.val_loss is None else row.val_loss
        return not row.is_scored, _measure_badness(row, metric) if row.is_scored else 0.0, loss

    return sorted(rows, key=rank)


def find_best(rows: Sequence[Row], metric: MetricName) -> Row | None:
    """Finds the best head that was fitted to its end; None where there is none."""
    done = [row for row in rows if row.status is Status.DONE]
    return sort_rows(done, metric)[0] if done else None


def count_close(rows: Sequence[Row], best: Row, metric: MetricName) -> int:
    """Counts the heads within one standard error of the best, itself among them: chance could have chosen any."""
    limit = _measure_badness(best, metric) + best.score.standard_error
    return sum(row.status is Status.DONE and _measure_badness(row, metric) <= limit for row in rows)


def allow_for_choice(rows: Sequence[Row], metric: MetricName, num_candidates: int) -> list[Row]:
    """Return the rows with intervals of the heads that hold all at once, and so for the best; baselines are as before.

    Args:
        rows: heads and baselines.
        metric: what was scored by.
        num_candidates: heads, counting each epoch, that the best could have been chosen from.
    """
    return [
        replace(row, score=row.score.allow_for_choice(metric, num_candidates)) if row.status is Status.DONE else row
        for row in rows
    ]


def shorten_paths(paths: Iterable[Path]) -> dict[Path, str]:
    """Name folders by as few of their last parts as set them apart, which shows no more of a machine than it must."""
    parts = {path: path.resolve().parts for path in paths}

    def count_needed(path: Path) -> int:
        others = {found for found in parts.values() if found != parts[path]}
        return next(
            (num for num in range(1, len(parts[path])) if all(o[-num:] != parts[path][-num:] for o in others)), 1
        )

    return {path: "/".join(parts[path][-count_needed(path) :]) for path in parts}


def join_rows(rows: Sequence[Row]) -> list[Row]:
    """Joins rows of the same head: the one that was fitted to its end, else the last."""
    by_name: dict[str, Row] = {}
    for row in rows:
        if row.name not in by_name or by_name[row.name].status is not Status.DONE:
            by_name[row.name] = row
    return list(by_name.values())


def _measure_badness(row: Row, metric: MetricName) -> float:
    return row.score.value if metric is MetricName.VAL_LOSS else -row.score.value
