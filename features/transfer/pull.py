"""Pull a store from a URL: shards first, the catalog last, so that an interrupted pull continues where it stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event

from base.errors import StoreMissingError
from base.files import require_space, write_durably
from base.lock import hold_write_lock
from base.remote import Connection, connect
from base.system import sync_folder
from base.terminal import BYTES, Console
from features.catalog.catalog import CATALOG_NAME, Catalog, is_missing
from features.catalog.database import convert_write_error
from features.cuts import list_cuts
from features.folder import check_entries
from features.options import split_cuts
from features.packed.view import update_view
from features.quantized import GRAPH_NAME, WEIGHTS_NAME, ModelDamagedError, QuantizedModel, read_model, write_model
from features.schema import BACKBONE_FOLDER
from features.shards.shard import SHARD_FOLDER, ShardRef, parse_name
from features.transfer import objects
from features.transfer.catalogs import (
    CatalogCopy,
    StoreDivergedError,
    check_catalog,
    convert_paths,
    copy_catalog,
    read_catalog,
    require_ancestor,
    require_same_fingerprint,
)
from features.transfer.layout import (
    SINGLE,
    choose_stores,
    list_remote_stores,
    list_shard_names,
    require_other_place,
    require_same_layout,
)
from features.transfer.objects import FileRef, join
from features.transfer.push import Transfer

_OTHER_FOLDER = "Pull into another folder, and merge that into this store"


def pull_stores(url: str, store: Path, cut: str, console: Console) -> dict[str, Transfer]:
    """Copy a store, or the stores of several cut layers, from a URL; nothing is lost in a store that exists.

    Args:
        url: URL or path of the folder.
        store: folder of the store, or folder of stores; created if needed.
        cut: cut layers, separated by commas; empty for all. Needed for several stores on a web server.
        console: prints the progress.

    Returns:
        The result for each cut layer; its name is empty for a single store.

    Raises:
        UsageError: the URL is invalid.
        FeatureStoreError: the URL has no intact store, or the folder has another one or other files.
        RemoteError: the URL cannot be reached or read.
        StoreWriteError: the folder cannot be written.
    """
    source = connect(url)
    require_other_place(store, source, "URL")
    found = list_remote_stores(source)
    names = choose_stores(found or (split_cuts(cut) if cut else []), cut, source.where)
    if not names:
        advice = "Check the URL; give --cut for stores of several cut layers on a web server"
        raise StoreMissingError(source.where, "a feature store", "no catalog", advice)
    existing = list_cuts(store) or ([SINGLE] if (store / CATALOG_NAME).exists() else [])
    require_same_layout(store, existing, names)
    return {name: _pull_store(join(source, name), store / name, console) for name in names}


def _pull_store(source: Connection, store: Path, console: Console) -> Transfer:
    place = join(source, CATALOG_NAME)
    data = objects.read_bytes(place)
    if data is None:
        raise StoreMissingError(source.where, "a feature store", "no catalog", "Check the URL")
    new = read_catalog(data, place.where)
    check_entries(store, "Give another folder")
    old = None if is_missing(store / CATALOG_NAME) else copy_catalog(store)
    if old is None or old.state != new.state:
        check_catalog(new)
    try:
        if not (store / SHARD_FOLDER).is_dir():
            (store / SHARD_FOLDER).mkdir(parents=True, exist_ok=True)
            sync_folder(store)
            sync_folder(store.parent)
        with hold_write_lock(store):
            return _copy_store(source, new, store, console)
    except (OSError, sqlite3.OperationalError) as error:
        raise convert_write_error(store, error) from error


def _copy_store(source: Connection, new: CatalogCopy, store: Path, console: Console) -> Transfer:
    """Copy what a store lacks; its lock must be held."""
    old = None if is_missing(store / CATALOG_NAME) else copy_catalog(store)
    if old:
        require_same_fingerprint(store, old.fingerprint, new.fingerprint)
        require_ancestor(store, old, new, _OTHER_FOLDER, pictures=True)
    else:
        _require_no_other_shards(store, new)
    folder = store / SHARD_FOLDER
    missing = [shard for shard in new.shards if _measure(folder / shard.name) != shard.num_bytes]
    num_bytes = sum(shard.num_bytes for shard in missing)
    require_space(store, num_bytes + 2 * len(new.data))

    def copy(shard: ShardRef, advance: Callable[[int], None], stop: Event) -> None:
        ref = FileRef(f"{SHARD_FOLDER}/{shard.name}", shard.num_bytes, shard.sha256)
        objects.download(join(source, ref.name), store / ref.name, ref, advance, stop)

    with console.progress(f"pull {store.name}", num_bytes, BYTES) as progress:
        objects.copy_all(missing, copy, progress.advance, objects.NUM_TRANSFERS)
    num_bytes += _pull_backbone(source, new, store)
    if old is None or old.state != new.state:
        write_durably(store / CATALOG_NAME, data := convert_paths(new, old))
        num_bytes += len(data)
    with closing(Catalog(store / CATALOG_NAME, writable=True)) as catalog:
        update_view(store, catalog)
    return Transfer(len(missing), len(new.shards) - len(missing), num_bytes)


def _pull_backbone(source: Connection, new: CatalogCopy, store: Path) -> int:
    """Copy the quantised backbone of a store of int8 features; return the number of copied bytes."""
    digest = new.fingerprint.calibration
    if not digest:
        return 0
    try:
        read_model(store, digest)
    except ModelDamagedError:
        folder = join(source, BACKBONE_FOLDER)
        parts = [objects.read_bytes(join(folder, name)) or b"" for name in (GRAPH_NAME, WEIGHTS_NAME)]
        model = QuantizedModel(*parts)
        if model.digest != digest:
            expected, got = f"the quantised backbone {digest[:12]}…", f"{model.digest[:12]}…"
            raise ModelDamagedError(folder.where, expected, got, "Delete it there, and push again") from None
        write_model(store, model)
        return sum(map(len, parts))
    return 0


def _require_no_other_shards(store: Path, new: CatalogCopy) -> None:
    """Raise StoreDivergedError if a folder without a catalog has shards that the new catalog does not list."""
    known = {shard.sha256 for shard in new.shards}
    for name in list_shard_names(store):
        parts = parse_name(name)
        if parts is None or parts[1] not in known:
            path, expected = store / SHARD_FOLDER / name, "only shards that the copied store has"
            raise StoreDivergedError(path, expected, "another one", _OTHER_FOLDER)


def _measure(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1
