"""Regular files that may be foreign: each is opened once, and a pipe is never waited for."""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple


class FileIdentity(NamedTuple):
    """Properties of a file of which one changes whenever it is replaced or written to."""

    device: int
    inode: int
    num_bytes: int
    modified_ns: int
    changed_ns: int


_CLOCK_STEP_NS = 100_000_000
"""Longest step of the clock for files' times: a second write within it may leave them unchanged."""


class RegularFile(io.FileIO):
    """Regular file, open for reading; HDF5 accepts it in the place of a path.

    HDF5 reads through methods written in C, which an interrupt cannot stop half-way.
    """

    def __init__(self, path: Path, *, follow: bool = False) -> None:
        """Open a file; `follow` allows a link, for paths that the user gives.

        Raises:
            OSError: there is no such file, it is a link, or something else than a regular file.
        """
        # O_NONBLOCK: opening a pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
        descriptor = os.open(path, flags)
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "Not a regular file", str(path))
        super().__init__(descriptor, "rb")
        self.identity = self.identify()
        """Identity at the time of opening."""

    def identify(self) -> FileIdentity:
        """Return the identity of the open file now."""
        status = os.fstat(self.fileno())
        return FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def is_settled(identity: FileIdentity) -> bool:
    """Return whether a later write would change a file's identity. Source: Git's "racy-git" documentation."""
    return max(identity.modified_ns, identity.changed_ns) < time.time_ns() - _CLOCK_STEP_NS
