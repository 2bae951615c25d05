"""Recover a store after an interrupted run: catalog and shards are made consistent, and no features are deleted."""

from __future__ import annotations

import os
from pathlib import Path

from base.errors import FeatureStoreError, ShardDamagedError
from base.files import PARTIAL_PREFIX, find_partial_files, is_regular
from base.system import sync_folder
from base.terminal import format_count
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.quantized import MODEL_NAMES
from features.schema import BACKBONE_FOLDER, QUARANTINE_FOLDER, VIEW_NAME, Fingerprint
from features.shards.shard import SHARD_FOLDER, ShardHeader, ShardRef, open_shard, parse_name, read_header

PRUNED_KEY = "pruned"
"""Key in the catalog of the digests of shards that are being removed, separated by commas; empty after that."""


class ForeignShardError(FeatureStoreError):
    """File in the shards folder that is not a shard, or belongs to another store."""


def recover_store(store: Path, catalog: Catalog, fingerprint: Fingerprint) -> list[str]:
    """Recover a store before it is written, and return a line for each change."""
    notes = []
    for path in list_partial_files(store):
        path.unlink()
        notes.append(f"removed {path.name}, the partial file of an interrupted write")
    notes += _remove_pruned(store, catalog)
    for shard in catalog.read_shards():
        if problem := find_size_problem(store, shard):
            quarantine_shard(store, catalog, shard)
            notes.append(
                f"shard {shard.name} {problem}; {format_count(shard.num_rows, 'feature')} will be computed again"
            )
    return notes + adopt_orphans(store, catalog, fingerprint)


def list_partial_files(store: Path) -> list[Path]:
    """List the partial files of interrupted writes in a store."""
    return [
        *find_partial_files(store / SHARD_FOLDER, lambda name: parse_name(name) is not None),
        *find_partial_files(store, (CATALOG_NAME, VIEW_NAME).__contains__),
        *find_partial_files(store / BACKBONE_FOLDER, MODEL_NAMES.__contains__),
    ]


def _remove_pruned(store: Path, catalog: Catalog) -> list[str]:
    """Complete an interrupted removal of shards: remove the files that the catalog no longer lists."""
    pruned = (catalog.read_meta(PRUNED_KEY) or "").split(",")
    if pruned == [""]:
        return []
    known, notes = {shard.name for shard in catalog.read_shards()}, []
    for path in list_shard_files(store):
        parts = parse_name(path.name)
        if parts and parts[1] in pruned and path.name not in known and is_regular(path):
            path.unlink()
            notes.append(f"removed {path.name}, a shard that was being removed")
    catalog.write_meta(PRUNED_KEY, "")
    return notes


def find_size_problem(store: Path, shard: ShardRef) -> str:
    """Compare the size of a shard's file with the catalog; return the problem, or an empty string."""
    path = store / SHARD_FOLDER / shard.name
    if not path.exists():
        return "is missing"
    size = path.stat().st_size
    return "" if size == shard.num_bytes else f"has {size:,} bytes instead of {shard.num_bytes:,}"


def quarantine_shard(store: Path, catalog: Catalog, shard: ShardRef) -> None:
    """Move the file of a shard to quarantine, and remove its rows from the catalog."""
    path = store / SHARD_FOLDER / shard.name
    if path.exists():
        move_to_quarantine(store, path)
    catalog.remove_shard(shard.number)


def adopt_orphans(store: Path, catalog: Catalog, fingerprint: Fingerprint) -> list[str]:
    """Add intact shards that the catalog does not list, and move other unlisted files to quarantine.

    A shard whose number is in use gets a free number. A file that cannot be read now is kept where it is.

    Returns:
        A line for each file.
    """
    notes = []
    shards = {shard.name: shard.number for shard in catalog.read_shards()}
    unlisted = [path for path in list_shard_files(store) if path.name not in shards]
    unlisted = [path for path in unlisted if not path.name.startswith(PARTIAL_PREFIX)]
    known = set(catalog.read_features()) if unlisted else set()
    for path in unlisted:
        try:
            shard, header = inspect_orphan(path, fingerprint)
        except (ForeignShardError, ShardDamagedError) as error:
            notes.append(f"{error} Moved to {move_to_quarantine(store, path)}.")
            continue
        except FeatureStoreError as error:
            notes.append(f"{error} The file was not moved.")
            continue
        if known.issuperset(header.keys):
            notes.append(f"{path.name}: no new features; moved to {move_to_quarantine(store, path)}")
            continue
        origin = "from an interrupted run"
        if shard.number in shards.values():
            origin = "with a new number"
            names = [parse_name(found.name) for found in list_shard_files(store)]
            number = max([*shards.values(), *(parts[0] for parts in names if parts)]) + 1
            shard = ShardRef(number, shard.sha256, shard.num_rows, shard.num_bytes)
            path.rename(store / SHARD_FOLDER / shard.name)
            sync_folder(store / SHARD_FOLDER)
        catalog.add_shard(shard, header.keys, header.statuses)
        shards[shard.name] = shard.number
        known.update(header.keys)
        notes.append(f"adopted {shard.name}: {format_count(shard.num_rows, 'feature')} {origin}")
    return notes


def list_shard_files(store: Path) -> list[Path]:
    """List the entries of the shards folder; empty if the folder is missing."""
    folder = store / SHARD_FOLDER
    return sorted(folder.iterdir()) if folder.is_dir() else []


def inspect_orphan(path: Path, fingerprint: Fingerprint | None) -> tuple[ShardRef, ShardHeader]:
    """Check a file in the shards folder against the digest in its name and against a fingerprint, if given.

    Raises:
        ForeignShardError: the file is not a shard, or has another fingerprint.
        ShardDamagedError: the bytes do not match the digest.
        FeatureStoreError: the file cannot be read now.
    """
    parts = parse_name(path.name)
    if parts is None or not is_regular(path):
        raise ForeignShardError(path, "a shard", "another kind of file", "Keep other files outside the store")
    shard = ShardRef(*parts, 0, path.stat().st_size)
    with open_shard(path.parents[1], shard) as opened:
        header = read_header(opened)
    if fingerprint not in (None, header.fingerprint):
        expected, got = (f"fingerprint {found.digest[:12]}…" for found in (fingerprint, header.fingerprint))
        raise ForeignShardError(path, expected, got, "Move it back to the store that it belongs to")
    return ShardRef(*parts, len(header.keys), shard.num_bytes), header


def move_to_quarantine(store: Path, path: Path) -> Path:
    """Move a file of a store to its quarantine folder under a free name; return the new path."""
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
