"""Open untrusted files: only regular files, each opened once. A pipe is rejected and does not block."""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

from base import system


class FileIdentity(NamedTuple):
    """Properties of a file; at least one of them changes when the file is replaced or modified."""

    device: int
    inode: int
    num_bytes: int
    modified_ns: int
    changed_ns: int


_TIMESTAMP_STEP_NS = 100_000_000
"""Upper bound of the resolution of file timestamps: two writes within one step can have the same timestamps."""


class RegularFile(io.FileIO):
    """Regular file, open for reading; h5py accepts it instead of a path.

    Reads run in C code, which finishes before an interrupt is handled; HDF5 cannot recover from a read cut short.
    """

    def __init__(self, path: Path, *, follow: bool = False) -> None:
        """Open a file.

        Args:
            path: the file.
            follow: whether the file may be a symbolic link, as for paths that the user gives.

        Raises:
            OSError: the file does not exist, is not a regular file, or is a link and `follow` is False.
        """
        descriptor = system.open_file(path, os.O_RDONLY, follow=follow)
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "Not a regular file", str(path))
        super().__init__(descriptor, "rb")
        self.identity = self.identify()
        """Identity when the file was opened."""

    def identify(self) -> FileIdentity:
        """Return the current identity of the open file."""
        status = os.fstat(self.fileno())
        return FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def detects_writes(identity: FileIdentity) -> bool:
    """Return whether any later write to the file changes its identity.

    Shortly after a write, another write can leave the timestamps unchanged. Source: Git, "racy-git".
    """
    return max(identity.modified_ns, identity.changed_ns) < time.time_ns() - _TIMESTAMP_STEP_NS
