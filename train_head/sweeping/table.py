"""The table of a sweep: as a file with every row, and on the console with the best."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from features.console import format_seconds
from features.durable import write_durably
from train_head.sweeping.config import MetricName
from train_head.sweeping.rows import Row, Status

NUM_SHOWN = 10
_SCORE = ("metric", "low", "high", "standard_error", "num_fits")
_REST = ("val_accuracy", "val_loss", "epochs", "seconds", "run")


def write_table(path: Path, rows: Sequence[Row], axes: Sequence[str]) -> None:
    """Writes all rows as CSV, in their order.

    Args:
        path: the file; replaced when the new one is whole.
        rows: heads and baselines.
        axes: whose values get a column each.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["name", "status", *axes, *_SCORE, *_REST])
    for row in rows:
        found = row.describe()
        values = found.pop("values")
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
    spread = "± std" if any(row.score.num_fits > 1 for row in heads) else "95 %"
    titles = ", ".join(axis.replace("_", " ") for axis in axes) or "head"
    shown = [("", titles, metric.value.removeprefix("val_"), spread, "loss", "time")]
    for number, row in enumerate(heads[:NUM_SHOWN], 1):
        named = ", ".join(str(row.values[axis]) for axis in axes) or row.name
        shown.append((str(number), named, *_show_measured(row)))
    if len(heads) > NUM_SHOWN:
        shown.append(("", f"… and {len(heads) - NUM_SHOWN} more", "", "", "", ""))
    return [*shown, *(("", row.name, *_show_measured(row)) for row in baselines)]


def _show_measured(row: Row) -> tuple[str, str, str, str]:
    loss = "" if row.val_loss is None else f"{row.val_loss:.4f}"
    time = format_seconds(row.seconds)
    if not row.is_scored:
        return row.status.value, f"epoch {row.epochs}", loss, time
    score = row.score
    several, interval = f"± {score.high - score.value:.4f}", f"{score.low:.4f}–{score.high:.4f}"
    return f"{score.value:.4f}", several if score.num_fits > 1 else interval, loss, time
