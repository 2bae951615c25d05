"""Tables of the catalog, with a checksum in each row and totals of each table.

SQLite detects damage to its own structure, but not to the values in a row. Here the last value of each row is the
CRC-32 of the others, and `meta` has the totals of each table: the number of rows and the sum of their checksums. Every
reader therefore detects a changed, missing or additional row.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from operator import itemgetter
from typing import Any, NamedTuple

from features.schema import FeatureStatus, ImageStatus

TOTALS_KEY = b"tally"
"""Key of the totals in `meta`; the totals do not include this row."""

Row = tuple[Any, ...]
"""Values of a row: int, or bytes for text and blobs."""
Totals = Mapping[str, tuple[int, ...]]
"""Number of rows and sum of their checksums, by the name of the table."""

_ROWS_PER_BLOCK = 256
"""Rows that are checked together, while they are in the processor's cache."""
_CRC, _ALL_BUT_LAST = itemgetter(-1), itemgetter(slice(0, -1))


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
        """Read all rows; see `read_blocks`."""
        return [row for block in self.read_blocks(db) for row in block]

    def read_blocks(self, db: sqlite3.Connection) -> Iterator[list[Row]]:
        """Yield all rows in blocks, sorted by key, including their checksums. `meta` has none for its totals.

        Raises:
            ValueError: a row fails its checksum, or, after the last block, the number of rows is wrong.
        """
        expected, num_rows, crcs = read_totals(db)[self.name], 0, 0
        for block in self.select(db):
            rows = [row for row in block if row[0] != TOTALS_KEY] if self is META else block
            num_rows += len(rows)
            crcs += sum(map(_CRC, rows))
            yield rows
        if expected != (num_rows, crcs):
            raise ValueError(f"missing or additional rows in table {self.name}")

    def select(self, db: sqlite3.Connection) -> Iterator[list[Row]]:
        """Yield all rows in blocks; raise ValueError if one fails its checksum, without a look at the totals."""
        rows, encode = db.execute(f"SELECT * FROM {self.name}"), self._pattern.__mod__
        while block := rows.fetchmany(_ROWS_PER_BLOCK):
            if list(map(zlib.crc32, map(encode, map(_ALL_BUT_LAST, block)))) != list(map(_CRC, block)):
                raise ValueError(f"a row with a wrong checksum in table {self.name}")
            yield block

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


def read_totals(db: sqlite3.Connection) -> Totals:
    """Return the totals of all tables; raise ValueError, LookupError or TypeError if they are missing or damaged."""
    (value,) = (row[1] for block in META.select(db) for row in block if row[0] == TOTALS_KEY)
    totals = json.loads(value)
    return {table.name: tuple(totals[table.name]) for table in TABLES}


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


def decode_images(blocks: Iterable[Sequence[Row]]) -> list[ImageRow]:
    """Decode rows of `images`, with their checksums; equal labels become one object.

    Raises:
        ValueError: a path is outside the images folder.
        KeyError: unknown status.
    """
    images: list[ImageRow] = []
    decode, create = cache(decode_text), partial(tuple.__new__, ImageRow)
    for block in blocks:
        # By columns, this takes three quarters of the time of a loop over the rows.
        paths, labels, splits, num_bytes, modified_ns, hashes, statuses, reasons, _ = zip(*block, strict=True)
        texts = [path.decode("utf-8", "surrogateescape") for path in paths]
        check_paths(texts)
        images += map(
            create,
            zip(
                texts,
                map(decode, labels),
                map(decode, splits),
                num_bytes,
                modified_ns,
                (content_hash or None for content_hash in hashes),
                map(_IMAGE_STATUSES.__getitem__, statuses),
                map(decode, reasons),
                strict=True,
            ),
        )
    return images


def encode_image(image: ImageRow) -> Row:
    """Encode an image as a row of `images`, without its checksum."""
    path, label, split, status, reason = map(
        encode_text, (image.path, image.label, image.split, image.status, image.reason)
    )
    return path, label, split, image.num_bytes, image.modified_ns, image.content_hash or b"", status, reason


def check_paths(paths: Iterable[str]) -> None:
    """Raise ValueError for a path outside the images folder."""
    for path in paths:
        # Most paths do not have two dots at all.
        if path[:1] == "/" or (".." in path and ".." in path.split("/")):
            raise ValueError(f"the path {path!r} outside the images folder")


def encode_text(text: str) -> bytes:
    """Encode a path or a label; surrogate escapes become the original bytes."""
    return text.encode("utf-8", "surrogateescape")


def decode_text(data: bytes) -> str:
    """Decode a path or a label; bytes that are not UTF-8 become surrogate escapes."""
    return data.decode("utf-8", "surrogateescape")
