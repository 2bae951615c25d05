"""Scan a folder whose pictures have their labels in a table."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from base.errors import HeadstartError
from base.places.open import open_place
from base.urls import Location, UrlPath
from extract.images.places import list_location
from extract.images.scan import Scan, require_folder
from extract.images.walk import Listing, PictureFile, Skipped
from extract.labels.cells import read_labels
from extract.labels.columns import Columns, choose_columns, parse_columns
from extract.labels.match import PictureIndex
from extract.labels.rows import (
    check_matches,
    check_names,
    check_split_folders,
    find_folder_splits,
    find_rows,
    read_splits,
)
from extract.labels.summary import TableLabels
from extract.labels.table import Table, read_table
from extract.labels.tar_shards import is_label_file, read_shard_labels
from features.catalog.tables import ImageRow
from features.contents import pause_collector
from features.labels import LabelSource, join_labels


def scan_labeled(
    folder: Location, table: Location, columns: str = "", stores: Collection[Path] = (), known: Collection[str] = ()
) -> Scan:
    """Scan a folder whose labels are in a table. The layout of the folder does not matter, except for its splits.

    Args:
        folder: the folder of pictures.
        table: CSV, TSV or Parquet file.
        columns: value of `--columns`.
        stores: folders of feature stores, which need not exist yet; listed as skipped if they are inside `folder`.
        known: relative paths of pictures that are used even if no decoder for their extension is installed.

    Raises:
        UsageError: the folder does not exist, the table cannot be read, or a column in `columns` does not exist.
        HeadstartError: see `label_pictures`; or only one class.
    """
    require_folder(folder)
    listing = list_location(folder, stores, known)
    if isinstance(table, Path) and isinstance(folder, Path):
        own = os.path.relpath(table.resolve(), folder.resolve())
        listing.skipped[:] = [found for found in listing.skipped if found.path != own]
    return _label_listing(folder, listing, read_table(table), columns)


def scan_shards(folder: UrlPath, columns: str = "", known: Collection[str] = ()) -> Scan | None:
    """Scan shards that hold the label of each picture; return None if they hold none. See `scan_labeled`."""
    listing = list_location(folder, known=known)
    table = read_shard_labels(open_place(folder), folder, listing.pictures)
    if table is None:
        return None
    listing.skipped[:] = [found for found in listing.skipped if not is_label_file(found.path)]
    return _label_listing(folder, listing, table, columns)


def _label_listing(folder: Location, listing: Listing, table: Table, columns: str) -> Scan:
    images, labels = label_pictures(folder, listing.pictures, table, columns)
    name = table.path.name
    skipped = [*listing.skipped]
    skipped += [Skipped(path, f"a picture without a row in {name}") for path in labels.unlisted]
    skipped += [Skipped(path, f"a picture with an empty label in {name}") for path in labels.unlabeled]
    if len(labels.classes) < 2 and not labels.source.is_multi_label:
        got = f"only {labels.classes[0]!r}" if labels.classes else "none"
        raise HeadstartError(table.path, "two or more classes", got, "Add rows of another class")
    return Scan(images, sorted(skipped, key=lambda found: found.path), labels)


@pause_collector()
def label_pictures(
    folder: Location, pictures: Sequence[PictureFile], table: Table, columns: str = ""
) -> tuple[list[ImageRow], TableLabels]:
    """Give each picture of a folder the label and the split of its row in a table.

    Args:
        folder: the folder that the paths of the pictures are relative to.
        pictures: all pictures below the folder.
        table: the labels.
        columns: value of `--columns`; empty to find the columns.

    Returns:
        The labelled pictures, in the given order, and the use of the table. The label of a picture with several labels
        is their text joined by `|`, empty for none.

    Raises:
        UsageError: an unknown column in `columns`.
        HeadstartError: the columns of the table are not certain, rows contradict each other, a row fits
            several pictures, or too few rows and pictures fit.
    """
    option = parse_columns(columns)
    if not pictures:
        raise HeadstartError(folder, "pictures", "none", "Give the folder of the pictures")
    paths = [picture.path for picture in pictures]
    index = PictureIndex(folder, paths)
    found = choose_columns(table, index, option)
    check_matches(found, index, is_path_given=bool(option.path))
    labels, splits = read_labels(found.table, found.labels, found.separator), read_splits(found)
    row_of, repeated = find_rows(found, index, labels, splits)
    is_multi_label = any(label is not None and len(label) != 1 for label in labels)
    if is_multi_label:
        check_names(table.path, labels)
    unlabeled = sorted(number for number, row in row_of.items() if labels[row] is None)
    listed = sorted(row_of.keys() - unlabeled)
    folder_splits = [] if splits else find_folder_splits(paths)
    images = []
    for number in listed:
        row, picture = row_of[number], pictures[number]
        split = splits[row] if splits else folder_splits[number]
        label = join_labels(labels[row] or ())
        images.append(ImageRow(picture.path, label, split, picture.num_bytes, picture.modified_ns))
    if not splits:
        check_split_folders(folder, images)
    used, paths_in_table = {found.path, *found.labels, found.split}, found.table.columns[found.path]
    unlisted = [path for number, path in enumerate(paths) if number not in row_of]
    summary = TableLabels(
        _describe_source(found, is_multi_label=is_multi_label),
        separator=found.separator,
        unused_columns=[found.table.name(number) for number in range(len(found.table.names)) if number not in used],
        num_rows=found.table.num_rows,
        classes=sorted({label for number in listed for label in labels[row_of[number]] or ()}),
        missing=[paths_in_table[row] for row, number in enumerate(found.matches.pictures) if number is None],
        repeated=[pictures[number].path for number in repeated],
        unlabeled=[pictures[number].path for number in unlabeled],
        unlisted=unlisted,
        is_mixed=not {path.rpartition("/")[0] for path in unlisted}.isdisjoint(
            paths[number].rpartition("/")[0] for number in row_of
        ),
    )
    return images, summary


def _describe_source(columns: Columns, *, is_multi_label: bool) -> LabelSource:
    table = columns.table
    return LabelSource(
        table=table.path.name,
        sha256=table.sha256,
        path_column=table.name(columns.path),
        label_columns=tuple(map(table.name, columns.labels)),
        split_column="" if columns.split is None else table.name(columns.split),
        is_multi_label=is_multi_label,
    )
