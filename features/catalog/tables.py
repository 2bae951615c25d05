"""Tables of the catalog, with a checksum in each row and totals of each table.

SQLite detects damage to its own structure, but not to the values in a row. Here the last value of each row is the
CRC-32 of the others, and `meta` has the totals of each table: the number of rows and the sum of their checksums. Every
reader therefore detects a changed, missing or additional row.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from features.schema import FeatureStatus, ImageStatus

TOTALS_KEY = b"tally"
"""Key of the totals in `meta`; the totals do not include this row."""

Row = tuple[Any, ...]
"""Values of a row: int, or bytes for text and blobs."""


@dataclass(frozen=True)
class ChecksummedTable:
    """Table whose last column is the CRC-32 of the other columns."""

    name: str
    columns: str
    """Names and SQL types, such as `path TEXT, num_bytes INTEGER`."""
    key: str

    @property
    def sql(self) -> str:
        """Statement that creates the table."""
        columns = "".join(f"{column} NOT NULL, " for column in [*self.columns.split(", "), "crc INTEGER"])
        return f"CREATE TABLE {self.name} ({columns}PRIMARY KEY ({self.key})) WITHOUT ROWID"

    def write(self, db: sqlite3.Connection, rows: Iterable[Row], *, on_conflict: str = "REPLACE") -> None:
        """Write rows with their checksums, within the transaction of the caller.

        Args:
            db: the database.
            rows: values in the order of the columns.
            on_conflict: `REPLACE`, `IGNORE` or `ABORT`, for keys that exist.
        """
        # Text that is not UTF-8 cannot be bound as text; it is cast from bytes instead.
        marks = ", ".join("CAST(? AS TEXT)" if kind == "TEXT" else "?" for kind in self._kinds)
        statement = f"INSERT OR {on_conflict} INTO {self.name} VALUES ({marks}, ?)"
        db.executemany(statement, ((*row, zlib.crc32(self._pattern % row)) for row in rows))

    def read(self, db: sqlite3.Connection) -> list[Row]:
        """Read all rows, sorted by key, including their checksums.

        Raises:
            ValueError: a row fails its checksum, or the number of rows is wrong.
        """
        rows = self._select(db)
        meta = {row[0]: row[1] for row in (rows if self is META else META._select(db))}
        if self is META:
            rows = [row for row in rows if row[0] != TOTALS_KEY]
        if json.loads(meta.get(TOTALS_KEY, b"{}")).get(self.name) != [len(rows), sum(row[-1] for row in rows)]:
            raise ValueError(f"missing or additional rows in table {self.name}")
        return rows

    def _select(self, db: sqlite3.Connection) -> list[Row]:
        rows: list[Row] = db.execute(f"SELECT * FROM {self.name}").fetchall()
        pattern, crc32 = self._pattern, zlib.crc32
        if not all(crc32(pattern % row[:-1]) == row[-1] for row in rows):
            raise ValueError(f"a row with a wrong checksum in table {self.name}")
        return rows

    @property
    def _kinds(self) -> list[str]:
        return [column.split()[1] for column in self.columns.split(", ")]

    @cached_property
    def _pattern(self) -> bytes:
        """Format of the bytes for the CRC-32: integers as decimal digits, other values unchanged, separated by NUL."""
        return b"\0".join(b"%d" if kind == "INTEGER" else b"%b" for kind in self._kinds)


META = ChecksummedTable("meta", "key TEXT, value TEXT", "key")
SHARDS = ChecksummedTable("shards", "number INTEGER, sha256 TEXT, num_rows INTEGER, num_bytes INTEGER", "number")
FEATURES = ChecksummedTable(
    "features", "content_hash BLOB, view INTEGER, shard INTEGER, row INTEGER, status TEXT", "content_hash, view"
)
IMAGES = ChecksummedTable(
    "images",
    "path TEXT, label TEXT, split TEXT, num_bytes INTEGER, modified_ns INTEGER, content_hash BLOB, status TEXT, "
    "reason TEXT",
    "path",
)
TABLES = (META, SHARDS, FEATURES, IMAGES)
FEATURE_STATUSES = {status.value.encode(): status for status in FeatureStatus}
_IMAGE_STATUSES = {status.value.encode(): status for status in ImageStatus}


def write_meta(db: sqlite3.Connection, key: bytes, value: str) -> None:
    """Set a value in `meta`."""
    META.write(db, [(key, encode_text(value))])


def write_totals(db: sqlite3.Connection) -> None:
    """Update the totals of all tables, as the last step of a transaction."""
    db.execute("DELETE FROM meta WHERE key = CAST(? AS TEXT)", (TOTALS_KEY,))
    count = "SELECT COUNT(*), COALESCE(SUM(crc), 0) FROM"
    totals = {table.name: list(db.execute(f"{count} {table.name}").fetchone()) for table in TABLES}
    write_meta(db, TOTALS_KEY, json.dumps(totals, sort_keys=True))


class ImageRow(NamedTuple):
    """Image found in the folder, with its extraction status."""

    path: str
    """Path relative to the images folder, with `/`; bytes that are not UTF-8 are surrogate escapes."""
    label: str
    split: str
    """`train`, `validation`, `test`, or empty if the folder has no splits."""
    num_bytes: int
    modified_ns: int
    content_hash: bytes | None = None
    status: ImageStatus = ImageStatus.PENDING
    reason: str = ""


class Location(NamedTuple):
    """Shard, row and status of a feature."""

    shard: int
    row: int
    status: FeatureStatus


def decode_image(row: Row) -> ImageRow:
    """Decode a row of `images`, whose last value is its checksum."""
    path, label, split, num_bytes, modified_ns, content_hash, status, reason, _ = row
    path, label, split, reason = map(decode_text, (path, label, split, reason))
    return ImageRow(path, label, split, num_bytes, modified_ns, content_hash or None, _IMAGE_STATUSES[status], reason)


def encode_image(image: ImageRow) -> Row:
    """Encode an image as a row of `images`, without its checksum."""
    path, label, split, status, reason = map(
        encode_text, (image.path, image.label, image.split, image.status, image.reason)
    )
    return path, label, split, image.num_bytes, image.modified_ns, image.content_hash or b"", status, reason


def check_image_paths(images: Iterable[ImageRow]) -> None:
    """Raise ValueError for a path outside the images folder."""
    for image in images:
        if image.path.startswith("/") or ".." in image.path.split("/"):
            raise ValueError(f"the path {image.path!r} outside the images folder")


def encode_text(text: str) -> bytes:
    """Encode a path or a label; surrogate escapes become the original bytes."""
    return text.encode("utf-8", "surrogateescape")


def decode_text(data: bytes) -> str:
    """Decode a path or a label; bytes that are not UTF-8 become surrogate escapes."""
    return data.decode("utf-8", "surrogateescape")
