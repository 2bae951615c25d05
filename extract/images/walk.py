"""Walk a tree of folders: links are followed; loops, hidden files and Headstart's own folders are not."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from base.errors import CatalogDamagedError, HeadstartError
from base.lock import LOCK_NAME
from features.catalog.catalog import CATALOG_NAME
from features.catalog.database import check_header

OWN = "Headstart's own"
OWN_STORE = f"{OWN} feature store"
_RUN_FILES = ("run.json", "head.npz")


def walk_files(folder: Path, top: str, stores: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Walk a tree of folders, following links but never round a loop.

    Args:
        folder: the folder that paths are relative to.
        top: relative path to start from.
        stores: relative paths of feature stores, which need not exist yet.

    Yields:
        (path, problem), relative to `folder`; the problem is empty for a file, else the reason why a folder is not
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


def list_entries(folder: Path, *, hidden: bool = False) -> list[os.DirEntry[str]]:
    """List by name the entries of a folder, without macOS's own, and without hidden ones unless asked for."""
    ignored = "__MACOSX" if hidden else (".", "__MACOSX")
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(ignored)), key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one that can be followed."""
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, or into a folder that may not be entered; opening it fails with the reason.
        return False


def identify_own(folder: Path, names: Collection[str]) -> str:
    """Return the kind of a folder of Headstart's own, recognized by its content; empty for any other folder.

    Args:
        folder: a folder.
        names: the names of its entries.
    """

    def holds(*files: str, within: Path = folder) -> bool:
        return all((within / name).is_file() for name in files)

    if CATALOG_NAME in names and _is_catalog(folder / CATALOG_NAME, is_begun=LOCK_NAME in names):
        return OWN_STORE
    if "run.json" in names and holds(*_RUN_FILES):
        return f"{OWN} run"
    if "model.keras" in names and holds("model.keras", "labels.txt"):
        return f"{OWN} exported model"
    if "sweep.csv" in names and (folder / "trials").is_dir():
        return f"{OWN} sweep"
    if "compare.png" in names:
        runs = [folder / name for name in names if (folder / name).is_dir()]
        if runs and all(holds(*_RUN_FILES, within=run) for run in runs):
            return f"{OWN} comparison"
    return ""


def _is_catalog(path: Path, *, is_begun: bool) -> bool:
    """Return whether a file has a catalog's header; an empty one beside a lock is from a run that was killed."""
    try:
        check_header(path)
    except CatalogDamagedError:
        return is_begun and path.stat().st_size == 0
    except HeadstartError:
        return False
    return True
