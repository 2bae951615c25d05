"""Totals of the tables of a catalog: the number of rows and the sum of their checksums.

A transaction adds its changes to the totals. It never counts the tables again: a commit takes the same time in a store
of any size, and a row that was lost before remains an error.
"""

from __future__ import annotations

import json
import sqlite3

from features.catalog.tables import META, TABLES, TOTALS_KEY, Totals, write_meta

NO_ROWS: Totals = {table.name: (0, 0) for table in TABLES}
"""Totals of empty tables."""


def count_changes(db: sqlite3.Connection) -> None:
    """Count the rows that a connection adds and removes from now on.

    Temporary triggers count in the transaction of each change, so that a rollback also reverts the counts.
    """
    db.execute("PRAGMA temp_store=MEMORY")
    # Without it, REPLACE removes rows without their trigger.
    db.execute("PRAGMA recursive_triggers=ON")
    db.execute("CREATE TEMP TABLE changes (name TEXT PRIMARY KEY, num_rows INTEGER, crcs INTEGER) WITHOUT ROWID")
    for table in TABLES:
        db.execute("INSERT INTO changes VALUES (?, 0, 0)", (table.name,))
        for event, row, sign in (("INSERT", "new", "+"), ("DELETE", "old", "-")):
            # The totals do not include their own row.
            condition = f"WHEN {row}.key <> '{TOTALS_KEY.decode()}'" if table is META else ""
            db.execute(
                f"CREATE TEMP TRIGGER {event}_{table.name} AFTER {event} ON main.{table.name} {condition} BEGIN "
                f"UPDATE changes SET num_rows = num_rows {sign} 1, crcs = crcs {sign} {row}.crc "
                f"WHERE name = '{table.name}'; END"
            )


def read_changes(db: sqlite3.Connection) -> Totals:
    """Return the totals of the added rows minus those of the removed rows; empty if nothing was changed."""
    rows = db.execute("SELECT CAST(name AS BLOB), num_rows, crcs FROM changes")
    changes = {name.decode(): (num_rows, crcs) for name, num_rows, crcs in rows}
    return changes if any(map(any, changes.values())) else {}


def add_changes(db: sqlite3.Connection, totals: Totals, changes: Totals) -> None:
    """Write the sum of earlier totals and of changes, and count from 0 again, in the transaction of the changes."""
    sums = {name: [old + new for old, new in zip(totals[name], changes[name], strict=True)] for name in totals}
    write_meta(db, TOTALS_KEY, json.dumps(sums, sort_keys=True))
    db.execute("UPDATE changes SET num_rows = 0, crcs = 0")
