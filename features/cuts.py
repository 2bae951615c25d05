"""Several cut layers from one pass: a folder of stores, one for each cut, named by it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from base.errors import FeatureStoreError, StoreMissingError, UsageError
from features.catalog.catalog import CATALOG_NAME, Catalog, load_fingerprint
from features.pooled import pool_store
from features.schema import Pool
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from features.writer import STORE_NAMES


def list_cuts(path: Path) -> list[str]:
    """Lists the cuts that a folder holds a store of, by name; none where it is a store itself, or no folder."""
    if not path.is_dir() or any((path / name).exists() for name in (CATALOG_NAME, SHARD_FOLDER)):
        return []
    return sorted(found.parent.name for found in path.glob(f"*/{CATALOG_NAME}") if _holds_cut(found.parent))


def choose_cut(path: Path, cut: str) -> Path:
    """Chooses the store to read.

    Args:
        path: a store, or a folder of stores.
        cut: which one; may be empty where there is only one.

    Raises:
        UsageError: there is no store of that cut, or there are several and none was named.
    """
    cuts = list_cuts(path)
    if not cuts:
        return path
    if not cut and len(cuts) == 1:
        cut = cuts[0]
    if cut not in cuts:
        raise UsageError("--cut", f"one of {', '.join(cuts)}, which {path} holds", cut or "none", "Name one (CUT=)")
    return path / cut


def place_cuts(path: Path, cuts: Sequence[str]) -> dict[str, Path]:
    """Decides where the features of each cut are to be stored.

    Args:
        path: the folder of a store, or of several, or one to be made.
        cuts: what is extracted.

    Returns:
        The folder itself for a single cut, unless it holds stores by cut already; else a folder in it for each.

    Raises:
        StoreMissingError: several cuts, and the folder is a store of one, or holds something else.
    """
    held = list_cuts(path)
    if len(cuts) == 1 and not held:
        return {cuts[0]: path}
    if (path / CATALOG_NAME).exists():
        raise StoreMissingError(
            path, "a folder for several cuts", "a store of one cut", "Give another --store (STORE=)"
        )
    if path.exists() and not path.is_dir():
        raise StoreMissingError(path, "a folder for the stores", "a file", "Give another --store (STORE=)")
    entries = [] if not path.is_dir() else [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    foreign = sorted(entry.name for entry in entries if not _is_store(entry))
    if foreign:
        raise StoreMissingError(
            path, "feature stores or an empty folder", f"a folder with {foreign[0]!r} in it", "Give another --store"
        )
    return {cut: path / cut for cut in cuts}


def open_store(path: Path, cut: str, pool: Pool = Pool.NONE) -> FeatureStore:
    """Opens the store to read, and makes sure that it is of the cut that was named.

    Args:
        path: a store, or a folder with one for each cut layer.
        cut: whose features; empty where there is only one.
        pool: AVG gives each channel's mean in the place of features that are stored whole.

    Raises:
        UsageError: there is no such cut in it, or there are several; or its features are means already.
        FeatureStoreError: there is no store, or it is damaged.
    """
    store = FeatureStore(choose_cut(path, cut))
    if cut not in ("", store.fingerprint.cut):
        whose = f"{store.fingerprint.cut}, whose features {path} holds"
        raise UsageError("--cut", whose, cut, "Extract that cut first")
    return pool_store(store) if pool is Pool.AVG else store


def _is_store(path: Path) -> bool:
    """Says whether a folder is the store of a cut, or one that was only begun."""
    if (path / CATALOG_NAME).exists():
        return _holds_cut(path)
    return path.is_dir() and all(entry.name in STORE_NAMES for entry in path.iterdir())


def _holds_cut(path: Path) -> bool:
    """Says whether a store is of the cut that its folder is named after; a damaged one is told of when it is read."""
    try:
        catalog = Catalog(path / CATALOG_NAME, writable=False)
    except FeatureStoreError:
        return True
    try:
        return load_fingerprint(catalog).cut == path.name
    except FeatureStoreError:
        return True
    finally:
        catalog.close()
