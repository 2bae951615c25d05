"""Push a store to a URL: shards first, the catalog last, so that a reader of the URL always finds a whole store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import NamedTuple

from base.errors import UsageError
from base.lock import hold_write_lock
from base.remote import Connection, RemoteError, connect
from base.terminal import BYTES, Console, format_list
from features.catalog.catalog import CATALOG_NAME
from features.catalog.database import convert_write_error
from features.folder import check_entries
from features.quantized import GRAPH_NAME, WEIGHTS_NAME, read_model
from features.schema import BACKBONE_FOLDER
from features.shards.shard import SHARD_FOLDER, ShardRef, read_bytes
from features.transfer import objects
from features.transfer.catalogs import (
    CatalogCopy,
    StoreDivergedError,
    convert_paths,
    copy_catalog,
    read_catalog,
    require_ancestor,
    require_same_fingerprint,
)
from features.transfer.layout import (
    choose_stores,
    list_local_stores,
    list_remote_stores,
    require_other_place,
    require_same_layout,
)
from features.transfer.objects import join

MAX_BUFFERED = 2**29
"""Largest sum of the sizes of the shards that are uploaded at the same time: each is in memory while it is verified."""


class Transfer(NamedTuple):
    """Result of copying a store; an int8 backbone counts in `num_bytes` only."""

    copied: int
    """Number of copied shards."""
    present: int
    """Number of shards that were there already."""
    num_bytes: int
    """Number of copied bytes, including the catalog and the backbone."""


def push_stores(store: Path, url: str, cut: str, console: Console) -> dict[str, Transfer]:
    """Copy a store, or the stores of several cut layers, to a URL; nothing is removed there.

    Args:
        store: folder of the store, or folder of stores. It is only read, and may be written at the same time.
        url: URL or path of a folder.
        cut: cut layers, separated by commas; empty for all.
        console: prints the progress.

    Returns:
        The result for each cut layer; its name is empty for a single store.

    Raises:
        UsageError: the URL is invalid or read-only, or the store is a packed one.
        FeatureStoreError: the store is missing or damaged, or the one at the URL has another fingerprint or features
            that this store lacks.
        RemoteError: the URL cannot be reached or written.
    """
    target = connect(url)
    if target.is_web:
        raise UsageError("URL", "a URL that can be written, such as s3://", target.where, "Give another URL")
    require_other_place(store, target, "URL")
    names = choose_stores(list_local_stores(store), cut, store)
    require_same_layout(target.where, list_remote_stores(target), names)
    return {name: _push_store(store / name, join(target, name), console) for name in names}


def _push_store(store: Path, target: Connection, console: Console) -> Transfer:
    new = copy_catalog(store)
    with _hold_local(target):
        place = join(target, CATALOG_NAME)
        identity = objects.identify(place)
        found = objects.read_bytes(place)
        old = None if found is None else read_catalog(found, place.where)
        if old:
            require_same_fingerprint(target.where, old.fingerprint, new.fingerprint)
            advice = "Pull it first, or push to another URL"
            require_ancestor(target.where, old, new, advice, pictures=False)
        folder = join(target, SHARD_FOLDER)
        present = objects.list_sizes(folder)
        missing = [shard for shard in new.shards if present.get(shard.name) != shard.num_bytes]
        num_bytes = sum(shard.num_bytes for shard in missing)

        def copy(shard: ShardRef, advance: Callable[[int], None], _: Event) -> None:
            objects.upload(join(folder, shard.name), read_bytes(store, shard))
            advance(shard.num_bytes)

        largest = max((shard.num_bytes for shard in missing), default=1)
        num_threads = max(1, min(objects.NUM_TRANSFERS, MAX_BUFFERED // largest))
        with console.progress(f"push {store.name}", num_bytes, BYTES) as progress:
            objects.copy_all(missing, copy, progress.advance, num_threads)
        _require_sizes(folder, missing)
        num_bytes += _push_backbone(store, new, target)
        if old is None or old.state != new.state:
            if objects.identify(place) != identity:
                expected, got = "the same catalog as at the start", "one that another push has written"
                raise StoreDivergedError(place.where, expected, got, "Run the command again")
            objects.upload(place, data := convert_paths(new, None))
            num_bytes += len(data)
    return Transfer(len(missing), len(new.shards) - len(missing), num_bytes)


def _push_backbone(store: Path, new: CatalogCopy, target: Connection) -> int:
    """Copy the quantised backbone of a store of int8 features; return the number of copied bytes."""
    if not new.fingerprint.calibration:
        return 0
    model, folder = read_model(store, new.fingerprint.calibration), join(target, BACKBONE_FOLDER)
    parts = {GRAPH_NAME: model.graph, WEIGHTS_NAME: model.weights}
    present = objects.list_sizes(folder)
    missing = {name: data for name, data in parts.items() if present.get(name) != len(data)}
    for name, data in missing.items():
        objects.upload(join(folder, name), data)
    return sum(map(len, missing.values()))


def _require_sizes(folder: Connection, shards: list[ShardRef]) -> None:
    """Raise RemoteError if a shard that was uploaded is not listed with its size."""
    present = objects.list_sizes(folder) if shards else {}
    if lost := [shard.name for shard in shards if present.get(shard.name) != shard.num_bytes]:
        raise RemoteError(folder.where, "the uploaded shards", f"other sizes of {format_list(lost)}", "Push again")


@contextmanager
def _hold_local(target: Connection) -> Iterator[None]:
    """Prepare a target on this computer: a folder of no other files, whose lock is held."""
    path = objects.find_local_path(target)
    with ExitStack() as stack:
        if path:
            check_entries(path, "Give another URL or folder")
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise convert_write_error(path, error) from error
            stack.enter_context(hold_write_lock(path))
        yield
