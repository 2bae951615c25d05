"""Table of a sweep: a CSV file with all rows, and a summary with the best ones for the terminal."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from base.errors import HeadstartError
from base.files import read_regular_file, write_durably
from base.notebook import NUM_ROWS, render_table
from base.terminal import format_seconds
from train_head.config import SolverName
from train_head.evaluation.uncertainty import Interval
from train_head.runs.read import Run
from train_head.runs.record import BEST_FOLDER, TABLE_FILE
from train_head.runs.tables import format_csv
from train_head.sweep.config import ADVICE, MetricName
from train_head.sweep.rows import Row, Status, count_close, find_best, shorten_values, sort_rows

NUM_SHOWN = 10
MAX_TABLE_BYTES = 2**26
_FIRST = ("name", "status")
_SCORE = ("metric", "low", "high", "num_candidates", "standard_error", "num_fits", "std")
_REST = ("val_accuracy", "val_loss", "epochs", "seconds", "run")
_GUIDE = "docs/how-to/choosing.md, section Uncertainty of the best head"
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
        """Return the rows as a `pandas.DataFrame`; raise HeadstartError if pandas is not installed.

        The column `is_best` marks the best row. `interval_low` and `interval_high` are the 95% interval that accounts
        for the choice among `num_candidates`. `metric` is left out if it equals the accuracy or the loss.
        """
        try:
            pandas: Any = importlib.import_module("pandas")
        except ImportError as error:
            advice = "Run `pip install pandas`"
            raise HeadstartError("to_pandas", "the package pandas", "no installed package", advice) from error
        names = {"low": "interval_low", "high": "interval_high"}
        best, hidden = self._find_best(), self._list_duplicates()
        rows = [
            {names.get(name, name): value for name, value in row.items() if name not in hidden}
            | {"is_best": row is best}
            for row in self.rows
        ]
        return pandas.DataFrame(rows)

    def _find_best(self) -> dict[str, Any] | None:
        """Return the first row that has a run and was fitted to the end."""
        kept = {Status.DONE.value, Status.BASELINE.value}
        return next((row for row in self.rows if row["run"] and row["status"] in kept), None)

    def _list_duplicates(self) -> set[str]:
        """Return the column of the metric if it repeats that of the accuracy or of the loss."""
        scored = [row for row in self.rows if row["metric"] is not None]
        is_repeated = any(all(row["metric"] == row[name] for row in scored) for name in ("val_accuracy", "val_loss"))
        return {"metric"} if is_repeated else set()

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
        best = self._find_best()
        hidden = {"name", "status", *_SCORE, *_REST} - ({"metric"} - self._list_duplicates())
        names = [name for name in (self.rows[0] if self.rows else ()) if name not in hidden]
        header = ["head", "", *names, "val_accuracy", _name_interval(self.rows), "val_loss", "seconds"]
        rows = [
            [
                _name_head(row["name"], is_baseline=row["status"] == Status.BASELINE),
                "best" if row is best else row["status"] if row["status"] != Status.DONE else "",
                *(_show_mean(row) if name == "metric" else _show_cell(row[name]) for name in names),
                _show_share(row["val_accuracy"]),
                "" if row["low"] is None else Interval(row["low"], row["high"]).format(),
                _show_share(row["val_loss"]),
                f"{row['seconds']:.1f}",
            ]
            for row in self.rows[:NUM_ROWS]
        ]
        return render_table(f"sweep {self.folder}", rows, header, len(self.rows) - len(rows))


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
    best = find_best(rows, metric)
    titles = ", ".join(axis.replace("_", " ") for axis in axes) or "head"
    stores = shorten_values(rows)
    interval = _name_interval([row.describe() for row in heads])
    shown = [("", titles, metric.value.removeprefix("val_") + (" ± std" if several else ""), interval, "loss", "time")]
    for number, row in enumerate(heads[:NUM_SHOWN], 1):
        # Values that the solver ignores are not listed.
        values = [row.values[axis] for axis in axes if axis in row.values]
        named = ", ".join(str(stores.get(value, value)) for value in values) or row.name
        shown.append(("best" if row is best else str(number), named, *_show_results(row)))
    if len(heads) > NUM_SHOWN:
        shown.append(("", f"… and {len(heads) - NUM_SHOWN} more", "", "", "", ""))
    baselines = [row for row in rows if row.status is Status.BASELINE]
    names = [("best" if row is best else "", _name_head(row.name, is_baseline=True)) for row in baselines]
    return [*shown, *((*name, *_show_results(row)) for name, row in zip(names, baselines, strict=True))]


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
            f", which accounts for the choice of {choice} on these pictures. {num_close} of {num_done} heads are "
            f"within one standard error ({score.standard_error:.4f}) of it, so their order may be due to chance: "
            f"see {_GUIDE}"
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


def _name_interval(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the title of the intervals: those of the best of several candidates are wider."""
    num = max((row["num_candidates"] or 1 for row in rows), default=1)
    return "95% interval" + (f" for the best of {num:,} candidates" if num > 1 else "")


def _name_head(name: str, *, is_baseline: bool) -> str:
    is_ridge = is_baseline and name.partition(",")[0] == SolverName.RIDGE
    return f"{name} (linear head, least squares)" if is_ridge else name


def _show_mean(row: Mapping[str, Any]) -> str:
    spread = f" ± {row['std']:.4f}" if (row["num_fits"] or 1) > 1 else ""
    return f"{_show_share(row['metric'])}{spread}"


def _show_share(cell: float | None) -> str:
    return "" if cell is None else f"{cell:.4f}"


def _show_cell(cell: object) -> str:
    return "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _parse_cell(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None
