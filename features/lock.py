"""One writer at a time: an advisory lock on STORE/LOCK, held for the whole write."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features.errors import StoreLockedError

LOCK_NAME = "LOCK"


@contextmanager
def hold_write_lock(store: Path) -> Iterator[None]:
    """Holds the store's write lock; the kernel lets go of it however the process ends.

    Args:
        store: an existing folder.

    Raises:
        StoreLockedError: another process holds it; says which, and touches nothing.
    """
    path = store / LOCK_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip() or "another process"
            raise StoreLockedError(
                store, "no other writer", f"a lock held by {holder}", "Wait until it has finished, or stop it"
            ) from None
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = f"process {os.getpid()} on {socket.gethostname()} since {started}\n"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
