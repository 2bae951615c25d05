"""The table of a sweep: as a file with every row, and on the console with the best."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from base.files import write_durably
from base.terminal import format_seconds
from train_head.evaluation.uncertainty import Interval
from train_head.sweep.config import MetricName
from train_head.sweep.rows import Row, Status, count_close, shorten_paths

NUM_SHOWN = 10
_SCORE = ("metric", "low", "high", "num_candidates", "standard_error", "num_fits", "std")
_REST = ("val_accuracy", "val_loss", "epochs", "seconds", "run")


def write_table(path: Path, rows: Sequence[Row], axes: Sequence[str]) -> None:
    """Writes all rows as CSV, in their order.

    The table may be passed on: runs are named as seen from its folder, and stores by their last parts.

    Args:
        path: the file; replaced when the new one is whole.
        rows: heads and baselines; low and high are the 95 % interval, which allows for the choice among num_candidates.
        axes: whose values get a column each.
    """
    stores = shorten_paths(value for row in rows for value in row.values.values() if isinstance(value, Path))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["name", "status", *axes, *_SCORE, *_REST])
    for row in rows:
        found = row.describe()
        values = {name: stores.get(value, value) for name, value in row.values.items()}
        found["run"] = _show_place(row.run, path.parent)
        cells = [*(values.get(axis, "") for axis in axes), *(found[name] for name in (*_SCORE, *_REST))]
        writer.writerow([row.name, row.status.value, *("" if cell is None else cell for cell in cells)])
    write_durably(path, text.getvalue().encode("utf-8", "surrogateescape"))


def list_shown(rows: Sequence[Row], axes: Sequence[str], metric: MetricName) -> list[tuple[str, ...]]:
    """Lists what the console shows: a header, the best heads, and the baselines.

    Args:
        rows: sorted.
        axes: whose values get a column each.
        metric: what was sorted by.
    """
    heads = [row for row in rows if row.status is not Status.BASELINE]
    baselines = [row for row in rows if row.status is Status.BASELINE]
    several = any(row.score.num_fits > 1 for row in heads)
    num = max((row.score.num_candidates for row in heads), default=1)
    interval = "95 % interval" if num == 1 else f"95 %, {num:,} at once"
    titles = ", ".join(axis.replace("_", " ") for axis in axes) or "head"
    stores = shorten_paths(value for row in rows for value in row.values.values() if isinstance(value, Path))
    value = metric.value.removeprefix("val_") + (" ± std" if several else "")
    shown = [("", titles, value, interval, "loss", "time")]
    for number, row in enumerate(heads[:NUM_SHOWN], 1):
        named = ", ".join(str(stores.get(row.values[axis], row.values[axis])) for axis in axes) or row.name
        shown.append((str(number), named, *_show_measured(row)))
    if len(heads) > NUM_SHOWN:
        shown.append(("", f"… and {len(heads) - NUM_SHOWN} more", "", "", "", ""))
    return [*shown, *(("", row.name, *_show_measured(row)) for row in baselines)]


def describe_best(rows: Sequence[Row], best: Row, metric: MetricName, choice: str) -> str:
    """Describe the best head's score, what it was chosen from, and what that means.

    Args:
        rows: heads and baselines.
        best: one of the heads.
        metric: what was scored by.
        choice: `the best of 24 heads`; empty where there was no choice.
    """
    score, name = best.score, metric.value.replace("_", " ")
    close = count_close(rows, best, metric)
    num_done = sum(row.status is Status.DONE for row in rows)
    words = f"{name} {score.value:.4f}, 95 % interval {Interval(score.low, score.high).format()}"
    if not choice:
        return words
    return (
        f"{words}: {choice}, chosen by the pictures that it is judged by. The number is optimistically biased; the "
        f"interval allows for the choice. {close} of {num_done} heads lie within one standard error "
        f"({score.standard_error:.4f}) of it: which of them is first is chance. Judge the head that you keep on "
        "pictures in test/ (make report TEST=1)"
    )


def _show_measured(row: Row) -> tuple[str, str, str, str]:
    loss = "" if row.val_loss is None else f"{row.val_loss:.4f}"
    time = format_seconds(row.seconds)
    if not row.is_scored:
        return row.status.value, f"epoch {row.epochs}", loss, time
    score = row.score
    spread = f" ± {score.std:.4f}" if score.num_fits > 1 else ""
    return f"{score.value:.4f}{spread}", Interval(score.low, score.high).format(), loss, time


def _show_place(run: str, folder: Path) -> str:
    """Name a run as seen from the table's folder; by its last part where that would be an absolute path."""
    place = Path(run)
    if run and place.is_relative_to(folder):
        return str(place.relative_to(folder))
    return place.name if place.is_absolute() else run
