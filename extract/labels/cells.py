"""Read the labels in the cells of a table: one, several with a separator, or one column of 0 and 1 for each class."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from base.errors import HeadstartError
from base.terminal import format_list
from extract.labels.table import Table

Labels = tuple[str, ...]
"""Labels of one picture, sorted."""
NONE = "none"
"""Value of `--columns` for no separator, or no column of splits."""
_YES_NO = {"0": False, "1": True, "false": False, "true": True}
_PLUS_MINUS = {"-1": False, "1": True}
_CERTAIN_SEPARATORS, _POSSIBLE_SEPARATORS = "|;", ", "


def split_cell(cell: str, separator: str) -> Labels:
    """Return the labels of a cell, sorted, in Unicode's form NFC, each once; none for an empty cell."""
    text = cell if cell.isascii() else unicodedata.normalize("NFC", cell)
    parts = text.split(separator) if separator else [text]
    return tuple(sorted({part.strip() for part in parts} - {""}))


def find_yes_no(values: Iterable[str]) -> dict[str, bool] | None:
    """Return the meaning of each value of a column for one class: 0 and 1, or false and true, or -1 and 1.

    Returns:
        None if there is another value, such as an empty cell, or -1 beside 0, which often means unknown.
    """
    distinct = set(values)
    for meanings in (_YES_NO, _PLUS_MINUS):
        if all(value.lower() in meanings for value in distinct):
            return {value: meanings[value.lower()] for value in distinct}
    return None


def find_separator(table: Table, number: int, given: str = "") -> str:
    """Return the separator of several labels in a cell; empty if each cell is one label.

    A bar or a semicolon always separates. A comma or a space separates if each part is also a whole cell, or a whole
    number. It belongs to the names if there are at least as many parts as different cells, as in "golden
    retriever".

    Args:
        table: the table.
        number: the column of labels.
        given: separator that the user gave; `none` for one label in each cell.

    Raises:
        HeadstartError: the values fit both readings.
    """
    if given:
        return "" if given == NONE else given
    distinct = set(table.columns[number]) - {""}
    for separator in _CERTAIN_SEPARATORS:
        if any(separator in cell for cell in distinct):
            return separator
    for separator in _POSSIBLE_SEPARATORS:
        several = sorted(cell for cell in distinct if separator in cell)
        parts = {part for cell in distinct for part in split_cell(cell, separator)}
        if not several or len(parts) > len(distinct):
            continue
        if parts <= distinct or all(part.isdigit() for part in parts):
            return separator
        if len(parts) < len(distinct):
            raise HeadstartError(
                table.path,
                f"one label in each cell of column {table.name(number)!r}, or several separated by | or ;",
                f"values such as {several[0]!r}",
                f"Give --columns 'separator={separator}' if it separates labels, or separator={NONE} if it does not",
            )
    return ""


def read_labels(table: Table, numbers: Sequence[int], separator: str) -> list[Labels | None]:
    """Return the labels of each row; None for an empty cell.

    Args:
        table: the table.
        numbers: the column of labels, or several columns of 0 and 1, whose names are the labels.
        separator: separator of several labels in a cell; empty if there is none.

    Raises:
        HeadstartError: one of several columns has another value than 0 and 1.
    """
    if len(numbers) == 1:
        cells = table.columns[numbers[0]]
        labels_of = {cell: split_cell(cell, separator) or None for cell in set(cells)}
        return [labels_of[cell] for cell in cells]
    rows: list[list[str]] = [[] for _ in range(table.num_rows)]
    for number in numbers:
        (label,) = split_cell(table.name(number), "")
        values = table.columns[number]
        meanings = find_yes_no(values)
        if meanings is None:
            expected = f"0 or 1 in column {table.name(number)!r}, because there are several columns of labels"
            got = format_list([repr(value) for value in sorted(set(values)) if value.lower() not in _YES_NO])
            advice = "Replace these values in the table, or give one column of labels"
            raise HeadstartError(table.path, expected, got, advice)
        for row, value in zip(rows, values, strict=True):
            if meanings[value]:
                row.append(label)
    return [tuple(sorted(row)) for row in rows]
