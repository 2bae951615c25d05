"""Pictures that are gone and whose features are kept: the runs that were fitted on them are exported from these."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from base.files import is_regular
from features.cuts import list_cuts
from features.schema import EXAMPLES_FILE


def locate_runs(store: Path) -> Path:
    """Return the folder that usually has the runs of a store: its parent, or that of the folder of its cut layers."""
    parent = store.resolve().parent
    return parent.parent if list_cuts(parent) else parent


def walk_all(folder: Path, left_out: Collection[Path] = ()) -> Iterator[Path]:
    """Yield a folder and all folders below it, once each, also hidden ones and those behind links.

    Args:
        folder: the folder.
        left_out: folders that are not entered.

    Raises:
        OSError: a folder cannot be read, so that it is unknown which runs it has.
    """
    pending, seen = [folder], set[tuple[int, int]]()
    while pending:
        place = pending.pop()
        # A running command may have removed or moved a folder.
        with suppress(FileNotFoundError):
            status = place.stat()
            if place in left_out or (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                pending += [Path(entry.path) for entry in entries if entry.is_dir()]
            yield place


def find_needed(folder: Path, left_out: Collection[Path] = ()) -> frozenset[bytes]:
    """Return the content hashes of the pictures that the runs below a folder were fitted on.

    A run is exported from the stored features of these pictures.

    Args:
        folder: the folder.
        left_out: folders whose runs are not counted.

    Raises:
        OSError: a folder or a table cannot be read, so that it is unknown what its run needs.
    """
    found = set[bytes]()
    for place in walk_all(folder, left_out):
        path = place / EXAMPLES_FILE
        if is_regular(path):
            # A path that is not UTF-8 must not hide a run. Another table has no such column, and a damaged one makes
            # the run unusable anyway.
            with (
                path.open(newline="", encoding="utf-8", errors="surrogateescape") as file,
                suppress(ValueError, csv.Error),
            ):
                found.update(bytes.fromhex(row.get("content_hash") or "") for row in csv.DictReader(file))
    return frozenset(found)
