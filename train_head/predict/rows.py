"""Write predictions as lines of CSV or JSON while others are still computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from base.errors import UsageError
from base.files import atomic_file
from base.regular import RegularFile
from base.replace import hold_target
from base.signals import defer_interrupt
from base.target import Target
from base.terminal import make_json
from train_head.predict.config import PredictConfig, RowFormat
from train_head.predict.prediction import Prediction
from train_head.runs.card import ModelCard
from train_head.runs.tables import format_csv

_COLUMNS = ("image", "label", "probability", "margin", "is_unsure")
_OUTLIER_COLUMNS = ("distance", "is_outlier")
_STARTS = {RowFormat.CSV: b"image,label,probability,", RowFormat.JSONL: b'{"image": "'}
"""First bytes of every file of predictions; by them, a file is recognized as written by this command."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters with which a cell begins that a spreadsheet evaluates as a formula. Source: OWASP, "CSV Injection"."""

Write = Callable[[Sequence[Prediction]], None]


class RowWriter:
    """Writer of one line for each prediction, and of the names of the columns first."""

    def __init__(self, file: BinaryIO, row_format: RowFormat, card: ModelCard) -> None:
        """Write the names of the columns, if the format has them.

        Args:
            file: file to write; it is flushed after each batch.
            row_format: CSV or lines of JSON.
            card: card of the model.
        """
        self._file, self._format, self._card = file, row_format, card
        self._outlier_columns = _OUTLIER_COLUMNS if card.outlier_threshold is not None else ()
        if row_format is RowFormat.CSV:
            shares = [f"p({label})" for label in card.classes]
            self._put(format_csv([[*_COLUMNS, *self._outlier_columns, *shares]]))

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Write the lines of some predictions."""
        if self._format is RowFormat.CSV:
            self._put(format_csv(map(self._list_cells, predictions)))
            return
        lines = (each.to_json(is_multi_label=self._card.is_multi_label) for each in predictions)
        self._put("".join(json.dumps(make_json(line), allow_nan=False) + "\n" for line in lines).encode())

    def _list_cells(self, found: Prediction) -> Iterator[str]:
        yield protect_path(str(found.image))
        yield protect_label(found.label)
        yield f"{found.probability:.9g}"
        yield f"{found.margin:.9g}"
        yield str(found.is_unsure).lower()
        if self._outlier_columns:
            yield "" if found.distance is None else f"{found.distance:.9g}"
            yield str(found.is_outlier).lower()
        for share in found.row:
            yield f"{share:.9g}"

    def _put(self, data: bytes) -> None:
        # An interrupt between two parts of the data would leave half a line.
        with defer_interrupt():
            self._file.write(data)
            self._file.flush()


def protect_path(path: str) -> str:
    """Return a path that a spreadsheet does not evaluate as a formula: `=1.jpg` becomes `./=1.jpg`, the same file."""
    return f"./{path}" if path.startswith(_FORMULA) else path


def protect_label(label: str) -> str:
    """Return a label that a spreadsheet does not evaluate as a formula: an apostrophe marks it as text."""
    return f"'{label}" if label.startswith(_FORMULA) else label


def choose_row_format(config: PredictConfig) -> RowFormat:
    """Return the format of the predictions.

    Raises:
        UsageError: a file whose extension shows no format, a table in a file, or a file that is a folder or that this
            command did not write.
    """
    if not config.out:
        return config.output_format or RowFormat.TABLE
    out = Path(config.out)
    by_extension = {f".{each}": each for each in (RowFormat.CSV, RowFormat.JSONL)}
    found = config.output_format or by_extension.get(out.suffix.lower())
    if found is None:
        advice = "Change the extension, or give --output-format"
        raise UsageError(out, "a file name with the extension .csv or .jsonl", repr(out.suffix), advice)
    if found is RowFormat.TABLE:
        raise UsageError("--output-format", "csv or jsonl for a file", "table", "Give csv or jsonl, or leave --out out")
    if not out.parent.is_dir():
        raise UsageError(out, "a file in an existing folder", f"no folder {out.parent}", "Create the folder")
    _refuse_foreign_file(out, found)
    return found


@contextmanager
def open_rows(out: Path, row_format: RowFormat, card: ModelCard) -> Iterator[Write]:
    """Open a file of predictions, which appears when the block is complete.

    Raises:
        TargetLockedError: another command is writing the file.
        HeadstartError: the file is not one of this command.
        OSError: the file cannot be written.
    """

    def check(_: Path) -> None:
        _refuse_foreign_file(out, row_format)

    with hold_target(Target(out, {}, check, "`out`")):
        _refuse_foreign_file(out, row_format)
        with atomic_file(out) as file:
            yield RowWriter(file, row_format, card).write


def _refuse_foreign_file(out: Path, row_format: RowFormat) -> None:
    """Raise UsageError unless a path is free, or a file that this command wrote, or an empty file."""
    advice = "Move it, or give another `out`"
    try:
        with RegularFile(out) as file:
            start = file.read(max(map(len, _STARTS.values())))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(out, "a new file, or one with predictions", error.strerror or str(error), advice) from error
    if start and not start.startswith(_STARTS[row_format]):
        raise UsageError(out, f"a new file, or one with predictions in {row_format}", "another file", advice)
