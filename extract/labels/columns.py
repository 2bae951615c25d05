"""Choose the columns of a table: those that `--columns` names, and the others from the pictures and the values.

A column that is not certain is refused. The column of paths has the paths of pictures in the folder. The column of
labels is the only other one with few enough values, or the only one of these with a name such as "label". If all
possible columns are 0 and 1, each is that of one class.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from base.errors import HeadstartError, UsageError
from extract.images.split_folders import find_splits, has_unlabelled_name
from extract.labels.cells import NONE, find_separator, find_yes_no, split_cell
from extract.labels.match import Matches, PictureIndex, remove_extension
from extract.labels.table import Table

_KEYS = ("path", "label", "split", "separator")
_LABEL_WORDS = {"label", "labels", "class", "classes", "category", "categories", "target", "targets", "tag", "tags"}
_NUMBER = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=e))(e[+-]?\d+)?", re.IGNORECASE)
"""Number with decimals or an exponent."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?")
_SPLIT_WORDS = {"split", "subset", "partition"}
_YES_NO_SPLIT = re.compile(r"((is|in|for) )?(train|training|test|testing|val|valid|validation)( (image|img|set|data))?")
"""Words of the name of a column that has two values, such as `is_train` or `isTrainingImage`."""


@dataclass(frozen=True)
class ColumnOption:
    """Values of `--columns`; an empty value is detected."""

    path: str = ""
    labels: list[str] = field(default_factory=list)
    split: str = ""
    separator: str = ""


@dataclass(frozen=True)
class Columns:
    """Meaning of the columns of a table; columns are numbered from 0."""

    table: Table
    """The table, with its first row among the rows if the file has no header."""
    path: int
    matches: Matches
    """Pictures of the rows."""
    labels: list[int]
    """The column of labels, or several columns of 0 and 1, one for each class."""
    split: int | None
    separator: str
    """Separator of several labels in a cell; empty if each cell is one label."""


def parse_columns(text: str) -> ColumnOption:
    """Parse the value of `--columns`, such as `path=id,label=breed,split=fold,separator=;`.

    A value may contain a comma, unless one of the keys follows it. `label` may be given several times.

    Raises:
        UsageError: an unknown key, an empty value, or a key that is given twice.
    """
    found: dict[str, list[str]] = {key: [] for key in _KEYS}
    for part in re.split(rf",(?=(?:{'|'.join(_KEYS)})=)", text) if text else []:
        key, _, value = part.partition("=")
        if key not in _KEYS or not value or (found[key] and key != "label"):
            expected = "path=COLUMN, label=COLUMN, split=COLUMN and separator=TEXT, separated by commas"
            raise UsageError("--columns", expected, repr(part), "Give the name or the position of each column")
        found[key].append(value)
    path, split, separator = ("".join(found[key]) for key in ("path", "split", "separator"))
    return ColumnOption(path, found["label"], split, separator)


def find_columns(table: Table, text: str) -> list[int]:
    """Return the columns with a given name, position from 1, or range of positions such as `3-16`.

    Raises:
        UsageError: no column has this name or position, or several have this name.
    """
    named = [number for number, name in enumerate(table.names) if name == text]
    if len(named) == 1:
        return named
    if not named and (match := re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text)):
        first, last = int(match[1]), int(match[2] or match[1])
        if 1 <= first <= last <= len(table.names):
            return list(range(first - 1, last))
    expected = f"a column of {table.path}: {table.describe(range(len(table.names)))}"
    got = f"{len(named)} columns named {text!r}" if named else repr(text)
    raise UsageError("--columns", expected, got, "Give its name, or its position from 1")


def choose_columns(table: Table, index: PictureIndex, option: ColumnOption) -> Columns:
    """Choose the columns of paths, labels and splits.

    Args:
        table: the table as it was read.
        index: pictures of the folder.
        option: columns that the user named; the others are detected.

    Raises:
        UsageError: a named column does not exist.
        HeadstartError: a column cannot be found, or several columns are possible.
    """
    # A first row with the path of a picture, or with a label that also occurs below it, is not a header.
    if not table.is_header_certain and any(remove_extension(name) != name or index.find(name) for name in table.names):
        table = table.move_header_to_rows()
    if not table.num_rows:
        raise HeadstartError(table.path, "rows with paths and labels", "only a header", "Add a row for each picture")
    labels = sorted({number for value in option.labels for number in find_columns(table, value)})
    split = _find_one(table, option.split) if option.split not in ("", NONE) else None
    path, matches = _choose_path(table, index, _find_one(table, option.path) if option.path else None)
    if not option.split:
        split = _choose_split(table, {path, *labels})
    if not labels:
        labels = _choose_labels(table, [number for number in range(len(table.names)) if number not in (path, split)])
    if not table.is_header_certain and table.names[labels[0]] in table.columns[labels[0]]:
        return choose_columns(table.move_header_to_rows(), index, option)
    if split is None and option.split != NONE:
        unused = [number for number in range(len(table.names)) if number not in (path, *labels)]
        # `read_splits` refuses the values of this column. Without it, pictures for testing would be used for training.
        split = next((number for number in unused if _may_be_split(table, number)), None)
    chosen = [path, *labels, *([] if split is None else [split])]
    if len(set(chosen)) < len(chosen):
        expected, got = "different columns for path, label and split", f"only {table.describe(sorted(set(chosen)))}"
        raise UsageError("--columns", expected, got, "Give each column once")
    separator = find_separator(table, labels[0], option.separator) if len(labels) == 1 else ""
    return Columns(table, path, matches, labels, split, separator)


def _find_one(table: Table, text: str) -> int:
    numbers = find_columns(table, text)
    if len(numbers) > 1:
        advice = "Give the name or the position of one column"
        raise UsageError("--columns", "one column", f"the range {text!r}", advice)
    return numbers[0]


def _choose_path(table: Table, index: PictureIndex, given: int | None) -> tuple[int, Matches]:
    """Choose the column whose values fit the most pictures; columns of names with extensions are preferred."""
    candidates = list(range(len(table.names))) if given is None else [given]
    found = {number: index.match(table.columns[number]) for number in candidates}
    most = max(matches.num_found for matches in found.values())
    if not most:
        got = f"no such path in {table.describe(candidates)}; the folder has {index.paths[0]!r}"
        advice = "Give the folder of these pictures as --images, or another table"
        raise HeadstartError(table.path, f"paths or names of the pictures in {index.folder}", got, advice)
    # Small numbers, such as class numbers, also fit some pictures that are named by numbers.
    likely = [number for number in candidates if 2 * found[number].num_found > most]
    likely = [number for number in likely if _has_extensions(table.columns[number])] or likely
    best = max(likely, key=lambda number: found[number].num_found)
    for number in likely:
        pairs = zip(found[best].pictures, found[number].pictures, strict=True)
        if any(one != other for one, other in pairs if None not in (one, other)):
            raise _build_ambiguity(table, "path", likely)
    return best, found[best]


def _has_extensions(values: Sequence[str]) -> bool:
    shown = values[:100]
    return 2 * sum(remove_extension(value) != value for value in shown) > len(shown)


def _choose_split(table: Table, used: set[int]) -> int | None:
    """Choose the column that has the name of a split in each row; None if there is none."""
    candidates = [number for number in range(len(table.names)) if number not in used]
    distinct = {number: set(table.columns[number]) for number in candidates}
    found = [number for number in candidates if find_splits(distinct[number]).keys() == distinct[number]]
    if len(found) > 1:
        raise _build_ambiguity(table, "split", found)
    return found[0] if found else None


def _may_be_split(table: Table, number: int) -> bool:
    """Return whether a column is probably one of splits, with other values than their names, such as 0 and 1."""
    values, words = set(table.columns[number]), _split_words(table.names[number])
    if not 4 <= 2 * len(values) <= len(table.columns[number]):
        return False
    if set(words) & _SPLIT_WORDS or (len(values) == 2 and _YES_NO_SPLIT.fullmatch(" ".join(words))):
        return True
    found = find_splits(values)
    others = values - found.keys()
    return bool(found) and (len(found) >= len(others) or any(map(has_unlabelled_name, others)))


def _choose_labels(table: Table, others: Sequence[int]) -> list[int]:
    likely = [number for number in others if _may_be_labels(table.columns[number])]
    binary = {number: meanings for number in others if (meanings := _find_class(table.columns[number]))}
    # One column named "target" beside others of 0 and 1 is the label, and the others are properties.
    num_named = sum(_has_label_name(table, number) for number in binary)
    if len(binary) > 1 and binary.keys() >= set(likely) and num_named != 1:
        columns = [[meanings[value] for value in table.columns[number]] for number, meanings in binary.items()]
        # Two columns of 0 and 1 can also be two independent properties, unless exactly one of them is 1.
        if len(binary) > 2 or all(sum(row) == 1 for row in zip(*columns, strict=True)):
            return list(binary)
    groups = _group_equivalent(table, likely)
    named = [group for group in groups if any(_has_label_name(table, number) for number in group)]
    chosen = [group[0] for group in (named if len(named) == 1 else groups)]
    if len(chosen) == 1:
        return chosen
    if chosen:
        raise _build_ambiguity(table, "label", chosen)
    advice = (
        f"Give {table.format_option('label', others[-1])} to use this column" if others else "Add a column of labels"
    )
    got = f"a different value in most rows, one value, or decimals in {table.describe(others)}" if others else "none"
    raise HeadstartError(table.path, "a column with labels that several pictures have", got, advice)


def _may_be_labels(values: Sequence[str]) -> bool:
    """Return whether values can be classes: several, each of two or more pictures on average, without decimals."""
    distinct = set(values) - {""}
    num_labels = len({label for value in distinct for part in value.split("|") for label in split_cell(part, ";")})
    has_decimals = any(map(_NUMBER.fullmatch, distinct))
    if not has_decimals and any("," in value for value in distinct):
        has_decimals = all(map(_DECIMAL_COMMA.fullmatch, distinct))
    return len(distinct) > 1 and 2 * num_labels <= max(len(values), 4) and not has_decimals


def _find_class(values: Sequence[str]) -> dict[str, bool] | None:
    """Return the meaning of each value if a column can be that of one class; a class cannot have all pictures."""
    meanings = find_yes_no(values)
    return meanings if meanings and not all(meanings.values()) else None


def _group_equivalent(table: Table, likely: Sequence[int]) -> list[list[int]]:
    """Group the columns that divide the rows in the same way; class names before numbers, and "label" before others."""
    groups: list[list[int]] = []

    def rank(number: int) -> tuple[bool, bool]:
        return all(map(str.isdigit, set(table.columns[number]))), not _has_label_name(table, number)

    for number in sorted(likely, key=rank):
        column = table.columns[number]
        same = next((group for group in groups if _are_equivalent(table.columns[group[0]], column)), None)
        if same is None:
            groups.append([number])
        else:
            same.append(number)
    return sorted(groups)


def _are_equivalent(one: Sequence[str], other: Sequence[str]) -> bool:
    return len(set(zip(one, other, strict=True))) == len(set(one)) == len(set(other))


def _has_label_name(table: Table, number: int) -> bool:
    return not _LABEL_WORDS.isdisjoint(_split_words(table.names[number]))


def _split_words(name: str) -> list[str]:
    """Return the words of a column name, in lower case; `classLabel` and `class_label` have two."""
    return re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def _build_ambiguity(table: Table, key: str, numbers: Sequence[int]) -> HeadstartError:
    expected, got = f"one column that can be the {key}", f"{len(numbers)}: {table.describe(numbers)}"
    advice = f"Name the column, for example {table.format_option(key, numbers[0])}"
    return HeadstartError(table.path, expected, got, advice)
