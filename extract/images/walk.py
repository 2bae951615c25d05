"""Walk a tree of folders: links are followed, loops, hidden files and Headstart's own folders are not."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from base.lock import LOCK_NAME
from features.catalog.catalog import CATALOG_NAME
from features.catalog.database import APPLICATION_ID

OWN = "Headstart's own"
OWN_STORE = f"{OWN} feature store"
_FILES_OF = {f"{OWN} run": ("run.json", "head.npz"), f"{OWN} exported model": ("model.keras", "labels.txt")}
_SWEEP_TABLE, _SWEEP_TRIALS, _COMPARISON = "sweep.csv", "trials", "compare.png"


def walk_files(folder: Path, top: str, stores: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Walks a tree of folders, following links but never round a loop.

    Args:
        folder: what paths are relative to.
        top: where to start, relative to it.
        stores: folders of feature stores, relative to it, that are not made yet, maybe.

    Yields:
        (path relative to `folder`, problem), the problem empty for a file, else why a folder is not
        entered.
    """
    parts = Path(top).parts
    parents = [folder.joinpath(*parts[:depth]).stat() for depth in range(len(parts))]
    pending = [(top, frozenset((status.st_dev, status.st_ino) for status in parents))]
    while pending:
        path, above = pending.pop()
        try:
            status = (folder / path).stat()
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                yield path, "a link back to a folder that it is in"
                continue
            entries = list_entries(folder / path)
            own = OWN_STORE if path in stores else identify_own(folder / path, {entry.name for entry in entries})
        except OSError as error:
            yield path, error.strerror or str(error)
            continue
        if own:
            yield path, own
            continue
        for entry in entries:
            inside = f"{path}/{entry.name}"
            if is_folder(entry):
                pending.append((inside, above | {identity}))
            else:
                yield inside, ""


def list_entries(folder: Path) -> list[os.DirEntry[str]]:
    """List what is in a folder by name, without what is hidden or macOS's own."""
    with os.scandir(folder) as entries:
        return sorted(
            (entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))),
            key=lambda entry: entry.name,
        )


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one that can be followed."""
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, or into a folder that may not be entered: opening it will say what is wrong.
        return False


def identify_own(folder: Path, names: Collection[str]) -> str:
    """Return which of Headstart's own folders this is, recognized by its content; empty for any other folder.

    Args:
        folder: a folder.
        names: the names of its entries.
    """
    if CATALOG_NAME in names and _is_catalog(folder / CATALOG_NAME, is_begun=LOCK_NAME in names):
        return OWN_STORE
    for kind, files in _FILES_OF.items():
        if all(name in names and (folder / name).is_file() for name in files):
            return kind
    if _SWEEP_TABLE in names and (folder / _SWEEP_TRIALS).is_dir():
        return f"{OWN} sweep"
    if _COMPARISON in names and _holds_runs_alone(folder, names):
        return f"{OWN} comparison"
    return ""


def _is_catalog(path: Path, *, is_begun: bool) -> bool:
    """Return whether a file has a catalog's header; an empty one beside a lock is of a run that was killed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        header = os.read(descriptor, 100) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b"no file"
    finally:
        os.close(descriptor)
    is_ours = header.startswith(b"SQLite format 3\0") and header[68:72] == APPLICATION_ID.to_bytes(4, "big")
    return is_ours or (is_begun and not header)


def _holds_runs_alone(folder: Path, names: Collection[str]) -> bool:
    folders = [folder / name for name in names if (folder / name).is_dir()]
    files = next(iter(_FILES_OF.values()))
    return bool(folders) and all((found / name).is_file() for found in folders for name in files)
