"""SQLite files that may be foreign: the header is read as bytes before SQLite may write anything."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from base.errors import CatalogDamagedError, FeatureStoreError, StoreLockedError, StoreMissingError, StoreWriteError
from base.regular import RegularFile

APPLICATION_ID = 0x48535452
"""`PRAGMA application_id` of a catalog: "HSTR"."""
BUSY_SECONDS = 30.0
"""How long SQLite waits for a lock that another process holds."""
_MAGIC = b"SQLite format 3\0"
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
_READ_ONLY = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")
_FAILED = ("SQLITE_IOERR", "SQLITE_FULL", "SQLITE_NOMEM", "SQLITE_PROTOCOL", "SQLITE_INTERRUPT")


def connect(path: Path) -> sqlite3.Connection:
    """Open a catalog's file, after checking its header: SQLite rolls back any journal beside a file that it opens.

    Raises:
        FeatureStoreError: what `check_header` raises, or the file cannot be opened.
    """
    check_header(path)
    with convert_sqlite_errors(path):
        name = quote(str(path.resolve()), errors="surrogateescape")
        # Readers too: where a killed run left a transaction half-way, SQLite undoes it. It falls back to read-only.
        db = sqlite3.connect(f"file:{name}?mode=rw", uri=True, timeout=BUSY_SECONDS)
    db.isolation_level = None
    db.text_factory = bytes
    return db


def check_header(path: Path) -> None:
    """Check that a file is a catalog by its first bytes, without SQLite.

    Source: SQLite's file format, "The Database Header".

    Raises:
        StoreMissingError: it is another SQLite database, or a link.
        CatalogDamagedError: it is no SQLite database.
        FeatureStoreError: it cannot be read, or is something else than a file.
    """
    if path.is_symlink():
        raise StoreMissingError(path, "a catalog", "a link", "Give the --store that it leads to")
    try:
        with RegularFile(path) as file:
            header = file.read(72)
    except OSError as error:
        advice = "See what is there and who may read it"
        raise FeatureStoreError(path, "a catalog that can be read", error.strerror or str(error), advice) from error
    if not header.startswith(_MAGIC):
        raise build_damage_error(path, "file is not a database")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise StoreMissingError(path, "a Headstart catalog", "another SQLite database", "Give another --store")


@contextmanager
def convert_sqlite_errors(path: Path) -> Iterator[None]:
    """Raise errors of SQLite, and of decoding its rows, as errors that a user can act on."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", None) or ""
        if name.startswith(_BUSY):
            expected, advice = "no other process that holds the catalog", "Wait until it has finished, or stop it"
            raise StoreLockedError(path, expected, str(error), advice) from error
        if name.startswith(_READ_ONLY):
            expected = "a place that can be written to, where a killed run's journal is rolled back"
            advice = "Make it writable once, or copy the store to a place that can be written to"
            raise StoreWriteError(path, expected, f"a read-only one ({error})", advice) from error
        if name.startswith(_FAILED):
            advice = "See whether the disk has room and works, and run again"
            raise FeatureStoreError(path, "a catalog that can be read", str(error), advice) from error
        raise build_damage_error(path, str(error)) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # A foreign catalog can have right checksums and values without a meaning.
        got = f"the unknown value {error}" if isinstance(error, LookupError) else str(error)
        raise build_damage_error(path, got) from error


def build_damage_error(path: Path, got: str) -> CatalogDamagedError:
    """Return the error for a catalog whose content is not what was written to it."""
    advice = "Run `python -m features check STORE`, then with --rebuild-catalog"
    return CatalogDamagedError(path, "a sound catalog", got, advice)


def convert_write_error(store: Path, error: OSError | sqlite3.OperationalError, safe: str = "") -> StoreWriteError:
    """Return the error for a store that cannot be written to; `safe` is what the advice begins with."""
    number, got = getattr(error, "errno", None), str(error)
    expected, advice = "a store that can be written to", "see what is there and who may write it"
    if number in (errno.ENOSPC, errno.EDQUOT) or "full" in got:
        expected, got, advice = "room for the next shard", "a full disk", "make room"
    elif number == errno.EROFS or "readonly" in got:
        got, advice = f"a read-only place ({got})", "make it writable, or copy the store to a place that is"
    advice = f"{safe}{advice}, and run again"
    return StoreWriteError(store, expected, got, advice[0].upper() + advice[1:])
