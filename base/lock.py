"""Advisory file locks: one writer at a time, for the whole write."""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from base import system
from base.errors import NoLocksError, StoreLockedError
from base.files import describe_file_system

LOCK_NAME = "LOCK"
_CONTENT = re.compile(rb"(process \d+ on .*)?\Z", re.DOTALL)


@contextmanager
def hold_write_lock(store: Path) -> Iterator[None]:
    """Hold the write lock of a store; its folder must exist.

    Raises:
        StoreLockedError: another process holds the lock; the error names the process.
        NoLocksError: the file system has no locks.
    """
    require_locks(store)
    with hold_lock(store / LOCK_NAME, store) as holder:
        if holder:
            advice = "Wait until it ends, or stop it"
            raise StoreLockedError(store, "no other writer", f"a lock held by {holder}", advice)
        yield


@contextmanager
def hold_lock(path: Path, protected: Path, *, is_removed: bool = False) -> Iterator[str]:
    """Try to lock a file for the block; the file is created if needed.

    The kernel releases the lock when the process ends, even if it is killed.

    Args:
        path: the lock file.
        protected: what the lock protects, for errors.
        is_removed: whether the file is removed when the lock is released.

    Yields:
        An empty string if the lock was acquired, otherwise a description of the process that holds it.

    Raises:
        NoLocksError: the file system has no locks.
        OSError: the file cannot be created or opened, is a link, or is not a lock file.
    """
    while True:
        descriptor, is_obsolete = system.open_file(path, os.O_RDWR | os.O_CREAT), False
        try:
            try:
                is_acquired = system.lock(descriptor)
            except OSError as error:
                if error.errno not in system.NO_LOCKS:
                    raise
                is_obsolete = is_removed and not os.fstat(descriptor).st_size
                raise _build_no_locks_error(protected, error) from error
            if not is_acquired:
                yield system.read_at(descriptor, 4096, 0).decode(errors="replace").strip() or "another process"
                return
            if not _CONTENT.match(system.read_at(descriptor, 4096, 0)):
                raise FileExistsError(errno.EEXIST, "File exists and is not a lock file of Headstart", str(path))
            # The previous holder may have removed the file after it was opened here.
            if is_removed and not _is_same_file(path, descriptor):
                continue
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            os.ftruncate(descriptor, 0)
            holder = f"process {os.getpid()} on {socket.gethostname()} since {started}\n"
            system.write_at(descriptor, holder.encode(), 0)
            is_obsolete = is_removed
            try:
                yield ""
            finally:
                os.ftruncate(descriptor, 0)
            return
        finally:
            system.close_lock(descriptor, path if is_obsolete else None)


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def require_locks(folder: Path) -> None:
    """Raise NoLocksError if files in a folder, or in its nearest existing parent, cannot be locked."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    try:
        with TemporaryFile(dir=existing) as file:
            system.try_locks(file.fileno())
    except OSError as error:
        # Other errors, such as a missing permission, are reported when the folder is written.
        if error.errno in system.NO_LOCKS:
            raise _build_no_locks_error(folder, error) from error


def supports_locks(descriptor: int) -> bool:
    """Return whether SQLite can lock an open database."""
    try:
        system.try_sqlite_lock(descriptor)
    except OSError as error:
        return error.errno not in system.NO_LOCKS
    return True


def _build_no_locks_error(path: Path, error: OSError) -> NoLocksError:
    got = f"{describe_file_system(path)} ({error.strerror})"
    advice = "Use a folder on a local disk, or mount the file system with locks"
    return NoLocksError(path, "a file system with locks, for writing", got, advice)


def is_locked(store: Path) -> bool:
    """Return whether a process is writing to a store; False for a packed store and for a missing one."""
    return is_held(store / LOCK_NAME)


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock of a lock file; the file is not changed."""
    try:
        descriptor = system.open_file(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        # A writer that has the lock writes its process number into the file. This function does not lock an empty
        # file, because a writer that starts at the same moment would find it locked and fail.
        return bool(system.read_at(descriptor, 1, 0)) and system.is_lock_held(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
