"""Advisory file locks: one writer at a time, for the whole write."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from base.errors import NoLocksError, StoreLockedError
from base.files import describe_file_system

LOCK_NAME = "LOCK"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""Errors of a file system without locks, such as NFS without its lock service, or Lustre mounted without `flock`."""
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
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield os.pread(descriptor, 4096, 0).decode(errors="replace").strip() or "another process"
                return
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                if is_removed and not os.fstat(descriptor).st_size:
                    path.unlink(missing_ok=True)
                raise _build_no_locks_error(protected, error) from error
            if not _CONTENT.match(os.pread(descriptor, 4096, 0)):
                raise FileExistsError(errno.EEXIST, "File exists and is not a lock file of Headstart", str(path))
            # The previous holder may have removed the file after it was opened here.
            if is_removed and not _is_same_file(path, descriptor):
                continue
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {started}\n".encode(), 0)
            try:
                yield ""
            finally:
                os.ftruncate(descriptor, 0)
                if is_removed:
                    path.unlink(missing_ok=True)
            return
        finally:
            os.close(descriptor)


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def require_locks(folder: Path) -> None:
    """Raise NoLocksError if files in a folder, or in its nearest existing parent, cannot be locked.

    Both kinds of lock are tried: the lock of a store is taken with `flock`, and SQLite locks the catalog with `fcntl`.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    try:
        with TemporaryFile(dir=existing) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Other errors, such as a missing permission, are reported when the folder is written.
        if error.errno in _NO_LOCKS:
            raise _build_no_locks_error(folder, error) from error


def supports_locks(descriptor: int) -> bool:
    """Return whether an open file can be locked with `fcntl`, as SQLite does.

    SQLite does not use the first byte of a database as a lock. Source: SQLite's file format, "The Lock-Byte Page".
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, 1)
    except OSError as error:
        return error.errno not in _NO_LOCKS
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
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # A writer that has the lock writes its process number into the file. This function does not lock an empty
        # file, because a writer that starts at the same moment would find it locked and fail.
        if os.pread(descriptor, 1, 0):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(descriptor)
    return False
