"""Walk a tree of folders: follow links; leave out loops, hidden files, and folders that Headstart wrote."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from base.errors import CatalogDamagedError, HeadstartError
from base.lock import LOCK_NAME
from features.catalog.catalog import CATALOG_NAME
from features.catalog.database import check_header

HEADSTART = "a Headstart"
"""First words of the reason for skipping a folder that Headstart wrote."""
HEADSTART_STORE = f"{HEADSTART} feature store"
_RUN_FILES = ("run.json", "head.npz")


def walk_files(folder: Path, top: str, stores: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Walk a tree of folders. Links are followed, except links to a folder above them.

    Args:
        folder: the folder that paths are relative to.
        top: path of the folder to start from, relative to `folder`.
        stores: paths of feature stores, relative to `folder`; they need not exist yet.

    Yields:
        (path, problem) for each file, and for each folder that is not entered. The path is relative to `folder`. The
        problem is a noun phrase for a folder, and empty for a file.
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
                yield path, "a link to a folder above it"
                continue
            entries = list_entries(folder / path)
            names = {entry.name for entry in entries}
            own = HEADSTART_STORE if path in stores else identify_headstart_folder(folder / path, names)
        except OSError as error:
            yield path, f"an unreadable folder ({error.strerror or error})"
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
    """List the entries of a folder in alphabetical order, without `__MACOSX`; `hidden` includes hidden entries."""
    ignored = "__MACOSX" if hidden else (".", "__MACOSX")
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(ignored)), key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to a folder."""
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, or into a folder without access. Opening it fails with the reason.
        return False


def identify_headstart_folder(folder: Path, names: Collection[str]) -> str:
    """Describe a folder that Headstart wrote, recognized by its content; return an empty string for any other folder.

    Args:
        folder: path of the folder.
        names: names of its entries.
    """

    def holds(*files: str, within: Path = folder) -> bool:
        return all((within / name).is_file() for name in files)

    if CATALOG_NAME in names and _is_catalog(folder / CATALOG_NAME, is_begun=LOCK_NAME in names):
        return HEADSTART_STORE
    if "run.json" in names and holds(*_RUN_FILES):
        return f"{HEADSTART} run"
    if "model.keras" in names and holds("model.keras", "labels.txt"):
        return f"{HEADSTART} exported model"
    if "sweep.csv" in names and (folder / "trials").is_dir():
        return f"{HEADSTART} sweep"
    if "compare.png" in names:
        runs = [folder / name for name in names if (folder / name).is_dir()]
        if runs and all(holds(*_RUN_FILES, within=run) for run in runs):
            return f"{HEADSTART} comparison"
    return ""


def _is_catalog(path: Path, *, is_begun: bool) -> bool:
    """Return whether a file has a catalog's header, or is empty beside a lock (`is_begun`), as after a killed run."""
    try:
        check_header(path)
    except CatalogDamagedError:
        return is_begun and path.stat().st_size == 0
    except HeadstartError:
        return False
    return True
