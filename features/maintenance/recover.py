"""Make catalog and shards agree after an interrupted run; every change is reported, and nothing is deleted."""

from __future__ import annotations

import os
from pathlib import Path

from base.errors import FeatureStoreError, ShardDamagedError
from base.files import PARTIAL_PREFIX, is_regular, remove_partial_files, sync_folder
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.schema import QUARANTINE_FOLDER, VIEW_NAME, Fingerprint
from features.shards.shard import SHARD_FOLDER, ShardHeader, ShardRef, open_shard, parse_name, read_header


class ForeignShardError(FeatureStoreError):
    """File among the shards that is no shard, or one of another store."""


def recover_store(store: Path, catalog: Catalog, fingerprint: Fingerprint) -> list[str]:
    """Bring a store in order before it is written to, and return a line for each change."""
    partial = [
        *remove_partial_files(store / SHARD_FOLDER, lambda name: parse_name(name) is not None),
        *remove_partial_files(store, (CATALOG_NAME, VIEW_NAME).__contains__),
    ]
    notes = [f"removed {path.name}, left by an interrupted write" for path in partial]
    # Features of a shard whose file is gone or of another size are computed again.
    for shard in catalog.read_shards():
        if problem := find_size_problem(store, shard):
            quarantine_shard(store, catalog, shard)
            notes.append(f"shard {shard.name} {problem}: its {shard.num_rows:,} features are computed again")
    return notes + adopt_orphans(store, catalog, fingerprint)


def find_size_problem(store: Path, shard: ShardRef) -> str:
    """Return why a shard's file cannot be the one that was committed, by its size; empty where it can."""
    path = store / SHARD_FOLDER / shard.name
    if not path.exists():
        return "is missing"
    size = path.stat().st_size
    return "" if size == shard.num_bytes else f"has {size:,} bytes instead of {shard.num_bytes:,}"


def quarantine_shard(store: Path, catalog: Catalog, shard: ShardRef) -> None:
    """Move a shard's file to quarantine, and remove its rows from the catalog."""
    path = store / SHARD_FOLDER / shard.name
    if path.exists():
        move_to_quarantine(store, path)
    catalog.remove_shard(shard.number)


def adopt_orphans(store: Path, catalog: Catalog, fingerprint: Fingerprint) -> list[str]:
    """Enter sound shards that the catalog does not list; any other file in the folder goes to quarantine.

    A shard whose number is taken is renamed to a number that is free. Returns a line for each file.
    """
    notes = []
    shards = {shard.name: shard.number for shard in catalog.read_shards()}
    known = set(catalog.read_features())
    for path in list_shard_files(store):
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
            names = [parse_name(found.name) for found in list_shard_files(store)]
            number = max([*shards.values(), *(parts[0] for parts in names if parts)]) + 1
            shard = ShardRef(number, shard.sha256, shard.num_rows, shard.num_bytes)
            path.rename(store / SHARD_FOLDER / shard.name)
            sync_folder(store / SHARD_FOLDER)
        catalog.add_shard(shard, header.keys, header.statuses)
        shards[shard.name] = shard.number
        known.update(header.keys)
        notes.append(f"adopted {shard.name}: {shard.num_rows:,} features {reason}")
    return notes


def list_shard_files(store: Path) -> list[Path]:
    """List the entries of the shards' folder; none where that is missing."""
    folder = store / SHARD_FOLDER
    return sorted(folder.iterdir()) if folder.is_dir() else []


def inspect_orphan(path: Path, fingerprint: Fingerprint | None) -> tuple[ShardRef, ShardHeader]:
    """Check a file in the shards' folder against its own name and the store's fingerprint, if any.

    Raises:
        ForeignShardError: it is no shard, or of another fingerprint.
        ShardDamagedError: its bytes do not have the digest of its name.
        FeatureStoreError: it cannot be read now.
    """
    parts = parse_name(path.name)
    if parts is None or not is_regular(path):
        raise ForeignShardError(path, "a shard", "something else", "Look at what it is")
    shard = ShardRef(*parts, 0, path.stat().st_size)
    with open_shard(path.parents[1], shard) as opened:
        header = read_header(opened)
    if fingerprint not in (None, header.fingerprint):
        expected, got = (f"fingerprint {found.digest[:12]}…" for found in (fingerprint, header.fingerprint))
        raise ForeignShardError(path, expected, got, "It belongs to another store")
    return ShardRef(*parts, len(header.keys), shard.num_bytes), header


def move_to_quarantine(store: Path, path: Path) -> Path:
    """Move a file of a store into its quarantine, under a name that is free there; return its new path."""
    folder = store / QUARANTINE_FOLDER
    folder.mkdir(exist_ok=True)
    target, number = folder / path.name, 1
    while os.path.lexists(target):
        number += 1
        target = folder / f"{path.name}.{number}"
    path.replace(target)
    sync_folder(folder)
    sync_folder(path.parent)
    return target
