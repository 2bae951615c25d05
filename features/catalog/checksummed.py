"""SQLite tables whose every row carries a checksum, and whose every table has its rows counted.

SQLite notices damage to its own structure, not to what is in a row. Here each row ends with the CRC-32 of
its other values (which finds any single flipped byte), and a tally says how many rows each table has and
what their checksums add up to, so that a lost or an extra row is noticed too.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

TALLY_KEY = b"tally"

Row = tuple[Any, ...]
"""A row's values, int or bytes, also for columns of text."""


class DamagedTableError(Exception):
    """A row fails its checksum, or a table its tally."""


@dataclass(frozen=True)
class SealedTable:
    """A table and how its rows are sealed."""

    name: str
    columns: dict[str, str]
    """The SQL type of each: TEXT, BLOB or INTEGER."""
    key: str
    """The columns of the primary key, comma-separated."""

    @property
    def sql(self) -> str:
        """The statement that creates the table."""
        columns = ", ".join(f"{name} {kind} NOT NULL" for name, kind in self.columns.items())
        return f"CREATE TABLE {self.name} ({columns}, crc INTEGER NOT NULL, PRIMARY KEY ({self.key})) WITHOUT ROWID"

    def create(self, db: sqlite3.Connection) -> None:
        """Creates the table, within the caller's transaction."""
        db.execute(self.sql)

    def write(self, db: sqlite3.Connection, rows: Iterable[Row], *, on_conflict: str) -> None:
        """Writes rows with their checksums, within the caller's transaction.

        Args:
            db: the database.
            rows: in the order of the columns.
            on_conflict: `REPLACE`, `IGNORE` or `ABORT`, where the key is there already.
        """
        statement = f"INSERT OR {on_conflict} INTO {self.name} VALUES ({self._marks})"
        db.executemany(statement, ((*row, self.seal(row)) for row in rows))

    def read(self, db: sqlite3.Connection) -> list[Row]:
        """Reads the whole table by its key; each row ends with its checksum, which was compared.

        Raises:
            DamagedTableError: a row fails its checksum, or rows are missing or left over.
        """
        rows = db.execute(f"SELECT * FROM {self.name}").fetchall()
        self.compare(rows)
        tally = read_meta(db, TALLY_KEY)
        if json.loads(tally or "{}").get(self.name) != [len(rows), sum(row[-1] for row in rows)]:
            raise DamagedTableError(f"table {self.name}: rows are missing or left over")
        return rows

    def compare(self, rows: list[Row]) -> None:
        """Compares rows with their checksums.

        Raises:
            DamagedTableError: one differs.
        """
        pattern, crc32 = self._pattern, zlib.crc32
        try:
            sound = all(crc32(pattern % row[:-1]) == row[-1] for row in rows)
        except TypeError:
            # A damaged record can come back as values of other types.
            sound = False
        if not sound:
            raise DamagedTableError(f"table {self.name}: a row fails its checksum")

    def seal(self, row: Row) -> int:
        """Returns the CRC-32 over a row: integers in decimal and everything else as it is, NUL between."""
        return zlib.crc32(self._pattern % row)

    def count(self, db: sqlite3.Connection) -> list[int]:
        """Returns the table's tally: how many rows, and the sum of their checksums."""
        return list(db.execute(f"SELECT COUNT(*), COALESCE(SUM(crc), 0) FROM {self.name}").fetchone())

    @cached_property
    def _pattern(self) -> bytes:
        return b"\0".join(b"%d" if kind == "INTEGER" else b"%b" for kind in self.columns.values())

    @cached_property
    def _marks(self) -> str:
        # Text that is not UTF-8 cannot be bound as text, but it can be cast from its bytes.
        marks = ["CAST(? AS TEXT)" if kind == "TEXT" else "?" for kind in self.columns.values()]
        return ", ".join([*marks, "?"])


META = SealedTable("meta", {"key": "TEXT", "value": "TEXT"}, "key")


def write_meta(db: sqlite3.Connection, key: bytes, value: str) -> None:
    """Sets a value of `meta`."""
    META.write(db, [(key, value.encode("utf-8", "surrogateescape"))], on_conflict="REPLACE")


def read_meta(db: sqlite3.Connection, key: bytes) -> str | None:
    """Returns a value of `meta`, or None.

    Raises:
        DamagedTableError: the row fails its checksum.
    """
    rows = db.execute("SELECT * FROM meta WHERE key = CAST(? AS TEXT)", (key,)).fetchall()
    META.compare(rows)
    return rows[0][1].decode("utf-8", "surrogateescape") if rows else None


def write_tally(db: sqlite3.Connection, tables: Iterable[SealedTable]) -> None:
    """Counts the rows of tables and of `meta` itself; the last thing to do within a transaction."""
    db.execute("DELETE FROM meta WHERE key = CAST(? AS TEXT)", (TALLY_KEY,))
    tally = {table.name: table.count(db) for table in (META, *tables)}
    write_meta(db, TALLY_KEY, json.dumps(tally, sort_keys=True))


def compare_meta(db: sqlite3.Connection) -> None:
    """Compares `meta` with its checksums and its tally.

    Raises:
        DamagedTableError: a row fails its checksum, or rows are missing or left over.
    """
    rows = db.execute("SELECT * FROM meta").fetchall()
    META.compare(rows)
    counted = [row for row in rows if row[0] != TALLY_KEY]
    tally = json.loads(read_meta(db, TALLY_KEY) or "{}")
    if tally.get(META.name) != [len(counted), sum(row[-1] for row in counted)]:
        raise DamagedTableError("table meta: rows are missing or left over")
