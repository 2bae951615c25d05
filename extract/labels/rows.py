"""Find the row and the split of each picture, and refuse rows that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from base.errors import HeadstartError
from base.terminal import format_count, format_list
from base.urls import Location
from extract.images.split_folders import find_splits
from extract.labels.cells import Labels
from extract.labels.columns import Columns
from extract.labels.match import PictureIndex
from features.catalog.tables import ImageRow
from features.labels import LABEL_SEPARATOR


def check_matches(columns: Columns, index: PictureIndex, *, is_path_given: bool) -> None:
    """Refuse rows that fit several pictures, and a table of which fewer than half of rows and pictures fit."""
    table, matches = columns.table, columns.matches
    if matches.ambiguous:
        shown = [f"{value!r} ({format_list(paths)})" for value, paths in sorted(matches.ambiguous.items())]
        got = f"{format_count(len(shown), 'path')} that fit several: {format_list(shown)}"
        folders = {path.rpartition("/")[0] for path in next(iter(matches.ambiguous.values()))}
        advice = "Give the paths in the table with their extensions"
        if len(folders) > 1:
            # A table without folders is usually that of the training pictures.
            likely = min(folders, key=lambda folder: (not find_splits([folder.rpartition("/")[2]]), folder))
            advice = f"Give one folder as --images, such as {index.folder / likely}, or the folders in the table"
        raise HeadstartError(table.path, "paths that fit one picture each", got, advice)
    num_found, num_pictures = matches.num_found, len(index.paths)
    if not is_path_given and 2 * num_found < min(table.num_rows, num_pictures):
        got = f"{num_found:,} of {num_pictures:,} pictures in {format_count(table.num_rows, 'row')}"
        name = table.name(columns.path)
        advice = f"Give {table.format_option('path', columns.path)} to use them, or another table or folder"
        expected = f"most rows or most pictures of {index.folder} to fit by column {name!r}"
        raise HeadstartError(table.path, expected, got, advice)


def read_splits(columns: Columns) -> list[str]:
    """Return the split of each row; an empty list without a column of splits."""
    if columns.split is None:
        return []
    values = columns.table.columns[columns.split]
    split_of = find_splits(set(values))
    if unknown := sorted(set(values) - split_of.keys()):
        expected = f"train, and validation or test, in column {columns.table.name(columns.split)!r}"
        advice = "Replace these values in the table, or ignore the column with --columns split=none"
        raise HeadstartError(columns.table.path, expected, format_list([repr(value) for value in unknown]), advice)
    return [split_of[value] for value in values]


def find_rows(
    columns: Columns, index: PictureIndex, labels: Sequence[Labels | None], splits: Sequence[str]
) -> tuple[dict[int, int], list[int]]:
    """Return the row of each picture, and the pictures with several equal rows.

    Raises:
        HeadstartError: rows of one picture have different labels or splits.
    """
    row_of: dict[int, int] = {}
    repeated: set[int] = set()
    contradicting: set[int] = set()
    for row, number in enumerate(columns.matches.pictures):
        if number is None:
            continue
        first = row_of.setdefault(number, row)
        if first != row:
            same = labels[first] == labels[row] and (not splits or splits[first] == splits[row])
            (repeated if same else contradicting).add(number)
    if contradicting:
        texts: dict[int, set[str]] = {number: set() for number in sorted(contradicting)}
        for row, number in enumerate(columns.matches.pictures):
            if number in texts:
                texts[number].add(" ".join(filter(None, [*(labels[row] or ("no label",)), *splits[row : row + 1]])))
        shown = [f"{index.paths[number]} ({', '.join(sorted(found))})" for number, found in texts.items()]
        raise HeadstartError(
            columns.table.path,
            f"one label{' and one split' if splits else ''} for each picture",
            f"{format_count(len(shown), 'picture')} with different rows: {format_list(shown)}",
            "Correct the table, or put several labels of a picture into one row, separated by |",
        )
    return row_of, sorted(repeated)


def check_names(table: Path, labels: Sequence[Labels | None]) -> None:
    """Refuse names of classes that contain the separator of the labels in the store."""
    names = {label for row in labels for label in row or ()}
    if bad := sorted(name for name in names if LABEL_SEPARATOR in name):
        expected = f"names of classes without {LABEL_SEPARATOR!r}, which separates the labels of a picture in the store"
        raise HeadstartError(table, expected, format_list([repr(name) for name in bad]), "Rename them in the table")


def find_folder_splits(paths: Sequence[str]) -> list[str]:
    """Return the split of each picture from the first folder in which their paths differ; empty text without splits."""
    folders = [path.split("/")[:-1] for path in paths]
    first, last = min(folders), max(folders)
    depth = next(
        (depth for depth, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(last)),
    )
    names = [folder[depth] if len(folder) > depth else "" for folder in folders]
    split_of = find_splits(set(names))
    return [split_of.get(name, "") for name in names]


def check_split_folders(folder: Location, images: Sequence[ImageRow]) -> None:
    """Refuse labelled pictures of which only some are in the folder of a split."""
    outside = [image.path for image in images if not image.split]
    if outside and len(outside) < len(images):
        inside = next(image for image in images if image.split)
        raise HeadstartError(
            folder,
            "all labelled pictures in folders of splits, or none",
            f"{inside.path} in {inside.split}, and {len(outside):,} outside: {format_list(outside)}",
            "Move them, or add a column to the table that has train, validation or test in each row",
        )
