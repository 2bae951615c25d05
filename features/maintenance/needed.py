"""Pictures that are gone and whose features are kept: the runs that were fitted on them are exported from these."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from base.errors import TargetLockedError
from base.files import is_regular
from base.lock import is_held
from base.replace import is_lock_name
from features.cuts import list_cuts
from features.options import EXAMPLES_FILE


def locate_runs(store: Path) -> list[Path]:
    """Return the folders that usually have the runs of a store: those that contain it, or the link to it.

    For the store of a cut layer, they are those that contain the folder of all cut layers.
    """
    parents = [place.parent for place in (store.absolute(), store.resolve())]
    return [*dict.fromkeys(parent.parent if list_cuts(parent) else parent for parent in parents)]


def walk_all(folders: Iterable[Path], left_out: Collection[Path] = ()) -> Iterator[Path]:
    """Yield folders and all folders below them, once each, also hidden ones and those behind links.

    Args:
        folders: the folders.
        left_out: folders that are not entered.

    Raises:
        TargetLockedError: a command is writing below the folders; it may read features or write a run.
        OSError: a folder cannot be read, so that it is unknown which runs it has.
    """
    pending, seen = [*folders], set[tuple[int, int]]()
    while pending:
        place = pending.pop()
        # A running command may have removed or moved a folder.
        with suppress(FileNotFoundError):
            status = place.stat()
            if place in left_out or (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                for entry in entries:
                    if is_lock_name(entry.name) and is_held(Path(entry.path)):
                        expected, got = "no command that may need features", f"one that holds the lock {entry.name}"
                        raise TargetLockedError(place, expected, got, "Wait until it ends")
                    if entry.is_dir():
                        pending.append(Path(entry.path))
            yield place


def find_needed(folders: Iterable[Path], left_out: Collection[Path] = ()) -> frozenset[bytes]:
    """Return the content hashes of the pictures that the runs below folders were fitted on.

    A run is exported from the stored features of these pictures.

    Args:
        folders: the folders.
        left_out: folders whose runs are not counted.

    Raises:
        TargetLockedError: a command is running, so that it is unknown which features it needs.
        OSError: a folder or a table cannot be read, so that it is unknown what its run needs.
    """
    found = set[bytes]()
    for place in walk_all(folders, left_out):
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
