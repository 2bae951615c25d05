"""Differences between operating systems: open files, locks, durability, links, signals and processes.

Only this module uses what one system has and another lacks.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from io import FileIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

if sys.platform == "win32":
    import _thread
    import _winapi
    import msvcrt

    END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK)
    _EXCLUSIVE, _SHARED, _UNLOCKED = msvcrt.LK_NBLCK, msvcrt.LK_NBLCK, msvcrt.LK_UNLCK
    _HELD: type[OSError] = PermissionError
else:
    import fcntl

    END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    _EXCLUSIVE, _SHARED, _UNLOCKED = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN
    _HELD: type[OSError] = BlockingIOError

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""Errors of a file system without locks, such as NFS without its lock service, or Lustre mounted without `flock`."""
_LOCK_OFFSET = 2**30
"""Position of the locked byte on Windows, where other processes cannot read a locked byte. SQLite uses the same one."""
_NUM_RENAMES = 100
"""Number of attempts to rename, which together take two seconds."""
MOVES_OPEN_FILES = sys.platform != "win32"
"""Whether a folder can be renamed while a file in it, such as its lock, is open.

Where it cannot, a folder is moved without holding its lock: an open file of a writer prevents the move anyway.
"""
_moving = threading.Lock()


def open_file(path: Path, flags: int, *, follow: bool = False) -> int:
    """Open a file with flags such as `os.O_RDONLY`, and return its descriptor, which child processes do not inherit.

    Raises:
        OSError: the file cannot be opened, or is a symbolic link and `follow` is False.
    """
    if sys.platform == "win32":
        # Without a flag for it, a link is refused before the file is opened.
        if not follow and path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        try:
            return os.open(path, flags | os.O_BINARY | os.O_NOINHERIT, 0o666)
        except PermissionError:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path)) from None
            raise
    # Without O_NONBLOCK, opening a pipe waits for its other end.
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    return os.open(path, flags, 0o666)


def read_at(descriptor: int, num_bytes: int, offset: int) -> bytes:
    """Read at an offset of an open file; several threads may do so at once."""
    if sys.platform == "win32":
        with _moving:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, num_bytes)
    return os.pread(descriptor, num_bytes, offset)


def read_into(descriptor: int, target: memoryview, offset: int) -> int:
    """Read at an offset of an open file into memory, and return the number of bytes, 0 at the end of the file."""
    if sys.platform == "win32":
        data = read_at(descriptor, len(target), offset)
        target[: len(data)] = data
        return len(data)
    return os.preadv(descriptor, [target], offset)


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> int:
    """Write at an offset of an open file, and return the number of written bytes."""
    if sys.platform == "win32":
        with _moving:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.write(descriptor, data)
    return os.pwrite(descriptor, data, offset)


def sync(descriptor: int) -> None:
    """Wait until an open file is on the disk."""
    if sys.platform == "darwin":
        # Source: fsync(2) of macOS: only F_FULLFSYNC empties the cache of the disk. Some file systems lack it.
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk."""
    # Windows synchronises only files that are open for writing.
    _sync(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Source: fsync(2): the name of a new file is durable only after its folder is synchronised. Windows cannot open a
    folder for this; NTFS writes changes of names to its journal.
    """
    if sys.platform != "win32":
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY, follow=True)


def _sync(path: Path, flags: int, *, follow: bool = False) -> None:
    descriptor = open_file(path, flags, follow=follow)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock an open file until it is closed or the process ends; return False if another process holds the lock.

    Raises:
        OSError: the file cannot be locked; with one of `NO_LOCKS`, no file of its file system can.
    """
    return _set_lock(descriptor, _EXCLUSIVE)


def close_lock(descriptor: int, removed: Path | None = None) -> None:
    """Close a locked file, which releases the lock, and remove it if its path is given."""
    # The file is removed while it is locked. Otherwise, the next holder could lock a file that is gone.
    try:
        if removed and sys.platform != "win32":
            removed.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
    # Windows does not remove a file that is open, so the file of the next holder is kept.
    if removed and sys.platform == "win32":
        with suppress(OSError):
            removed.unlink()


def is_lock_held(descriptor: int) -> bool:
    """Return whether another process holds the lock of an open file, without keeping others from locking it.

    Raises:
        OSError: the file cannot be locked.
    """
    return not (_set_lock(descriptor, _SHARED) and _set_lock(descriptor, _UNLOCKED))


def _set_lock(descriptor: int, mode: int) -> bool:
    """Lock or unlock an open file; return False if another process has locked it."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _LOCK_OFFSET, os.SEEK_SET)
            msvcrt.locking(descriptor, mode, 1)
        else:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except _HELD:
        return False
    return True


def try_locks(descriptor: int) -> None:
    """Raise OSError if an open file cannot be locked as stores are."""
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def try_sqlite_lock(descriptor: int) -> None:
    """Raise OSError if SQLite cannot lock a database that is open for reading.

    SQLite does not use the first byte of a database as a lock. Source: SQLite's file format, "The Lock-Byte Page".
    """
    if sys.platform != "win32":
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, 1)


def rename_open(file: FileIO, source: Path, target: Path) -> FileIO:
    """Rename a file that is open for reading and writing, and return it; Windows renames only a closed one."""
    if sys.platform == "win32":
        file.close()
        rename(source, target)
        return FileIO(open_file(target, os.O_RDWR), "r+")
    source.replace(target)
    return file


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder; a file at `target` is replaced."""
    # Windows does not rename what another program, such as a virus scanner, has open.
    for _ in range(_NUM_RENAMES if sys.platform == "win32" else 0):
        with suppress(PermissionError):
            source.replace(target)
            return
        time.sleep(0.02)
    source.replace(target)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two paths atomically; return False if the system cannot do it.

    Sources: RENAME_EXCHANGE in rename(2) of Linux, and RENAME_SWAP in that of macOS, are both 2.
    """
    if sys.platform == "win32":
        return False
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    swap, here = 2, -100
    paths = os.fsencode(first), os.fsencode(second)
    if sys.platform == "darwin":
        status = library.renamex_np(*paths, swap)
    elif hasattr(library, "renameat2"):
        status = library.renameat2(here, paths[0], here, paths[1], swap)
    else:
        return False
    if not status:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def link(source: str | Path, target: str | Path, *, follow: bool = False) -> None:
    """Create a hard link of a file; of a symbolic link itself unless `follow` is True."""
    if sys.platform == "win32":
        # Windows follows links; the argument is refused there.
        os.link(source, target)
        return
    os.link(source, target, follow_symlinks=follow)


def replace_forbidden(name: str) -> str:
    """Return a file name in which `_` replaces what Windows does not allow there; unchanged on other systems.

    Source: Naming Files, Paths, and Namespaces, in the documentation of Windows.
    """
    if sys.platform == "win32":
        name = re.sub(r'[<>:"\\|?*]|[. ]$', "_", name)
        is_device = re.fullmatch(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", name, re.IGNORECASE)
        return f"_{name}" if is_device else name
    return name


def repeat_signal(number: int) -> None:
    """Let the main thread handle a signal again."""
    if sys.platform == "win32":
        return _thread.interrupt_main(signal.Signals(number))
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def is_running(process: int) -> bool:
    """Return whether the process with this number exists."""
    if sys.platform == "win32":
        query_limited_information = 0x1000
        try:
            handle = _winapi.OpenProcess(query_limited_information, False, process)
        except OSError as error:
            # Without permission to ask, the process exists.
            return isinstance(error, PermissionError)
        try:
            return _winapi.GetExitCodeProcess(handle) == _winapi.STILL_ACTIVE
        finally:
            _winapi.CloseHandle(handle)
    try:
        os.kill(process, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)
    return True


def read_process_age() -> float:
    """Return the time since this process started, in seconds; outside Linux its processor time, which is less."""
    if sys.platform == "linux":
        with suppress(OSError, ValueError):
            # Field 22 of proc_pid_stat(5), in clock ticks since boot. Field 2, in parentheses, may contain spaces.
            with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
                ticks = int(file.read().rpartition(b")")[2].split()[19])
            return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.process_time()
