"""Stores at a URL: a single store, or a folder with one store for each cut layer, as on a disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from base.errors import StoreMissingError, UsageError
from base.files import PARTIAL_PREFIX
from base.remote import Connection, RemoteMissingError, repeat
from features.catalog.catalog import CATALOG_NAME
from features.cuts import list_cuts
from features.options import split_cuts
from features.shards.shard import SHARD_FOLDER
from features.transfer.objects import exists, find_local_path, join

SINGLE = ""
"""Name of a store that is not in a folder of stores."""


def list_local_stores(path: Path) -> list[str]:
    """List the cut layers of a folder of stores, or `SINGLE` for a store.

    Raises:
        UsageError: the path is a packed store.
        StoreMissingError: the path does not exist.
    """
    if path.is_file():
        advice = "Copy it with the program of the storage, such as `aws s3 cp`, or give the folder of the store"
        raise UsageError(path, "the folder of a store", "a file, such as a packed store", advice)
    if not path.is_dir():
        raise StoreMissingError(path, "the folder of a feature store", "none", "Check the path")
    return list_cuts(path) or [SINGLE]


def list_remote_stores(folder: Connection) -> list[str]:
    """List the cut layers of a folder of stores at a URL, or `SINGLE` for a store; empty if there is no store.

    Stores cannot be listed on a web server.
    """
    if exists(join(folder, CATALOG_NAME)):
        return [SINGLE]
    if folder.is_web:
        return []
    try:
        entries = repeat(lambda: folder.system.ls(folder.path, detail=True), folder.where)
    except RemoteMissingError:
        return []
    names = sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory")
    return [name for name in names if exists(join(folder, f"{name}/{CATALOG_NAME}"))]


def choose_stores(found: Sequence[str], cut: str, where: object) -> list[str]:
    """Return the stores of the requested cut layers, or all of them.

    Args:
        found: stores, as listed by the functions of this module.
        cut: cut layers, separated by commas; empty for all.
        where: path or URL of the stores, for errors.

    Raises:
        UsageError: a cut layer is not stored there.
    """
    if not cut or list(found) == [SINGLE]:
        return list(found)
    if missing := [name for name in split_cuts(cut) if name not in found]:
        expected = f"cut layers in {where}: {', '.join(found) or 'none'}"
        raise UsageError("--cut", expected, ", ".join(missing), "Give some of these, or omit the option for all")
    return split_cuts(cut)


def require_same_layout(where: object, existing: Sequence[str], copied: Sequence[str]) -> None:
    """Raise StoreMissingError if a store would be written into a folder of stores, or the other way round."""
    if existing and (list(existing) == [SINGLE]) != (list(copied) == [SINGLE]):
        single, several = "a single store", "a folder of stores of cut layers"
        expected, got = (single, several) if list(copied) == [SINGLE] else (several, single)
        raise StoreMissingError(where, f"{expected}, or an empty folder", got, "Give another URL or folder")


def require_other_place(store: Path, place: Connection, option: str) -> None:
    """Raise UsageError if the URL is the store itself."""
    path = find_local_path(place)
    if path and path.resolve() == store.resolve():
        raise UsageError(option, "another place than the store", place.where, "Give another URL or folder")


def list_shard_names(store: Path) -> list[str]:
    """List the names of the files in the shards folder, without those of interrupted writes."""
    names = (path.name for path in (store / SHARD_FOLDER).glob("*.h5"))
    return sorted(name for name in names if not name.startswith(PARTIAL_PREFIX))
