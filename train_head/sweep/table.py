"""Table of a sweep: a CSV file with all rows, and a summary with the best ones for the terminal."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from base.errors import HeadstartError
from base.files import read_regular_file, write_durably
from base.notebook import NUM_ROWS, render_table
from base.terminal import format_seconds
from train_head.evaluation.uncertainty import Interval
from train_head.runs.read import Run
from train_head.runs.record import BEST_FOLDER, TABLE_FILE
from train_head.runs.tables import format_csv
from train_head.sweep.config import ADVICE, MetricName
from train_head.sweep.rows import Row, Status, count_close, shorten_values, sort_rows

NUM_SHOWN = 10
MAX_TABLE_BYTES = 2**26
_FIRST = ("name", "status")
_SCORE = ("metric", "low", "high", "num_candidates", "standard_error", "num_fits", "std")
_REST = ("val_accuracy", "val_loss", "epochs", "seconds", "run")
_TEXTS = (*_FIRST, "run", "store", "cut", "unfreeze_from")


class Sweep:
    """Finished sweep on disk: its table and its best run."""

    def __init__(self, folder: Path) -> None:
        """Read the table of a sweep; raise HeadstartError if the folder does not contain one."""
        self.folder = folder
        self.rows: list[dict[str, Any]] = read_table(folder / TABLE_FILE)
        """Heads and baselines, best first; the values of each are numbers, text or None."""
        best = folder / BEST_FOLDER
        self._best = Run(best) if best.is_dir() else None

    @property
    def best(self) -> Run:
        """Best run, as of the time when the sweep was opened."""
        if self._best is None:
            raise HeadstartError(self.folder, "a sweep with a best run", "no best run", "Run the sweep again")
        return self._best

    def to_pandas(self) -> Any:
        """Return the rows as a `pandas.DataFrame`; raise HeadstartError if pandas is not installed."""
        try:
            pandas: Any = importlib.import_module("pandas")
        except ImportError as error:
            advice = "Run `pip install pandas`"
            raise HeadstartError("to_pandas", "the package pandas", "no installed package", advice) from error
        return pandas.DataFrame(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the rows."""
        return iter(self.rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __repr__(self) -> str:
        """Return the folder and the number of rows."""
        return f"Sweep({str(self.folder)!r}): {len(self)} rows"

    def _repr_html_(self) -> str:
        hidden = {"status", "num_candidates", "standard_error", "num_fits", "std", "epochs", "run"}
        names = [name for name in (self.rows[0] if self.rows else ()) if name not in hidden]
        shown = [[_show_cell(row[name]) for name in names] for row in self.rows[:NUM_ROWS]]
        return render_table(f"sweep {self.folder}", shown, names, len(self.rows) - len(shown))


def write_table(path: Path, rows: Sequence[Row], axes: Sequence[str]) -> None:
    """Write all rows as CSV with a column for each axis; shorten the paths of stores to their last parts."""
    stores = shorten_values(rows)
    table: list[list[object]] = [[*_FIRST, *axes, *_SCORE, *_REST]]
    for row in rows:
        values = {name: stores.get(value, value) for name, value in row.values.items()}
        found = row.describe()
        first, last = ([found[name] for name in names] for names in (_FIRST, (*_SCORE, *_REST)))
        # None is written as an empty cell.
        table.append([*first, *(values.get(axis) for axis in axes), *last])
    write_durably(path, format_csv(table))


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read a table that `write_table` wrote; raise HeadstartError if the file is missing or not a table."""
    try:
        text = read_regular_file(path, MAX_TABLE_BYTES).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise HeadstartError(path, "the table of a sweep", error.strerror or str(error), ADVICE) from error
    table = list(csv.reader(io.StringIO(text, newline="")))
    header = table[0] if table else []
    if (*header[:2], *header[-1:]) != (*_FIRST, "run"):
        raise HeadstartError(path, "the table of a sweep", "another kind of file", ADVICE)
    return [
        {name: cell if name in _TEXTS else _parse_cell(cell) for name, cell in zip(header, row, strict=False)}
        for row in table[1:]
    ]


def format_rows(rows: Sequence[Row], axes: Sequence[str], metric: MetricName) -> list[tuple[str, ...]]:
    """Format sorted rows for the terminal: a header, the best heads and the baselines."""
    heads = [row for row in rows if row.status is not Status.BASELINE]
    several = any(row.score.num_fits > 1 for row in heads)
    num = max((row.score.num_candidates for row in heads), default=1)
    interval = "95% interval" + (f", {num:,} candidates" if num > 1 else "")
    titles = ", ".join(axis.replace("_", " ") for axis in axes) or "head"
    stores = shorten_values(rows)
    shown = [("", titles, metric.value.removeprefix("val_") + (" ± std" if several else ""), interval, "loss", "time")]
    for number, row in enumerate(heads[:NUM_SHOWN], 1):
        # Values that the solver ignores are not listed.
        values = [row.values[axis] for axis in axes if axis in row.values]
        named = ", ".join(str(stores.get(value, value)) for value in values) or row.name
        shown.append((str(number), named, *_show_results(row)))
    if len(heads) > NUM_SHOWN:
        shown.append(("", f"… and {len(heads) - NUM_SHOWN} more", "", "", "", ""))
    return [*shown, *(("", row.name, *_show_results(row)) for row in rows if row.status is Status.BASELINE)]


def describe_best(rows: Sequence[Row], best: Row, metric: MetricName, choice: str) -> list[str]:
    """Describe the score of the best head and how it was chosen, and warn if a baseline is better.

    Args:
        rows: heads and baselines.
        best: the best head.
        metric: metric of the scores.
        choice: description of the selection, such as `the best of 24 heads`; empty if nothing was selected.
    """
    score, name = best.score, metric.value.replace("_", " ")
    found = [f"{name} {score.metric:.4f}, 95% interval {Interval(score.low, score.high).format()}"]
    if best.status is Status.BASELINE:
        found[0] = f"no head is better than the baseline {best.name}, which is kept as the best: {found[0]}"
    if choice:
        num_close, num_done = count_close(rows, best, metric), sum(row.can_be_kept for row in rows)
        found[0] += (
            f", for {choice}. This head was selected on the pictures that it is evaluated on, so its score is "
            "optimistically biased; the interval accounts for the selection. Heads within one standard error "
            f"({score.standard_error:.4f}) of the best, including it: {num_close} of {num_done}. Their order may be "
            "due to chance. Evaluate the head that you choose on the pictures in test/ (`report --test`)"
        )
    strongest = sort_rows([*(row for row in rows if row.status is Status.BASELINE), best], metric)[0]
    if strongest is not best:
        found.append(f"no head is better than the baseline {strongest.name}, {name} {strongest.score.metric:.4f}")
    return found


def _show_results(row: Row) -> tuple[str, str, str, str]:
    loss, time = "" if row.val_loss is None else f"{row.val_loss:.4f}", format_seconds(row.seconds)
    if not row.is_scored:
        return row.status.value, f"epoch {row.epochs}", loss, time
    spread = f" ± {row.score.std:.4f}" if row.score.num_fits > 1 else ""
    interval = Interval(row.score.low, row.score.high).format()
    return f"{row.score.metric:.4f}{spread}", interval, loss, time


def _show_cell(cell: object) -> str:
    return "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _parse_cell(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None
