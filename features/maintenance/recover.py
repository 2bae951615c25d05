"""Makes catalog and shards agree after a run that was cut off: adopts, forgets, quarantines, and says so."""

from __future__ import annotations

from pathlib import Path

from base.errors import FeatureStoreError, ShardDamagedError
from base.files import PARTIAL_PREFIX, is_regular, remove_partial_files, sync_folder
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.catalog.manifest import SEAL_NAME
from features.maintenance.quarantine import move_to_quarantine
from features.packed.view import VIEW_NAME
from features.schema import Fingerprint
from features.shards.shard import SHARD_FOLDER, ShardHeader, ShardRef, open_shard, parse_name, read_header


class ForeignShardError(FeatureStoreError):
    """A file among the shards that is none, or one of another store."""


def recover_store(store: Path, catalog: Catalog, fingerprint: Fingerprint) -> list[str]:
    """Brings a store into order before it is written to; the caller holds the write lock.

    Args:
        store: the store's folder.
        catalog: its catalog, writable.
        fingerprint: the store's.

    Returns:
        A line for each thing that was done.
    """
    ours = (CATALOG_NAME, SEAL_NAME, VIEW_NAME)
    partial = [
        *remove_partial_files(store / SHARD_FOLDER, lambda name: parse_name(name) is not None),
        *remove_partial_files(store, ours.__contains__),
    ]
    notes = [f"removed {path.name}, left by an interrupted write" for path in partial]
    notes += forget_lost_shards(store, catalog)
    return notes + adopt_orphans(store, catalog, fingerprint)


def forget_lost_shards(store: Path, catalog: Catalog) -> list[str]:
    """Forgets shards whose file is gone or of another size, so that their features are computed again."""
    notes = []
    for shard in catalog.read_shards():
        path = store / SHARD_FOLDER / shard.name
        size = path.stat().st_size if path.exists() else None
        if size == shard.num_bytes:
            continue
        if size is not None:
            move_to_quarantine(store, path)
        catalog.forget_shard(shard.number)
        state = "is missing" if size is None else f"has {size:,} bytes instead of {shard.num_bytes:,}"
        notes.append(f"shard {shard.name} {state}: its {shard.num_rows:,} features are computed again")
    return notes


def adopt_orphans(store: Path, catalog: Catalog, fingerprint: Fingerprint) -> list[str]:
    """Enter sound shards that the catalog does not know; anything else in the folder goes to quarantine.

    A shard whose number is taken is renamed to a number that is free.
    """
    notes = []
    shards = {shard.name: shard.number for shard in catalog.read_shards()}
    known = set(catalog.read_features())
    for path in sorted((store / SHARD_FOLDER).iterdir()):
        if path.name in shards or path.name.startswith(PARTIAL_PREFIX):
            continue
        try:
            shard, header = inspect_orphan(path, fingerprint)
        except (ForeignShardError, ShardDamagedError) as error:
            notes.append(f"{error} It is in {move_to_quarantine(store, path)} now")
            continue
        except FeatureStoreError as error:
            notes.append(f"{error} It is left where it is")
            continue
        if known.issuperset(header.keys):
            notes.append(f"{path.name}: holds nothing new; it is in {move_to_quarantine(store, path)} now")
            continue
        reason = "of an interrupted run"
        if shard.number in shards.values():
            reason = "under a new number"
            taken = {*shards.values(), *(number for number, _ in filter(None, map(parse_name, list_names(store))))}
            shard = ShardRef(max(taken) + 1, shard.sha256, shard.num_rows, shard.num_bytes)
            path.rename(store / SHARD_FOLDER / shard.name)
            sync_folder(store / SHARD_FOLDER)
        catalog.add_shard(shard, header.keys, header.statuses)
        shards[shard.name] = shard.number
        known.update(header.keys)
        notes.append(f"adopted {shard.name}: {shard.num_rows:,} features {reason}")
    return notes


def list_names(store: Path) -> list[str]:
    """List what is in the shards' folder by name; nothing where that is missing."""
    folder = store / SHARD_FOLDER
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def inspect_orphan(path: Path, fingerprint: Fingerprint | None) -> tuple[ShardRef, ShardHeader]:
    """Checks a file in the shards' folder against its own name and the store's fingerprint.

    Raises:
        ForeignShardError: it is no shard, or of another fingerprint.
        ShardDamagedError: its bytes are not those that its name says.
        FeatureStoreError: it cannot be read now.
    """
    parts = parse_name(path.name)
    if parts is None or not is_regular(path):
        raise ForeignShardError(path, "a shard", "something else", "Look at what it is")
    shard = ShardRef(*parts, 0, path.stat().st_size)
    with open_shard(path.parents[1], shard) as opened:
        header = read_header(opened)
    if fingerprint is not None and header.fingerprint != fingerprint:
        raise ForeignShardError(
            path,
            f"fingerprint {fingerprint.digest[:12]}…",
            f"{header.fingerprint.digest[:12]}…",
            "It belongs to another store",
        )
    return ShardRef(*parts, len(header.keys), shard.num_bytes), header
