"""Catalog of a store: a SQLite database, the only file of a store that is modified."""

from __future__ import annotations

import mimetypes
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from base.errors import FeatureStoreError, StoreMissingError
from base.files import is_regular, write_durably
from base.invocation import format_command
from features.catalog import tables, totals
from features.catalog.database import (
    APPLICATION_ID,
    build_damage_error,
    connect,
    convert_sqlite_errors,
    require_unchanged,
)
from features.catalog.locations import Locations
from features.catalog.tables import ImageRow
from features.labels import LABELS_KEY, LabelSource
from features.schema import SCHEMA_VERSION, FeatureKey, FeatureStatus, Fingerprint, Origin, encode_json
from features.shards.shard import SHARD_FOLDER, ShardRef, parse_name

CATALOG_NAME = "catalog.sqlite"

NUM_SEARCHED = 1000
"""Number of files among which a folder that is no store is searched for pictures."""


def is_missing(path: Path) -> bool:
    """Return whether the catalog must be created: it does not exist, or an interrupted first run left it empty."""
    if not os.path.lexists(path):
        return True
    return is_regular(path) and path.stat().st_size == 0 and not any((path.parent / SHARD_FOLDER).glob("*.h5"))


class Catalog:
    """Catalog of a store; each change is a transaction and is on the disk when the method returns."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open an existing catalog.

        Args:
            path: the file.
            writable: whether it may be changed; the caller must hold the write lock.

        Raises:
            StoreMissingError: the file does not exist, or is not a catalog.
            CatalogDamagedError: SQLite cannot read the file.
            FeatureStoreError: the catalog has another schema version.
        """
        if is_missing(path):
            raise _build_missing_error(path.parent)
        self.path = path
        self._db, self._unlocked = connect(path)
        try:
            self._check_schema(writable)
            if writable:
                with convert_sqlite_errors(path):
                    totals.count_changes(self._db)
                # Earlier versions wrote digests to SHA256SUMS; a change of the catalog would make them wrong.
                path.with_name("SHA256SUMS").unlink(missing_ok=True)
        except BaseException:
            self._db.close()
            raise

    def _check_schema(self, writable: bool) -> None:
        with convert_sqlite_errors(self.path):
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            # SQLite's advice for untrusted files: no functions in views and triggers.
            self._db.execute("PRAGMA trusted_schema=OFF")
            self._db.execute("PRAGMA cell_size_check=ON")
            # EXTRA also synchronises the folder after the journal is removed, so that a commit survives a power cut.
            self._db.execute("PRAGMA synchronous=EXTRA")
            self._db.execute(f"PRAGMA query_only={not writable}")
            found = [sql or b"" for (sql,) in self._db.execute("SELECT sql FROM sqlite_master")]
        if version != SCHEMA_VERSION:
            advice = "Extract into a new --store"
            raise FeatureStoreError(self.path, f"schema version {SCHEMA_VERSION}", str(version), advice)
        if sorted(found) != sorted(table.sql.encode() for table in tables.TABLES):
            raise build_damage_error(self.path, "unknown tables, views or triggers")

    @classmethod
    def create(cls, path: Path, fingerprint: Fingerprint, origin: Origin) -> None:
        """Create an empty catalog unless one exists; the caller must hold the write lock."""
        if not is_missing(path):
            return
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            for table in tables.TABLES:
                db.execute(table.sql)
            totals.count_changes(db)
            db.execute("BEGIN")
            tables.write_meta(db, b"fingerprint", fingerprint.encode())
            tables.write_meta(db, b"origin", encode_json(asdict(origin)))
            totals.add_changes(db, totals.NO_ROWS, totals.read_changes(db))
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            db.execute("COMMIT")
            write_durably(path, db.serialize())

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def read_meta(self, key: str) -> str | None:
        """Return a metadata value of the store, or None."""
        return self.read_all_meta().get(key)

    def read_all_meta(self) -> dict[str, str]:
        """Return all metadata values of the store by key."""
        with convert_sqlite_errors(self.path):
            return {row[0].decode(): tables.decode_text(row[1]) for row in tables.META.read(self._db)}

    def read_shards(self) -> list[ShardRef]:
        """Return all committed shards, sorted by number."""
        with convert_sqlite_errors(self.path):
            shards = [ShardRef(row[0], row[1].decode(), row[2], row[3]) for row in tables.SHARDS.read(self._db)]
            for shard in shards:
                if parse_name(shard.name) != (shard.number, shard.sha256):
                    raise ValueError(f"the invalid shard name {shard.name!r}")
        return shards

    def read_images(self) -> list[ImageRow]:
        """Return all images found by the last scan, sorted by path."""
        with convert_sqlite_errors(self.path):
            return tables.decode_images(tables.IMAGES.read_blocks(self._db))

    def read_content_hashes(self) -> frozenset[bytes]:
        """Return the content hashes of the images that have been read."""
        with convert_sqlite_errors(self.path):
            blocks, column = tables.IMAGES.read_blocks(self._db), ImageRow._fields.index("content_hash")
            return frozenset(row[column] for block in blocks for row in block if row[column])

    def read_features(self) -> Locations:
        """Return the location of every feature."""
        with convert_sqlite_errors(self.path):
            return Locations(
                (hashes, views, shards, rows, map(tables.FEATURE_STATUSES.__getitem__, statuses))
                for block in tables.FEATURES.read_blocks(self._db)
                for hashes, views, shards, rows, statuses, _ in [zip(*block, strict=True)]
            )

    def describe_contents(self) -> str:
        """Return a text that differs after each change of the images, features or shards."""
        with convert_sqlite_errors(self.path):
            found = tables.read_totals(self._db)
        return encode_json({table.name: found[table.name] for table in (tables.SHARDS, tables.FEATURES, tables.IMAGES)})

    def serialize(self) -> bytes:
        """Return the bytes of the database; in a `snapshot` that has read it, they are those of its state."""
        with convert_sqlite_errors(self.path):
            return self._db.serialize()

    def find_damage(self) -> list[str]:
        """Check the structure of the database, but not the values in its rows; return the problems."""
        with convert_sqlite_errors(self.path):
            found = [row[0].decode() for row in self._db.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else [f"{self.path}: {problem}" for problem in found]

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Open a read transaction: all reads in the block see the same state, even if another process commits.

        Raises:
            StoreLockedError: another process committed on a file system without locks.
        """
        with convert_sqlite_errors(self.path):
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            # An error in the block may be a consequence of the change, so the change is reported.
            if self._unlocked:
                require_unchanged(self.path, self._unlocked)
        with convert_sqlite_errors(self.path):
            self._db.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open a write transaction: all changes in the block are committed, or none; a nested block joins the outer."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            if changes := totals.read_changes(self._db):
                with convert_sqlite_errors(self.path):
                    before = tables.read_totals(self._db)
                totals.add_changes(self._db, before, changes)
            self._db.execute("COMMIT")
        except BaseException:
            # After some disk errors SQLite has already rolled back.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def write_meta(self, key: str, value: str) -> None:
        """Set a metadata value of the store; a value that is set already is not written again."""
        with self.transaction():
            # Not `read_meta`: within a transaction, the totals do not include its changes yet.
            found = self._db.execute("SELECT value FROM meta WHERE key = CAST(? AS TEXT)", (key.encode(),)).fetchone()
            if found != (tables.encode_text(value),):
                tables.write_meta(self._db, key.encode(), value)

    def write_images(self, images: Iterable[ImageRow]) -> None:
        """Add images, or replace those with the same path."""
        with self.transaction():
            tables.IMAGES.write(self._db, map(tables.encode_image, images))

    def remove_images(self, paths: Iterable[str]) -> None:
        """Remove images by path; their features are kept, in case the images are added again."""
        with self.transaction():
            statement = "DELETE FROM images WHERE path = CAST(? AS TEXT)"
            self._db.executemany(statement, ((tables.encode_text(path),) for path in paths))

    def add_shard(self, shard: ShardRef, keys: Iterable[FeatureKey], statuses: Iterable[FeatureStatus]) -> None:
        """Add a shard whose file is already written, with those of its features that no other shard contains."""
        with self.transaction():
            entry = (shard.number, shard.sha256.encode(), shard.num_rows, shard.num_bytes)
            tables.SHARDS.write(self._db, [entry], on_conflict="ABORT")
            rows = enumerate(zip(keys, statuses, strict=True))
            entries = ((*key, shard.number, row, status.encode()) for row, (key, status) in rows)
            tables.FEATURES.write(self._db, entries, on_conflict="IGNORE")

    def remove_shard(self, number: int) -> None:
        """Remove a shard and its rows, so that their images are extracted again."""
        with self.transaction():
            self._db.execute("DELETE FROM features WHERE shard = ?", (number,))
            self._db.execute("DELETE FROM shards WHERE number = ?", (number,))


def replace_meta(data: bytes, values: Mapping[str, str]) -> bytes:
    """Set metadata values in the bytes of an intact catalog, and return the new bytes."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.deserialize(data)
        db.text_factory = bytes
        totals.count_changes(db)
        before = tables.read_totals(db)
        db.execute("BEGIN")
        for key, value in values.items():
            tables.write_meta(db, key.encode(), value)
        if changes := totals.read_changes(db):
            totals.add_changes(db, before, changes)
        db.execute("COMMIT")
        return db.serialize()


def load_fingerprint(catalog: Catalog) -> Fingerprint:
    """Return the fingerprint of the features in a store."""
    with convert_sqlite_errors(catalog.path):
        return Fingerprint.from_json(catalog.read_meta("fingerprint") or "")


def load_origin(catalog: Catalog) -> Origin:
    """Return the shape and source of the features in a store."""
    with convert_sqlite_errors(catalog.path):
        return Origin.from_json(catalog.read_meta("origin") or "")


def load_label_source(catalog: Catalog) -> LabelSource:
    """Return the source of the labels in a store; class folders for a store of an earlier version."""
    with convert_sqlite_errors(catalog.path):
        return LabelSource.from_json(catalog.read_meta(LABELS_KEY) or "")


def _build_missing_error(store: Path) -> StoreMissingError:
    """Return the error for a folder without a catalog; a folder of pictures must not become the store."""
    names = (name for _, _, files in os.walk(store) for name in files)
    if any((mimetypes.guess_type(name)[0] or "").startswith("image/") for name in islice(names, NUM_SEARCHED)):
        new = store.with_name(f"{store.name}-store") if store.name else "store"
        command = format_command("extract", "--images", store, "--store", new)
        return StoreMissingError(store, "a feature store", "pictures", f"Run `{command}` first, and give that store")
    command = format_command("extract", "--images", "PICTURES", "--store", store)
    return StoreMissingError(store, "a feature store", "no catalog", f"Check the path, or run `{command}` first")
