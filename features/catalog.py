"""The catalog: which image is where now. SQLite, the only file of a store that changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

from features import sealed
from features.errors import CatalogDamagedError, FeatureStoreError, StoreMissingError
from features.schema import (
    SCHEMA_VERSION,
    FeatureKey,
    FeatureStatus,
    Fingerprint,
    Origin,
    encode_json,
)
from features.sealed import SealedTable
from features.shard import SHARD_FOLDER, ShardRef, parse_name
from features.tables import (
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

CATALOG_NAME = "catalog.sqlite"
APPLICATION_ID = 0x48535452
"""`PRAGMA application_id` of a catalog: "HSTR"."""


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
        if not path.is_file():
            raise StoreMissingError(
                path.parent, "a feature store", "no catalog there", "Run `python -m extract --store` first"
            )
        self._path = path
        self._db = self._connect("rw" if writable else "ro")
        try:
            if not writable:
                self._roll_back()
            self._check_header()
        except BaseException:
            self._db.close()
            raise

    def _connect(self, mode: str) -> sqlite3.Connection:
        with self._explain_damage():
            name = quote(str(self._path.resolve()), errors="surrogateescape")
            db = sqlite3.connect(f"file:{name}?mode={mode}", uri=True, timeout=30)
        db.isolation_level = None
        db.text_factory = bytes
        return db

    def _roll_back(self) -> None:
        """Undoes, as SQLite does by itself in a writer, a transaction that a killed run left half-way."""
        try:
            self._db.execute("PRAGMA schema_version").fetchone()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
                # Whatever else is wrong, the header's check says so.
                return
            with self._explain_damage(), closing(self._connect("rw")) as writable:
                writable.execute("PRAGMA schema_version").fetchone()

    def _check_header(self) -> None:
        with self._explain_damage():
            application = self._db.execute("PRAGMA application_id").fetchone()[0]
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            # As SQLite advises for files from elsewhere: views and triggers of theirs may call no function.
            self._db.execute("PRAGMA trusted_schema=OFF")
            self._db.execute("PRAGMA cell_size_check=ON")
            # EXTRA also synchronises the folder once the journal goes: a commit survives a power cut.
            self._db.execute("PRAGMA synchronous=EXTRA")
        if self._path.stat().st_size == 0:
            if any((self._path.parent / SHARD_FOLDER).glob("*.h5")):
                raise self._damaged("an empty file")
            # A first run is about to make it, or was killed before it could.
            raise StoreMissingError(
                self._path.parent, "a feature store", "an empty catalog", "Run `python -m extract --store` first"
            )
        if application != APPLICATION_ID:
            raise StoreMissingError(
                self._path, "a Headstart catalog", "another SQLite database", "Give another --store"
            )
        if version != SCHEMA_VERSION:
            raise FeatureStoreError(
                self._path, f"schema version {SCHEMA_VERSION}", str(version), "Extract into a new --store"
            )
        with self._explain_damage():
            found = self._db.execute("SELECT sql FROM sqlite_master").fetchall()
        if sorted(sql or b"" for (sql,) in found) != sorted(table.sql.encode() for table in (sealed.META, *TABLES)):
            raise self._damaged("other tables, views or triggers than its own")

    @classmethod
    def create(cls, path: Path, fingerprint: Fingerprint, origin: Origin) -> None:
        """Creates an empty catalog where there is none; a crash leaves either none or a whole one."""
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous=EXTRA")
            db.execute("BEGIN IMMEDIATE")
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for table in (sealed.META, *TABLES):
                    table.create(db)
                sealed.write_meta(db, b"fingerprint", fingerprint.encode())
                sealed.write_meta(db, b"origin", encode_json(asdict(origin)))
                sealed.write_tally(db, TABLES)
                db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            db.execute("COMMIT")
        finally:
            db.close()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def read_meta(self, key: str) -> str | None:
        """Returns one value of the store's own description, or None."""
        with self._explain_damage():
            return sealed.read_meta(self._db, key.encode())

    def read_shards(self) -> list[ShardRef]:
        """Returns every committed shard, by number."""
        shards = [
            ShardRef(number, sha256.decode(), num_rows, num_bytes)
            for number, sha256, num_rows, num_bytes, _ in self._read(SHARDS)
        ]
        for shard in shards:
            if parse_name(shard.name) != (shard.number, shard.sha256):
                raise self._damaged(f"a shard named {shard.name!r}")
        return shards

    def read_images(self) -> list[ImageRow]:
        """Returns every image of the folder as it was last scanned, by path."""
        with self._explain_damage():
            images = [decode_image(row) for row in self._read(IMAGES)]
            refuse_outside(image.path for image in images)
        return images

    def read_features(self) -> dict[FeatureKey, Location]:
        """Returns where each feature is."""
        return {
            FeatureKey(content_hash, view): Location(shard, row, FEATURE_STATUSES[status])
            for content_hash, view, shard, row, status, _ in self._read(FEATURES)
        }

    def find_damage(self) -> list[str]:
        """Checks the whole file: SQLite's structure, every row's checksum and every table's tally."""
        try:
            with self._explain_damage():
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
        with self._explain_damage():
            self._db.execute("BEGIN")
            yield
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

    def forget_shard(self, number: int) -> None:
        """Forgets a shard and its rows, so that their images are extracted again."""
        with self.transaction():
            self._db.execute("DELETE FROM features WHERE shard = ?", (number,))
            self._db.execute("DELETE FROM shards WHERE number = ?", (number,))

    def _read(self, table: SealedTable) -> list[sealed.Row]:
        with self._explain_damage():
            return table.read(self._db)

    @contextmanager
    def _explain_damage(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, sealed.DamagedTableError, ValueError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, got: str) -> CatalogDamagedError:
        return CatalogDamagedError(
            self._path,
            "a sound catalog",
            got,
            "Run `python -m features check STORE`, then with --rebuild-catalog",
        )
