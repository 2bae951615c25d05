"""Makes catalog and shards agree after a run that was cut off: adopts, forgets, quarantines, and says so."""

from __future__ import annotations

from pathlib import Path

from features.catalog import Catalog
from features.durable import hash_file, remove_partial_files
from features.errors import FeatureStoreError
from features.quarantine import move_to_quarantine
from features.schema import Fingerprint
from features.shard import SHARD_FOLDER, ShardHeader, ShardRef, open_shard, parse_name, read_header


def recover_store(store: Path, catalog: Catalog, fingerprint: Fingerprint) -> list[str]:
    """Brings a store into order before it is written to; the caller holds the write lock.

    Args:
        store: the store's folder.
        catalog: its catalog, writable.
        fingerprint: the store's.

    Returns:
        A line for each thing that was done.
    """
    folder = store / SHARD_FOLDER
    partial = [*remove_partial_files(folder), *remove_partial_files(store)]
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
    """Enters sound shards that the catalog does not know; anything else in the folder goes to quarantine."""
    notes = []
    shards = {shard.name: shard.number for shard in catalog.read_shards()}
    known = set(catalog.read_features())
    for path in sorted((store / SHARD_FOLDER).iterdir()):
        if path.name in shards:
            continue
        try:
            shard, header = inspect_orphan(store, path, fingerprint)
        except FeatureStoreError as error:
            notes.append(f"{error} It is in {move_to_quarantine(store, path)} now")
            continue
        if shard.number in shards.values() or known.issuperset(header.keys):
            notes.append(f"{path.name}: holds nothing new; it is in {move_to_quarantine(store, path)} now")
            continue
        catalog.add_shard(shard, header.keys, header.statuses)
        shards[shard.name] = shard.number
        known.update(header.keys)
        notes.append(f"adopted {path.name}: {shard.num_rows:,} features of an interrupted run")
    return notes


def inspect_orphan(store: Path, path: Path, fingerprint: Fingerprint | None) -> tuple[ShardRef, ShardHeader]:
    """Checks a file in the shards' folder against its own name and the store's fingerprint.

    Raises:
        FeatureStoreError: it is no shard, damaged, or of another fingerprint.
    """
    parts = parse_name(path.name)
    if parts is None or not path.is_file():
        raise FeatureStoreError(path, "a shard", "something else", "Look at what it is")
    data_size = path.stat().st_size
    digest = hash_file(path)
    if digest != parts[1]:
        raise FeatureStoreError(path, "the SHA-256 in its name", f"{digest[:12]}…", "Its features are lost")
    shard = ShardRef(parts[0], parts[1], 0, data_size)
    with open_shard(store, shard) as opened:
        header = read_header(opened)
    if fingerprint is not None and header.fingerprint != fingerprint:
        raise FeatureStoreError(
            path,
            f"fingerprint {fingerprint.digest[:12]}…",
            f"{header.fingerprint.digest[:12]}…",
            "It belongs to another store",
        )
    return ShardRef(parts[0], parts[1], len(header.keys), data_size), header
