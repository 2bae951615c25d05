"""Open SQLite files that may be untrusted, and convert errors of SQLite."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from base.errors import (
    CatalogDamagedError,
    FeatureStoreError,
    StoreLockedError,
    StoreMissingError,
    StoreWriteError,
    UsageError,
)
from base.invocation import format_command
from base.lock import supports_locks
from base.regular import FileIdentity, RegularFile

APPLICATION_ID = 0x48535452
"""`PRAGMA application_id` of a catalog, "HSTR" in ASCII."""
BUSY_SECONDS = 30.0
"""Maximum time, in seconds, to wait for the lock of another process."""
_MAX_PATH_BYTES = 504
"""Largest length of a catalog's path: SQLite allows 512 bytes for the path of the journal (`MAX_PATHNAME`)."""
_MAGIC = b"SQLite format 3\0"
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
_READ_ONLY = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")
_FAILED = ("SQLITE_IOERR", "SQLITE_FULL", "SQLITE_NOMEM", "SQLITE_PROTOCOL", "SQLITE_INTERRUPT")


def require_short_path(path: Path) -> None:
    """Raise UsageError if SQLite cannot open a catalog because its absolute path is too long."""
    folder = path.parent.resolve()
    limit, num_bytes = _MAX_PATH_BYTES - len(path.name) - 1, len(os.fsencode(folder))
    if num_bytes > limit:
        expected, got = f"a folder whose absolute path has at most {limit} bytes", f"{num_bytes:,}"
        raise UsageError(path.parent, expected, got, "Give a folder with a shorter path")


def connect(path: Path) -> tuple[sqlite3.Connection, FileIdentity | None]:
    """Open the file of a catalog, after checking its header.

    The header is checked first, because SQLite may modify a file that it opens: it rolls back a journal beside it.

    Returns:
        The connection. On a file system without locks it is read-only, and the second value is the identity of the
        file: a reader must compare it after the last read (`require_unchanged`), because no lock keeps writers away.

    Raises:
        UsageError: the path is too long for SQLite.
        FeatureStoreError: the file is not a catalog, or cannot be opened; see `check_header`.
    """
    require_short_path(path)
    identity, has_locks = check_header(path)
    # mode=rw also for readers, so that SQLite can roll back the transaction of a killed process. Without write
    # permission, SQLite opens the file read-only. Without locks, nothing may be rolled back: the journal may be that of
    # a running process on another computer.
    mode = "mode=rw" if has_locks else "mode=ro&nolock=1"
    with convert_sqlite_errors(path):
        name = quote(str(path.resolve()), errors="surrogateescape")
        db = sqlite3.connect(f"file:{name}?{mode}", uri=True, timeout=BUSY_SECONDS)
    db.isolation_level = None
    db.text_factory = bytes
    return db, None if has_locks else identity


def require_unchanged(path: Path, identity: FileIdentity) -> None:
    """Raise StoreLockedError if a catalog was changed since it was opened."""
    # The file is opened again, because NFS compares its cached state with the server only when a file is opened.
    if check_header(path)[0] != identity:
        expected = "a catalog that no other process writes while it is read without locks"
        raise StoreLockedError(path, expected, "a changed file", "Run the command again")


def check_header(path: Path) -> tuple[FileIdentity, bool]:
    """Check without SQLite that the first bytes of a file are those of a catalog.

    Source: SQLite's file format, "The Database Header".

    Returns:
        The identity of the file, and whether its file system has locks.

    Raises:
        StoreMissingError: the file is another SQLite database, or a link.
        CatalogDamagedError: the file is not a SQLite database.
        FeatureStoreError: the file cannot be read, or is not a regular file.
    """
    if path.is_symlink():
        raise StoreMissingError(path, "a catalog", "a link", "Give the store that contains its target")
    try:
        with RegularFile(path) as file:
            header, found = file.read(72), (file.identity, supports_locks(file.fileno()))
    except OSError as error:
        advice = "Check the file and its permissions"
        raise FeatureStoreError(path, "a readable catalog", error.strerror or str(error), advice) from error
    if not header.startswith(_MAGIC):
        raise build_damage_error(path, "a file that is not a database")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise StoreMissingError(path, "a Headstart catalog", "another SQLite database", "Give another --store")
    return found


@contextmanager
def convert_sqlite_errors(path: Path) -> Iterator[None]:
    """Convert errors of SQLite and of decoding its rows to FeatureStoreError."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", None) or ""
        if name.startswith(_BUSY):
            expected, advice = "a catalog that no other process has locked", "Wait until that process ends, or stop it"
            raise StoreLockedError(path, expected, str(error), advice) from error
        if name.startswith(_READ_ONLY):
            expected = "write permission and locks, to roll back the journal of a killed process"
            got = f"a read-only file, or a file system without locks ({error})"
            advice = "Run the command once where the store can be written, or on a copy on a local disk"
            raise StoreWriteError(path, expected, got, advice) from error
        if name.startswith(_FAILED):
            advice = "Check the disk and its free space, and try again"
            raise FeatureStoreError(path, "a readable catalog", str(error), advice) from error
        raise build_damage_error(path, str(error)) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # An untrusted catalog can have valid checksums and invalid values.
        got = f"the unknown value {error}" if isinstance(error, LookupError) else str(error)
        raise build_damage_error(path, got) from error


def build_damage_error(path: Path, got: str) -> CatalogDamagedError:
    """Return the error for a damaged catalog."""
    advice = f"Run `{format_command('features check', path.parent, '--rebuild-catalog')}`"
    return CatalogDamagedError(path, "an intact catalog", got, advice)


def convert_write_error(store: Path, error: OSError | sqlite3.OperationalError, num_safe: int = 0) -> StoreWriteError:
    """Convert an error of writing to a store; the advice mentions the number of committed features."""
    number, got = getattr(error, "errno", None), str(error)
    expected, advice = "a writable store", "Check the folder and its permissions, and try again"
    if number in (errno.ENOSPC, errno.EDQUOT) or "full" in got:
        expected, got, advice = "free space for the next shard", "a full disk", "Free some space and try again"
    elif number == errno.EROFS or "readonly" in got:
        got, advice = f"a read-only folder ({got})", "Make it writable, or copy the store to a writable folder"
    note = f" ({num_safe:,} committed features are intact)" if num_safe else ""
    return StoreWriteError(store, expected, got, f"{advice}{note}")
