"""Read the files of folders for comparisons, limit the size of files, and let locks fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from base.lock import LOCK_NAME
from tests.systems import skip_on_windows


def read_files(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder by relative path, except locks, whose content changes with every writer."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK_NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@contextmanager
def limit_file_size(num_bytes: int) -> Iterator[None]:
    """Let each write beyond a file size fail, as on a full disk."""
    skip_on_windows("limit of the size of files")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def remove_locks(
    patch: pytest.MonkeyPatch, number: int = errno.ENOLCK, names: Sequence[str] = ("flock", "lockf")
) -> None:
    """Let every lock of this process fail, as on a file system without locks; SQLite's own locks still work."""
    skip_on_windows("file systems without locks")
    import fcntl

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in names:
        patch.setattr(fcntl, name, fail)
