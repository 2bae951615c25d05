"""The catalog: which image is where now. SQLite, the only file of a store that changes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

from base.errors import CatalogDamagedError, FeatureStoreError, StoreMissingError
from base.files import is_regular, write_durably
from features.catalog import checksummed as sealed
from features.catalog.checksummed import SealedTable
from features.catalog.database import APPLICATION_ID, check_header, connect, damaged, explain_errors
from features.catalog.tables import (
    FEATURE_STATUSES,
    FEATURES,
    IMAGES,
    SHARDS,
    TABLES,
    ImageRow,
    Location,
    decode_image,
    encode_image,
    encode_text,
    refuse_outside,
)
from features.maintenance.quarantine import move_to_quarantine
from features.schema import (
    SCHEMA_VERSION,
    FeatureKey,
    FeatureStatus,
    Fingerprint,
    Origin,
    encode_json,
)
from features.shards.shard import SHARD_FOLDER, ShardRef, parse_name

CATALOG_NAME = "catalog.sqlite"


def is_missing(path: Path) -> bool:
    """Return whether a catalog is still to be made: there is none, or an empty file that a killed first run left."""
    if not os.path.lexists(path):
        return True
    return is_regular(path) and path.stat().st_size == 0 and not any((path.parent / SHARD_FOLDER).glob("*.h5"))


class Catalog:
    """The store's SQLite file; every change is one transaction that has reached the disk when it returns."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Opens an existing catalog.

        Args:
            path: the SQLite file.
            writable: whether changes will be made; the caller then holds the write lock.

        Raises:
            StoreMissingError: there is no catalog, or the file is something else.
            CatalogDamagedError: SQLite cannot read it.
            FeatureStoreError: it was written by another schema version.
        """
        if not path.is_file() and not path.is_symlink():
            raise StoreMissingError(
                path.parent, "a feature store", "no catalog there", "Run `python -m extract --store` first"
            )
        self._path = path
        if check_header(path) == 0:
            self._refuse_empty()
        self._db = connect(path, "rw" if writable else "ro")
        try:
            if not writable:
                self._roll_back()
            self._check_schema()
        except BaseException:
            self._db.close()
            raise

    def _refuse_empty(self) -> None:
        if any((self._path.parent / SHARD_FOLDER).glob("*.h5")):
            raise damaged(self._path, "an empty file")
        # A first run of an earlier version was killed before it had made it.
        raise StoreMissingError(
            self._path.parent, "a feature store", "an empty catalog", "Run `python -m extract --store` first"
        )

    def _roll_back(self) -> None:
        """Undoes, as SQLite does by itself in a writer, a transaction that a killed run left half-way."""
        with explain_errors(self._path):
            try:
                self._db.execute("PRAGMA schema_version").fetchone()
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
                    raise
                with closing(connect(self._path, "rw")) as writable:
                    writable.execute("PRAGMA schema_version").fetchone()

    def _check_schema(self) -> None:
        with explain_errors(self._path):
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            # As SQLite advises for files from elsewhere: views and triggers of theirs may call no function.
            self._db.execute("PRAGMA trusted_schema=OFF")
            self._db.execute("PRAGMA cell_size_check=ON")
            # EXTRA also synchronises the folder once the journal goes: a commit survives a power cut.
            self._db.execute("PRAGMA synchronous=EXTRA")
        if self._path.stat().st_size == 0:
            self._refuse_empty()
        if version != SCHEMA_VERSION:
            raise FeatureStoreError(
                self._path, f"schema version {SCHEMA_VERSION}", str(version), "Extract into a new --store"
            )
        with explain_errors(self._path):
            found = self._db.execute("SELECT sql FROM sqlite_master").fetchall()
        if sorted(sql or b"" for (sql,) in found) != sorted(table.sql.encode() for table in (sealed.META, *TABLES)):
            raise damaged(self._path, "other tables, views or triggers than its own")

    @classmethod
    def create(cls, path: Path, fingerprint: Fingerprint, origin: Origin) -> None:
        """Create an empty catalog where there is none, or an empty file; a crash leaves none or a whole one.

        The caller holds the write lock.
        """
        if not is_missing(path):
            return
        journal = path.with_name(f"{path.name}-journal")
        if os.path.lexists(journal):
            # SQLite would apply it to the new catalog.
            move_to_quarantine(path.parent, journal)
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            db.execute("BEGIN")
            for table in (sealed.META, *TABLES):
                table.create(db)
            sealed.write_meta(db, b"fingerprint", fingerprint.encode())
            sealed.write_meta(db, b"origin", encode_json(asdict(origin)))
            sealed.write_tally(db, TABLES)
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            db.execute("COMMIT")
            write_durably(path, db.serialize())

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def read_meta(self, key: str) -> str | None:
        """Returns one value of the store's own description, or None."""
        with explain_errors(self._path):
            return sealed.read_meta(self._db, key.encode())

    def read_shards(self) -> list[ShardRef]:
        """Returns every committed shard, by number."""
        with explain_errors(self._path):
            shards = [
                ShardRef(number, sha256.decode(), num_rows, num_bytes)
                for number, sha256, num_rows, num_bytes, _ in self._read(SHARDS)
            ]
        for shard in shards:
            if parse_name(shard.name) != (shard.number, shard.sha256):
                raise damaged(self._path, f"a shard named {shard.name!r}")
        return shards

    def read_images(self) -> list[ImageRow]:
        """Returns every image of the folder as it was last scanned, by path."""
        with explain_errors(self._path):
            images = [decode_image(row) for row in self._read(IMAGES)]
            refuse_outside(image.path for image in images)
        return images

    def read_features(self) -> dict[FeatureKey, Location]:
        """Returns where each feature is."""
        with explain_errors(self._path):
            return {
                FeatureKey(content_hash, view): Location(shard, row, FEATURE_STATUSES[status])
                for content_hash, view, shard, row, status, _ in self._read(FEATURES)
            }

    def find_damage(self) -> list[str]:
        """Checks the whole file: SQLite's structure, every row's checksum and every table's tally."""
        try:
            with explain_errors(self._path):
                found = [row[0].decode() for row in self._db.execute("PRAGMA integrity_check")]
                sealed.compare_meta(self._db)
            for table in TABLES:
                self._read(table)
        except CatalogDamagedError as error:
            return [str(error)]
        return [] if found == ["ok"] else [f"{self._path}: {problem}" for problem in found]

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Makes every read inside it see one and the same state, whatever a writer does meanwhile."""
        with explain_errors(self._path):
            self._db.execute("BEGIN")
        yield
        with explain_errors(self._path):
            self._db.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Makes every change inside it at once, or none; inside another one it joins it."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            sealed.write_tally(self._db, TABLES)
            self._db.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back already where the disk refused.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def write_meta(self, key: str, value: str) -> None:
        """Sets one value of the store's own description."""
        with self.transaction():
            sealed.write_meta(self._db, key.encode(), value)

    def write_images(self, images: Iterable[ImageRow]) -> None:
        """Adds images, or replaces those of the same path."""
        with self.transaction():
            IMAGES.write(self._db, map(encode_image, images), on_conflict="REPLACE")

    def remove_images(self, paths: Iterable[str]) -> None:
        """Forgets images that are no longer in the folder; their features stay, in case they come back."""
        with self.transaction():
            self._db.executemany(
                "DELETE FROM images WHERE path = CAST(? AS TEXT)", ((encode_text(path),) for path in paths)
            )

    def add_shard(self, shard: ShardRef, keys: Iterable[FeatureKey], statuses: Iterable[FeatureStatus]) -> None:
        """Commits a shard that stands on the disk, with those of its rows that no other shard has."""
        with self.transaction():
            entry = (shard.number, shard.sha256.encode(), shard.num_rows, shard.num_bytes)
            SHARDS.write(self._db, [entry], on_conflict="ABORT")
            rows = enumerate(zip(keys, statuses, strict=True))
            FEATURES.write(
                self._db,
                ((*key, shard.number, row, status.value.encode()) for row, (key, status) in rows),
                on_conflict="IGNORE",
            )

    def holds_digest(self, sha256: str) -> bool:
        """Return whether a shard of these bytes is committed."""
        found = self._db.execute("SELECT 1 FROM shards WHERE sha256 = CAST(? AS TEXT)", (sha256.encode(),))
        return found.fetchone() is not None

    def find_next_number(self) -> int:
        """Return a number above that of every committed shard."""
        return int(self._db.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM shards").fetchone()[0])

    def forget_shard(self, number: int) -> None:
        """Forgets a shard and its rows, so that their images are extracted again."""
        with self.transaction():
            self._db.execute("DELETE FROM features WHERE shard = ?", (number,))
            self._db.execute("DELETE FROM shards WHERE number = ?", (number,))

    def _read(self, table: SealedTable) -> list[sealed.Row]:
        with explain_errors(self._path):
            return table.read(self._db)


def load_fingerprint(catalog: Catalog) -> Fingerprint:
    """Reads the fingerprint that a store was made with."""
    text = catalog.read_meta("fingerprint")
    try:
        return Fingerprint.from_json(text or "")
    except (TypeError, ValueError, RecursionError) as error:
        raise FeatureStoreError(
            CATALOG_NAME, "a fingerprint", f"{text!r} ({error})", "Extract into a new --store"
        ) from error


def load_origin(catalog: Catalog) -> Origin:
    """Reads where a store's features came from."""
    text = catalog.read_meta("origin")
    try:
        return Origin.from_json(text or "")
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise FeatureStoreError(
            CATALOG_NAME, "an origin", f"{text!r} ({error})", "Extract into a new --store"
        ) from error
