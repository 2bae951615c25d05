"""Read a table of labels: CSV, TSV or Parquet, as columns of text."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from base.errors import HeadstartError, UsageError, require_extra
from base.places.open import read_file
from base.regular import RegularFile
from base.terminal import format_list
from base.urls import Location, UrlPath

LIST_SEPARATOR = "|"
"""Separator of the elements of a list in a cell."""
DELIMITERS = "\t,; "
_DELIMITER_NAMES = {"\t": "tab", " ": "space"}
_NUM_SNIFFED = 100
"""Number of first lines that decide the delimiter."""
_MAX_BYTES, _MAX_ROWS = 2**30, 10_000_000
_PARQUET_MAGIC = b"PAR1"
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0+")
_TEXT = re.compile(r"'[^']*'|\"[^\"]*\"")
_TEXT_LIST = re.compile(rf"\[\s*+(?:(?:{_TEXT.pattern})\s*+,?\s*+)*+\]")
_SAVE, _SHORTEN = "Save the table as CSV in UTF-8", "Keep only the rows and columns needed"


@dataclass(frozen=True)
class Table:
    """Table of text, without conversion of its values; an empty cell is an empty text."""

    path: Path
    sha256: str
    """Digest of the file."""
    names: list[str]
    """Names of the columns. Those of a text file are its first row, which may be one of values."""
    columns: list[list[str]]
    """Values of each column."""
    is_header_certain: bool = False
    """Whether the names cannot be a row of values, as in Parquet."""

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.columns[0])

    def name(self, number: int) -> str:
        """Return the name of a column, or its position from 1 if the name is empty or not unique."""
        name = self.names[number]
        return name if name and self.names.count(name) == 1 else f"{number + 1}"

    def describe(self, numbers: Sequence[int]) -> str:
        """List columns with some of their values, for messages."""
        parts = []
        for number in numbers:
            values = sorted(set(self.columns[number][:_NUM_SNIFFED]))[:3]
            parts.append(f"{self.name(number)!r} ({', '.join(map(repr, values))})")
        return format_list(parts)

    def format_option(self, key: str, number: int) -> str:
        """Return the option `--columns` with a column, quoted for a shell."""
        return f"--columns {shlex.quote(f'{key}={self.name(number)}')}"

    def move_header_to_rows(self) -> Table:
        """Return the table of a file without a header: the names become the first row."""
        columns = [[name, *column] for name, column in zip(self.names, self.columns, strict=True)]
        return replace(self, names=[""] * len(self.names), columns=columns, is_header_certain=True)


def read_table(path: Location) -> Table:
    """Read a table. Parquet files are recognised by their content; all others are read as text.

    Raises:
        UsageError: the file cannot be read, or is a Parquet file without the package that reads it.
        HeadstartError: the file is not a table with at least two columns and one row.
    """
    data = _read_bytes(path)
    if isinstance(path, UrlPath):
        path = Path(path.name)
    sha256 = hashlib.sha256(data).hexdigest()
    if data.startswith(_PARQUET_MAGIC):
        names, columns = _read_parquet(path, data)
    else:
        names, columns = _read_text(path, data)
    columns = [_drop_decimals(_join_lists(column)) for column in columns]
    if len(names) < 2:
        advice = "Separate the columns by commas, semicolons or tabs"
        raise HeadstartError(path, "a column of paths and a column of labels", "one column", advice)
    return Table(path, sha256, names, columns, is_header_certain=data.startswith(_PARQUET_MAGIC))


def _read_bytes(path: Location) -> bytes:
    try:
        if isinstance(path, UrlPath):
            return read_file(path, _MAX_BYTES)
        with RegularFile(path, follow=True) as file:
            num_bytes = file.identity.num_bytes
            data = file.readall() if num_bytes <= _MAX_BYTES else b""
    except OSError as error:
        got = error.strerror or str(error)
        raise UsageError(path, "a table of labels", got, "Give the path of a CSV, TSV or Parquet file") from error
    if num_bytes > _MAX_BYTES:
        raise HeadstartError(path, f"at most {_MAX_BYTES:,} bytes", f"{num_bytes:,}", _SHORTEN)
    return data


def _read_text(path: Path, data: bytes) -> tuple[list[str], list[list[str]]]:
    text = _decode(path, data)
    if not text.strip():
        raise HeadstartError(path, "a table of labels", "an empty file", "Give another table")
    delimiter = _find_delimiter(text, path.suffix.lower())
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        # Excel writes rows of separators below a table whose last rows were cleared.
        rows = [row for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise HeadstartError(path, "a table in CSV format", str(error), "Check the quotes in the table") from error
    if not rows:
        raise HeadstartError(path, "a table of labels", "only separators", "Give another table")
    width = len(rows[0])
    if other := next(((number, row) for number, row in enumerate(rows, 1) if len(row) != width), None):
        number, row = other
        name = _DELIMITER_NAMES.get(delimiter, delimiter)
        expected = f"{width} values in each row, separated by {name!r}"
        advice = "Put quotes around values that contain the separator"
        raise HeadstartError(path, expected, f"{len(row)} in row {number:,}, which begins with {row[0]!r}", advice)
    columns = [list(map(str.strip, column)) for column in zip(*rows[1:], strict=True)]
    return [name.strip() for name in rows[0]], columns or [[] for _ in rows[0]]


def _decode(path: Path, data: bytes) -> str:
    encoding = next((encoding for mark, encoding in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        got = f"the byte 0x{data[error.start]:02x} in line {row:,}"
        raise HeadstartError(path, f"text in {encoding.upper()}", got, _SAVE) from error
    if "\0" in text:
        raise HeadstartError(path, "a CSV, TSV or Parquet file", "a binary file or text with NUL bytes", _SAVE)
    return text


def _find_delimiter(text: str, extension: str) -> str:
    """Return the delimiter that divides the first lines into the same number of columns, at least two."""
    if extension == ".tsv":
        return "\t"
    lines = list(islice(io.StringIO(text, newline=""), _NUM_SNIFFED))
    for delimiter in DELIMITERS:
        widths = {len(row) for row in csv.reader(lines, delimiter=delimiter) if row}
        if len(widths) == 1 and widths != {1}:
            return delimiter
    # The rows have different lengths. The error names the delimiter of the header.
    return max(DELIMITERS[:-1], key=lines[0].count)


def _read_parquet(path: Path, data: bytes) -> tuple[list[str], list[list[str]]]:
    require_extra("pyarrow", str(path), f"extract LABELS={path}", "parquet")
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(data))
        if file.metadata.num_rows > _MAX_ROWS:
            raise HeadstartError(path, f"at most {_MAX_ROWS:,} rows", f"{file.metadata.num_rows:,}", _SHORTEN)
        # Pictures and other structures cannot be labels; they are not read.
        names = [column.name for column in file.schema_arrow if not _is_structure(column.type)]
        table = file.read(columns=names)
        columns = [[_format_cell(value) for value in column.to_pylist()] for column in table.columns]
        return [name.strip() for name in table.column_names], columns
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        got = str(error).partition("\n")[0]
        raise HeadstartError(path, "a Parquet file", got, "Write the table again, or save it as CSV") from error


def _is_structure(kind: Any) -> bool:
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    scalar = kind.value_type if is_list else kind
    return bool(types.is_nested(scalar) or types.is_binary(scalar) or types.is_large_binary(scalar))


def _format_cell(value: object) -> str:
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return ""
    if isinstance(value, list):
        return LIST_SEPARATOR.join(map(_format_cell, value))
    return str(value).strip()


def _join_lists(column: list[str]) -> list[str]:
    """Write `['a', 'b']` as `a|b` if all values of a column are such lists, as pandas writes lists of texts."""
    if not all(value.startswith("[") for value in islice(column, _NUM_SNIFFED) if value):
        return column
    if not all(_TEXT_LIST.fullmatch(value) for value in column if value):
        return column
    return [LIST_SEPARATOR.join(found[1:-1] for found in _TEXT.findall(value)) for value in column]


def _drop_decimals(column: list[str]) -> list[str]:
    """Write 1.0 as 1 if all values of a column are whole numbers, as pandas writes whole numbers beside empty cells."""
    if not any(value.endswith(".0") for value in islice(column, _NUM_SNIFFED)):
        return column
    matches = [_WHOLE_NUMBER.fullmatch(value) for value in column]
    if not all(match or not value or value.isdigit() for match, value in zip(matches, column, strict=True)):
        return column
    return [match[1] if match else value for match, value in zip(matches, column, strict=True)]
