"""Files that are whole or absent after any interruption: kill -9, a full disk, a power cut."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from base.errors import StoreWriteError
from base.regular import RegularFile

PARTIAL_PREFIX = ".partial-"
_MAX_OBSTACLES = 9
"""Foreign entries with the names of partial files that are tolerated."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_MOUNTS = Path("/proc/self/mountinfo")


@contextmanager
def open_synced(path: Path) -> Iterator[BinaryIO]:
    """Open a new file, whose bytes are on the disk when the block ends; the caller gives it its final name."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "w+b") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that replaces another one when the block ends; no reader and no crash sees a part of it.

    The bytes go to a hidden file in the same folder, reach the disk, and only then get their name. The folder is
    synchronised last, so that the name survives a power cut.

    Raises:
        OSError: the disk refused a step. After any error the hidden file is removed, and `path` is unchanged.
    """
    partial = _clear_partial(path)
    try:
        with open_synced(partial) as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Write a whole file as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(data)


def _clear_partial(path: Path) -> Path:
    """Return a free name for a partial file; one that an interrupted write left is removed, a link or folder stays."""
    for number in ("", *(f"-{number}" for number in range(2, _MAX_OBSTACLES + 1))):
        partial = path.with_name(f"{PARTIAL_PREFIX}{path.name}{number}")
        if is_regular(partial):
            partial.unlink()
        if not os.path.lexists(partial):
            return partial
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(partial))


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise StoreWriteError where the disk of an existing folder has less room than a number of bytes."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise StoreWriteError(
            folder, f"room for {num_bytes:,} bytes", f"{free:,} free", "Make room, or choose another disk"
        )


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut.

    Source: fsync(2): a new file's name is durable only once its folder was synchronised.
    """
    _sync(folder, os.O_DIRECTORY)


def sync_tree(folder: Path) -> None:
    """Make everything in a folder, and the names in it, survive a power cut."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(place) / name, os.O_NOFOLLOW)
        sync_folder(Path(place))


def _sync(path: Path, flag: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flag)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file in hexadecimal digits, without holding the file in memory.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with RegularFile(path, follow=True) as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Read a whole foreign file, opening it once.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than `max_bytes`.
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
    """Remove the partial files of interrupted writes to files whose names are ours; return their paths.

    Other files with the prefix, links and folders stay.
    """
    found = sorted(folder.glob(f"{PARTIAL_PREFIX}*"))
    leftovers = [path for path in found if is_ours(path.name.removeprefix(PARTIAL_PREFIX)) and is_regular(path)]
    for leftover in leftovers:
        leftover.unlink()
    return leftovers


def remove_tree(path: Path) -> None:
    """Remove a file or a folder, read-only folders too; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    for place, _, _ in os.walk(path):
        Path(place).chmod(Path(place).stat().st_mode | stat.S_IRWXU)
    shutil.rmtree(path)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; return False where the system cannot. Source: rename(2), RENAME_EXCHANGE."""
    renameat2: Any = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if not renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def is_mount(folder: Path) -> bool:
    """Return whether a folder is a mount point, also one mounted from its own file system."""
    # Such a one is in this list alone. Source: proc_pid_mountinfo(5), field 5.
    lines = _MOUNTS.read_text(errors="surrogateescape").splitlines() if _MOUNTS.exists() else []
    escaped = re.sub(r"[\\ \t\n]", lambda found: f"\\{ord(found[0]):03o}", str(folder))
    return folder.is_mount() or any(line.split(" ")[4] == escaped for line in lines)
