"""Several cut layers from one pass: a folder of stores, each named after its cut."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from base.errors import FeatureStoreError, StoreMissingError, UsageError
from features.catalog.catalog import CATALOG_NAME, Catalog, load_fingerprint
from features.pooled import pool_store
from features.schema import Pool
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from features.writer import STORE_NAMES


def list_cuts(path: Path) -> list[str]:
    """List the cuts that a folder holds a store of; none where it is a store itself, or no folder."""
    if not path.is_dir() or any((path / name).exists() for name in (CATALOG_NAME, SHARD_FOLDER)):
        return []
    return sorted(found.parent.name for found in path.glob(f"*/{CATALOG_NAME}") if _holds_own_cut(found.parent))


def resolve_cut(path: Path, cut: str) -> Path:
    """Return the store of a cut, where a path is a folder of stores; the cut may be empty where there is one.

    Raises:
        UsageError: there is no store of that cut, or there are several and none was given.
    """
    cuts = list_cuts(path)
    if not cuts:
        return path
    if not cut and len(cuts) == 1:
        cut = cuts[0]
    if cut not in cuts:
        raise UsageError("--cut", f"one of {', '.join(cuts)}, which {path} holds", cut or "none", "Name one (CUT=)")
    return path / cut


def choose_cut_folders(path: Path, cuts: Sequence[str]) -> dict[str, Path]:
    """Decide where the features of each cut to extract are stored.

    Returns:
        The path itself for a single cut, unless it holds stores by cut already; else a folder in it for each.

    Raises:
        StoreMissingError: several cuts, and the folder is a store of one, or holds something else.
    """
    if len(cuts) == 1 and not list_cuts(path):
        return {cuts[0]: path}
    expected, got = "feature stores or an empty folder", ""
    if (path / CATALOG_NAME).exists():
        expected, got = "a folder for several cuts", "a store of one cut"
    elif path.exists() and not path.is_dir():
        expected, got = "a folder for the stores", "a file"
    elif path.is_dir():
        foreign = sorted(entry.name for entry in path.iterdir() if entry.name[0] != "." and not _is_store(entry))
        got = f"a folder with {foreign[0]!r} in it" if foreign else ""
    if got:
        raise StoreMissingError(path, expected, got, "Give another --store (STORE=)")
    return {cut: path / cut for cut in cuts}


def open_store(path: str | os.PathLike[str], cut: str = "", pool: Pool | str = Pool.NONE) -> FeatureStore:
    """Open a store.

    Args:
        path: a store, or a folder with one for each cut layer.
        cut: cut layer of the features; may be empty where there is only one.
        pool: `avg` replaces features that are stored whole by the mean of each channel.

    Raises:
        UsageError: the path has no such cut, or several and none was given; or its features are means already.
        FeatureStoreError: there is no store, or it is damaged.
    """
    if pool not in list(Pool):
        raise UsageError("--pool", " or ".join(Pool), repr(pool), "Choose one of these")
    store = FeatureStore(resolve_cut(Path(path), cut))
    if cut not in ("", store.fingerprint.cut):
        expected = f"{store.fingerprint.cut}, whose features {path} holds"
        raise UsageError("--cut", expected, cut, "Extract that cut first")
    return pool_store(store) if pool == Pool.AVG else store


def _is_store(path: Path) -> bool:
    """Return whether a folder is the store of a cut, or one that was only begun."""
    if (path / CATALOG_NAME).exists():
        return _holds_own_cut(path)
    return path.is_dir() and all(entry.name in STORE_NAMES for entry in path.iterdir())


def _holds_own_cut(path: Path) -> bool:
    """Return whether a store is of the cut that its folder is named after; a damaged one is refused when it is read."""
    try:
        with closing(Catalog(path / CATALOG_NAME, writable=False)) as catalog:
            return load_fingerprint(catalog).cut == path.name
    except FeatureStoreError:
        return True
