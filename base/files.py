"""Write files atomically: after kill -9, a full disk or a power cut, a file has its old or its new content."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from base import system
from base.errors import StoreWriteError
from base.regular import RegularFile

PARTIAL_PREFIX = ".partial-"
_MAX_PARTIAL_NAMES = 9
"""Maximum number of names to try for a partial file; links or folders of the user may already have some of them."""
_MAX_NAME_BYTES = 220
"""Largest part of a name in the name of a file beside it. Systems allow 255 bytes, or on Windows 255 characters."""
_MOUNTS = Path("/proc/self/mountinfo")


@contextmanager
def open_synced(path: Path) -> Iterator[BinaryIO]:
    """Open a new file and synchronise it with the disk at the end of the block."""
    with os.fdopen(system.open_file(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), "w+b") as file:
        yield file
        file.flush()
        system.sync(file.fileno())


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` at the end of the block.

    The bytes are written to a hidden file in the same folder and synchronised before the file is renamed. A reader
    never sees a partial file, not even after a crash. The folder is synchronised last, so that the name survives a
    power cut.

    Raises:
        OSError: a step failed. The hidden file is removed. `path` is unchanged, unless only the last step failed.
    """
    partial = _clear_partial(path)
    try:
        with open_synced(partial) as file:
            yield file
        system.rename(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    system.sync_folder(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Write bytes to a file with `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)


def _clear_partial(path: Path) -> Path:
    """Return a free name for a partial file.

    The partial file of an interrupted write is removed. A link or folder with that name is kept, and the next name is
    tried.
    """
    for number in ("", *(f"-{number}" for number in range(2, _MAX_PARTIAL_NAMES + 1))):
        partial = name_beside(path, PARTIAL_PREFIX, number)
        if is_regular(partial):
            partial.unlink()
        if not os.path.lexists(partial):
            return partial
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(partial))


def name_beside(path: Path, start: str, end: str = "") -> Path:
    """Return a path beside another one: its name between `start` and `end`, together at most 35 bytes.

    A longer name is cut, and then ends with a part of its digest, so that different names stay different.
    """
    name = path.name
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        end_of_cut = "~" + hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
        while len(os.fsencode(name + end_of_cut)) > _MAX_NAME_BYTES:
            name = name[:-1]
        name += end_of_cut
    return path.with_name(f"{start}{name}{end}")


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise StoreWriteError if the disk of an existing folder has less free space than `num_bytes`."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise StoreWriteError(
            folder, f"{num_bytes:,} bytes of free space", f"{free:,}", "Free some space or use another disk"
        )


def sync_tree(folder: Path) -> None:
    """Synchronise a folder and everything in it, so that it survives a power cut."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            # A symbolic link is part of its folder.
            if not (Path(place) / name).is_symlink():
                system.sync_file(Path(place) / name)
        system.sync_folder(Path(place))


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file in hexadecimal digits, without loading the file into memory.

    Raises:
        OSError: the file cannot be read or is not a regular file.
    """
    with RegularFile(path, follow=True) as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def read_regular_file(path: Path, max_bytes: int, *, follow: bool = False) -> bytes:
    """Read an untrusted file, which is opened once.

    Args:
        path: the file.
        max_bytes: largest allowed size.
        follow: whether the file may be a symbolic link, as for paths that the user gives.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger than `max_bytes`.
    """
    with RegularFile(path, follow=follow) as file:
        num_bytes = file.identity.num_bytes
        if num_bytes > max_bytes:
            raise OSError(errno.EFBIG, f"{num_bytes:,} bytes, more than the limit of {max_bytes:,}", str(path))
        return file.readall()


def is_regular(path: Path) -> bool:
    """Return whether a path is a regular file, and not a link."""
    return path.is_file() and not path.is_symlink()


def find_partial_files(folder: Path, is_ours: Callable[[str], bool]) -> list[Path]:
    """Find the partial files of interrupted writes in a folder.

    Args:
        folder: the folder.
        is_ours: returns whether Headstart writes files with the given name. Other files, links and folders are left
            out.
    """
    found = sorted(folder.glob(f"{PARTIAL_PREFIX}*"))
    return [path for path in found if is_ours(path.name.removeprefix(PARTIAL_PREFIX)) and is_regular(path)]


def remove_tree(path: Path) -> None:
    """Remove a file or a folder, including read-only folders; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    for place, _, files in os.walk(path):
        # Windows does not remove read-only files either.
        for entry in (Path(place), *(Path(place, name) for name in files if sys.platform == "win32")):
            entry.chmod(entry.stat().st_mode | stat.S_IRWXU)
    shutil.rmtree(path)


def is_mount(folder: Path) -> bool:
    """Return whether a folder is a mount point, including a bind mount from the same file system."""
    # Only this list shows a bind mount.
    return os.path.ismount(folder) or any(place == folder for place, _ in _list_mounts())


def describe_file_system(path: Path) -> str:
    """Describe the file system of a path by its type and mount point, such as `nfs4 at /data`."""
    place = path.resolve()
    # A later mount hides an earlier one at the same place.
    mounts = [mount for mount in _list_mounts() if place.is_relative_to(mount[0])]
    if not mounts:
        return "another file system"
    folder, kind = max(reversed(mounts), key=lambda mount: len(mount[0].parts))
    return f"{kind} at {folder}"


def _list_mounts() -> list[tuple[Path, str]]:
    """List mount points and types of file systems on Linux. Source: proc_pid_mountinfo(5), fields 5 and 9."""
    lines = _MOUNTS.read_text(errors="surrogateescape").splitlines() if _MOUNTS.exists() else []
    mounts = []
    for line in lines:
        fields, _, rest = line.partition(" - ")
        escaped = fields.split(" ")[4]
        name = re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), escaped)
        mounts.append((Path(name), rest.split(" ")[0]))
    return mounts
