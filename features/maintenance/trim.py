"""Free the features that no picture and no run uses: shards without a used row are removed, others are rewritten.

A shard is rewritten like a new one: its file is written durably, then one transaction exchanges both in the catalog,
then the old file is removed. The catalog lists the old shards first, so that the next writer completes an interrupted
removal instead of adding them again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from base.files import is_regular
from base.signals import defer_interrupt
from features.catalog.database import convert_write_error
from features.contents import StoreContents, load_folder
from features.maintenance.recover import PRUNED_KEY
from features.schema import FeatureKey, FeatureStatus
from features.shards.chunks import recode_rows
from features.shards.shard import (
    SHARD_FOLDER,
    ShardHeader,
    ShardRef,
    encode_shard,
    open_shard,
    read_header,
    write_shard,
)
from features.store_writer import FeatureWriter


@dataclass(frozen=True)
class Trim:
    """Shard with unused rows."""

    shard: ShardRef
    rows: tuple[int, ...]
    """Rows to keep, ascending; empty to remove the whole shard."""
    num_unused: int
    """Number of features that are freed."""


@dataclass(frozen=True)
class TrimPlan:
    """Unused features of a store."""

    trims: Sequence[Trim]
    num_bytes: int
    """Disk space that removing them frees."""
    num_pictures: int
    """Number of pictures whose features are freed."""
    num_kept: int
    """Number of pictures that are gone, but whose features are needed."""


def is_incomplete(contents: StoreContents) -> bool:
    """Return whether pictures have not been read yet, so that it is unknown which features they use."""
    return not contents.images or contents.num_pending > 0


def plan_trim(store: Path, needed: Collection[bytes], advance: Callable[[int], None]) -> TrimPlan:
    """Find the features of pictures that the catalog no longer lists, and measure the space that they take.

    Args:
        store: folder of the store, which is only read.
        needed: content hashes of pictures whose features are kept in any case.
        advance: called with 1 after each shard.

    Raises:
        ShardDamagedError: a shard with used and unused rows is damaged.
    """
    contents = load_folder(store)
    if is_incomplete(contents):
        return TrimPlan([], 0, 0, 0)
    known = {image.content_hash for image in contents.images}
    gone = {key.content_hash for key in contents.locations if key.content_hash not in known}
    unused = gone.difference(needed)
    trims, num_bytes = [], 0
    for shard in contents.shards:
        if (trim := _plan_shard(store, shard, contents, unused)) is not None:
            saved = shard.num_bytes - (len(_encode_kept(store, trim)[0]) if trim.rows else 0)
            if saved > 0:
                trims.append(trim)
                num_bytes += saved
        advance(1)
    return TrimPlan(trims, num_bytes, len(unused), len(gone) - len(unused))


def trim_store(store: Path, find_needed: Callable[[], Collection[bytes]]) -> int:
    """Free the unused features of a store, as `plan_trim` finds them; return the freed disk space in bytes.

    Args:
        store: folder of the store.
        find_needed: function that returns the content hashes of pictures whose features are kept; it is called when no
            other process can write to the store.

    Raises:
        Exception: `find_needed` raised it.
        StoreLockedError: another process is writing to the store.
        StoreWriteError: a write failed; the used features are intact.
    """
    contents = load_folder(store)
    with FeatureWriter(store, contents.fingerprint, contents.origin) as writer:
        plan = plan_trim(store, find_needed(), lambda _: None)
        trims = sorted(plan.trims, key=lambda trim: len(trim.rows))
        writer.write_meta(PRUNED_KEY, ",".join(trim.shard.sha256 for trim in trims))
        # Whole shards are removed first, so that there is space for the others.
        for trim in trims:
            with defer_interrupt():
                _replace_shard(writer, trim)
        writer.write_meta(PRUNED_KEY, "")
    return plan.num_bytes


def _plan_shard(store: Path, shard: ShardRef, contents: StoreContents, unused: Collection[bytes]) -> Trim | None:
    """Return the rows to keep of a shard; None if it has no unused row, or its file has another hard link."""
    found = contents.locations.list_shard(shard.number)
    rows = sorted(place.row for key, place in found if key.content_hash not in unused)
    if len(rows) == len(found):
        return None
    path = store / SHARD_FOLDER / shard.name
    # A merged store shares its shards with the parts: without one of the links, they take as much space.
    if not is_regular(path) or path.stat().st_nlink > 1:
        return None
    return Trim(shard, tuple(rows), len(found) - len(rows))


def _encode_kept(store: Path, trim: Trim) -> tuple[bytes, list[FeatureKey], list[FeatureStatus]]:
    """Encode the rows to keep as a new shard, with the values and the origin of the old one."""
    with open_shard(store, trim.shard) as file:
        header, rows = read_header(file), recode_rows(file["features"], trim.rows)
    keys, statuses = [header.keys[row] for row in trim.rows], [header.statuses[row] for row in trim.rows]
    return encode_shard(ShardHeader(header.fingerprint, header.origin, keys, statuses), rows), keys, statuses


def _replace_shard(writer: FeatureWriter, trim: Trim) -> None:
    store, old = writer.folder, trim.shard
    try:
        data, keys, statuses = _encode_kept(store, trim) if trim.rows else (b"", [], [])
        new = write_shard(store, writer.reserve_number(), data, len(keys)) if data else None
        with writer.transaction():
            writer.catalog.remove_shard(old.number)
            if new:
                writer.catalog.add_shard(new, keys, statuses)
        (store / SHARD_FOLDER / old.name).unlink(missing_ok=True)
    except (OSError, sqlite3.OperationalError) as error:
        raise convert_write_error(store, error, writer.num_stored) from error
