"""The catalog: which image is where now. SQLite, the only file of a store that changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from features.errors import FeatureStoreError, StoreMissingError
from features.schema import (
    SCHEMA_VERSION,
    FeatureKey,
    FeatureStatus,
    Fingerprint,
    ImageStatus,
    Origin,
    encode_json,
)
from features.shard import ShardRef

CATALOG_NAME = "catalog.sqlite"
APPLICATION_ID = 0x48535452
"""`PRAGMA application_id` of a catalog: "HSTR"."""

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE shards (
    number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, num_rows INTEGER NOT NULL, num_bytes INTEGER NOT NULL
);
CREATE TABLE features (
    content_hash BLOB NOT NULL, view INTEGER NOT NULL,
    shard INTEGER NOT NULL REFERENCES shards (number), row INTEGER NOT NULL, status TEXT NOT NULL,
    PRIMARY KEY (content_hash, view)
) WITHOUT ROWID;
CREATE TABLE images (
    path TEXT PRIMARY KEY, label TEXT NOT NULL, split TEXT NOT NULL,
    num_bytes INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
    content_hash BLOB, status TEXT NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class ImageRow:
    """One image of today's folder, and how far extraction came with it."""

    path: str
    """Relative to the images' folder, with `/`; bytes that are not UTF-8 as surrogate escapes."""
    label: str
    split: str
    """`train`, `validation`, `test`, or empty where the folder has no splits."""
    num_bytes: int
    modified_ns: int
    content_hash: bytes | None = None
    status: ImageStatus = ImageStatus.PENDING
    reason: str = ""


class Catalog:
    """The store's SQLite file; every change is one transaction that has reached the disk when it returns."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Opens an existing catalog.

        Args:
            path: the SQLite file.
            writable: whether changes will be made; the caller then holds the write lock.

        Raises:
            StoreMissingError: there is no catalog, or the file is something else.
            FeatureStoreError: it was written by another schema version.
        """
        if not path.is_file():
            raise StoreMissingError(
                path.parent, "a feature store", "no catalog there", "Run `python -m extract --store` first"
            )
        mode = "rw" if writable else "ro"
        self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=30)
        self._db.isolation_level = None
        self._db.text_factory = _decode_text
        try:
            application = self._db.execute("PRAGMA application_id").fetchone()[0]
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            application, version = str(error), 0
        if application != APPLICATION_ID:
            self._db.close()
            raise StoreMissingError(
                path, "a Headstart catalog", f"another file ({application})", "Give another --store"
            )
        if version != SCHEMA_VERSION:
            self._db.close()
            raise FeatureStoreError(
                path, f"schema version {SCHEMA_VERSION}", str(version), "Extract into a new --store"
            )
        # EXTRA also synchronises the folder after the journal goes, so that a commit survives a power cut.
        self._db.execute("PRAGMA synchronous=EXTRA")

    @classmethod
    def create(cls, path: Path, fingerprint: Fingerprint, origin: Origin) -> None:
        """Creates an empty catalog in one transaction; a crash leaves either none or a whole one."""
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous=EXTRA")
            db.execute("BEGIN IMMEDIATE")
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _TABLES.split(";"):
                    db.execute(statement)
                values = {
                    "fingerprint": encode_json(asdict(fingerprint)),
                    "origin": encode_json(asdict(origin)),
                }
                db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
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
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def read_shards(self) -> list[ShardRef]:
        """Returns every committed shard, by number."""
        rows = self._db.execute("SELECT number, sha256, num_rows, num_bytes FROM shards ORDER BY number")
        return [ShardRef(*row) for row in rows]

    def read_images(self) -> list[ImageRow]:
        """Returns every image of the folder as it was last scanned, by path."""
        rows = self._db.execute(
            "SELECT path, label, split, num_bytes, modified_ns, content_hash, status, reason"
            " FROM images ORDER BY path"
        )
        return [
            ImageRow(path, label, split, num_bytes, modified_ns, content_hash, ImageStatus(status), reason)
            for path, label, split, num_bytes, modified_ns, content_hash, status, reason in rows
        ]

    def read_features(self) -> dict[FeatureKey, tuple[int, int, FeatureStatus]]:
        """Returns where each feature is: (shard number, row, status)."""
        rows = self._db.execute("SELECT content_hash, view, shard, row, status FROM features")
        return {
            FeatureKey(content_hash, view): (shard, row, FeatureStatus(status))
            for content_hash, view, shard, row, status in rows
        }

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Makes every read inside it see one and the same state, whatever a writer does meanwhile."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Makes every change inside it at once, or none; inside another one it joins it."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def write_meta(self, key: str, value: str) -> None:
        """Sets one value of the store's own description."""
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def write_images(self, images: Iterable[ImageRow]) -> None:
        """Adds images, or replaces those of the same path."""
        with self.transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO images VALUES (CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?, ?, ?, ?)",
                (
                    (
                        _encode_text(image.path),
                        _encode_text(image.label),
                        image.split,
                        image.num_bytes,
                        image.modified_ns,
                        image.content_hash,
                        image.status.value,
                        image.reason,
                    )
                    for image in images
                ),
            )

    def remove_images(self, paths: Iterable[str]) -> None:
        """Forgets images that are no longer in the folder; their features stay, in case they come back."""
        with self.transaction():
            self._db.executemany(
                "DELETE FROM images WHERE path = CAST(? AS TEXT)", ((_encode_text(path),) for path in paths)
            )

    def add_shard(
        self, shard: ShardRef, keys: Iterable[FeatureKey], statuses: Iterable[FeatureStatus]
    ) -> None:
        """Commits a shard that stands on the disk, with all its rows."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO shards VALUES (?, ?, ?, ?)",
                (shard.number, shard.sha256, shard.num_rows, shard.num_bytes),
            )
            self._db.executemany(
                "INSERT INTO features VALUES (?, ?, ?, ?, ?)",
                (
                    (key.content_hash, key.view, shard.number, row, status.value)
                    for row, (key, status) in enumerate(zip(keys, statuses, strict=True))
                ),
            )


def _decode_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _encode_text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
