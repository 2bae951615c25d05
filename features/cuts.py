"""Stores of several cut layers: a folder with one store for each, named after its cut layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from base.errors import FeatureStoreError, StoreMissingError, UsageError
from features.catalog.catalog import CATALOG_NAME, Catalog, load_fingerprint
from features.folder import STORE_NAMES
from features.joined import join_stores, measure_scales, rescale_store
from features.options import Pool, split_cuts
from features.pooled import pool_store
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore


def list_cuts(path: Path) -> list[str]:
    """List the cut layers whose stores a folder contains; empty if the path is a store itself or not a folder."""
    if not path.is_dir() or any((path / name).exists() for name in (CATALOG_NAME, SHARD_FOLDER)):
        return []
    return sorted(found.parent.name for found in path.glob(f"*/{CATALOG_NAME}") if _holds_own_cut(found.parent))


def resolve_cut(path: Path, cut: str) -> Path:
    """Return the path of the store of a cut layer.

    Args:
        path: a store, which is returned unchanged, or a folder of stores.
        cut: cut layer; may be empty if the folder contains one store.

    Raises:
        UsageError: the folder has no store of this cut layer, or has several and `cut` is empty.
    """
    cuts = list_cuts(path)
    if not cuts:
        return path
    if not cut and len(cuts) == 1:
        cut = cuts[0]
    if cut not in cuts:
        expected = f"one of the cut layers in {path}: {', '.join(cuts)}"
        raise UsageError("--cut", expected, cut or "none", "Give one of these, or several of them if they are pooled")
    return path / cut


def choose_cut_folders(path: Path, cuts: Sequence[str]) -> dict[str, Path]:
    """Return the folder of the store for each cut layer to extract.

    Returns:
        For a single cut layer the path itself, unless it is a folder of stores; otherwise one subfolder for each.

    Raises:
        StoreMissingError: several stores are needed, but the path is a single store or a file, or has other files.
    """
    if len(cuts) == 1 and not list_cuts(path):
        return {cuts[0]: path}
    expected, got = "feature stores or an empty folder", ""
    if (path / CATALOG_NAME).exists():
        expected, got = "a folder for the stores of several cut layers", "the store of one cut layer"
    elif path.exists() and not path.is_dir():
        expected, got = "a folder for the stores", "a file"
    elif path.is_dir():
        foreign = sorted(entry.name for entry in path.iterdir() if entry.name[0] != "." and not _is_store(entry))
        got = f"a folder with {foreign[0]!r}" if foreign else ""
    if got:
        raise StoreMissingError(path, expected, got, "Give another --store")
    return {cut: path / cut for cut in cuts}


def open_store(
    path: str | os.PathLike[str],
    cut: str | Sequence[str] = "",
    pool: Pool | str = Pool.NONE,
    scales: Sequence[float] | None = None,
) -> FeatureStore:
    """Open a feature store for reading.

    Args:
        path: folder of a store, a packed store, or a folder with one store for each cut layer.
        cut: cut layer of the features, such as `mixed7`; may be empty if there is only one. Several cut layers, such as
            `mixed6,mixed7`, are joined to one feature.
        pool: `avg` averages each stored feature over height and width.
        scales: factor of each of several cut layers. By default, each cut layer has unit mean square on the training
            pictures of the store, see `FeatureStore.to_numpy`.

    Returns:
        The store; its features are (channels,) instead of (height, width, channels) with `pool="avg"`.

    Raises:
        UsageError: the store of the cut layer is missing, `cut` is empty and there are several stores, `pool` is
            unknown, `pool` is `avg` and the stored features are already averages, or several cut layers are given and
            their features have height and width.
        FeatureStoreError: the path has no store, the store is damaged, or the stores of several cut layers do not
            belong together.
    """
    if pool not in list(Pool):
        raise UsageError("--pool", " or ".join(Pool), repr(pool), "Give one of these")
    cuts = split_cuts(cut) if isinstance(cut, str) else list(cut) or [""]
    if len(set(cuts)) < len(cuts):
        raise UsageError("--cut", "different cut layers", ",".join(cuts), "Give each layer once")
    advice = "Extract that cut layer first, or omit the option"
    if len(cuts) > 1:
        advice = "Give the folder with the store of each cut layer, or extract them in one command"
    stores = [_open_cut(Path(path), each, pool, advice) for each in cuts]
    if len(stores) == 1:
        return stores[0]
    joined = join_stores(stores, scales or [1.0] * len(stores))
    return joined if scales else rescale_store(joined, measure_scales(joined, joined.select_train()))


def _open_cut(path: Path, cut: str, pool: Pool | str, advice: str) -> FeatureStore:
    """Open the store of one cut layer; raise UsageError with the advice if the path is the store of another one."""
    store = FeatureStore(resolve_cut(path, cut))
    if cut not in ("", store.fingerprint.cut):
        expected = f"{store.fingerprint.cut}, the cut layer of {path}"
        raise UsageError("--cut", expected, cut, advice)
    return pool_store(store) if pool == Pool.AVG else store


def _is_store(path: Path) -> bool:
    """Return whether a folder is the store of the cut layer in its name, or an empty store."""
    if (path / CATALOG_NAME).exists():
        return _holds_own_cut(path)
    return path.is_dir() and all(entry.name in STORE_NAMES for entry in path.iterdir())


def _holds_own_cut(path: Path) -> bool:
    """Return whether the folder of a store is named after its cut layer; True for a store that cannot be read."""
    try:
        with closing(Catalog(path / CATALOG_NAME, writable=False)) as catalog:
            return load_fingerprint(catalog).cut == path.name
    except FeatureStoreError:
        return True
