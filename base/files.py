"""Files that are either wholly there or not at all, also after kill -9, a full disk or a power cut."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from base.errors import StoreWriteError
from base.regular import RegularFile

PARTIAL_PREFIX = ".partial-"
_MAX_IN_THE_WAY = 9
"""Entries of others that may have the names of partial files."""


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file so that no reader and no crash ever sees a part of it.

    The bytes go to a hidden file beside `path`, reach the disk, and only then get their name; the
    folder is synchronised last, so that the name survives a power cut too.

    Args:
        path: where the file will stand; its folder exists.
        data: the whole content.

    Raises:
        OSError: the disk refused a step; the partial file is removed and `path` is as it was.
    """
    partial, descriptor = _open_partial(path)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _open_partial(path: Path) -> tuple[Path, int]:
    """Make the file to write before it gets its name; a link or a folder in the way is not ours, and stays."""
    name = PARTIAL_PREFIX + path.name
    for number in range(1, _MAX_IN_THE_WAY + 1):
        partial = path.with_name(name if number == 1 else f"{name}-{number}")
        if is_regular(partial):
            # An interrupted write left it.
            partial.unlink()
        with suppress(FileExistsError):
            return partial, os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path.with_name(name)))


@contextmanager
def open_synced(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to write whose bytes are on the disk when the `with` ends; its name is the caller's to give."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def require_space(folder: Path, num_bytes: int) -> None:
    """Raises StoreWriteError where a disk has not room for what is to come.

    Args:
        folder: an existing folder on the disk.
        num_bytes: what is to be written.
    """
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise StoreWriteError(
            folder, f"room for {num_bytes:,} bytes", f"{free:,} free", "Make room, or choose another disk"
        )


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut.

    Source: fsync(2): a new file's name is durable only once its folder was synchronised.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """Returns the digest of a file's bytes in hexadecimal digits, without holding the file in memory.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with RegularFile(path, follow=True) as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Read a whole file that may be foreign, opening it once: no link, pipe or device, and never more than a limit.

    Args:
        path: the file.
        max_bytes: the most that such a file may have.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger.
    """
    with RegularFile(path) as file:
        num_bytes = file.identity.num_bytes
        if num_bytes > max_bytes:
            raise OSError(errno.EFBIG, f"{num_bytes:,} bytes, where {max_bytes:,} are possible", str(path))
        return file.readall()


def is_regular(path: Path) -> bool:
    """Return whether there is a regular file, not a link to one."""
    return path.is_file() and not path.is_symlink()


def remove_partial_files(folder: Path, is_ours: Callable[[str], bool]) -> list[Path]:
    """Remove the files that interrupted writes left.

    Args:
        folder: where to look.
        is_ours: whether files of a name are written there; others of that prefix, and folders, stay.

    Returns:
        Their paths.
    """
    found = sorted(folder.glob(f"{PARTIAL_PREFIX}*"))
    leftovers = [path for path in found if is_ours(path.name.removeprefix(PARTIAL_PREFIX)) and is_regular(path)]
    for leftover in leftovers:
        leftover.unlink()
    return leftovers
