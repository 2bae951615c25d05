"""Folders: whether Headstart can write and lock files in them, and the free space of their disks."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from base.errors import NoLocksError
from base.lock import require_locks
from base.npm import find_cache_folder
from base.terminal import format_bytes
from headstart.doctor.findings import Finding, Status, describe_error

MIN_DISK = 10**9
"""Free bytes below which an extraction or an export may fail."""
FULL = (errno.ENOSPC, errno.EDQUOT)
FREE_SPACE = "Free some space, or use a folder on another disk"


def check_folders() -> Iterator[Finding]:
    """Check the folders that Headstart writes to."""
    places: dict[str, Callable[[], Path]] = {"current folder": Path.cwd}
    if Path("work").exists():
        places["work/"] = Path("work").absolute
    places |= {"cache": find_cache_folder, "temporary folder": lambda: Path(tempfile.gettempdir())}
    for name, find in places.items():
        try:
            folder = find()
        except (OSError, RuntimeError) as error:
            # The folder was removed, or there is no home folder.
            yield Finding(name, f"not found: {describe_error(error)}", Status.PROBLEM, "Use another folder")
        else:
            yield check_folder(name, folder)


def check_folder(name: str, folder: Path) -> Finding:
    """Check that files in a folder can be written and locked, and that the disk has free space.

    A missing folder is checked by its nearest parent.
    """
    existing = folder.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            return Finding(name, f"{existing} is a file", Status.PROBLEM, "Move the file, or use another folder")
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"test")
        require_locks(existing)
        free = shutil.disk_usage(existing).free
    except NoLocksError as error:
        return Finding(name, error.got, Status.PROBLEM, error.advice)
    except OSError as error:
        advice = FREE_SPACE if error.errno in FULL else "Change its permissions, or use another folder"
        return Finding(name, f"not writable: {error.strerror} ({existing})", Status.PROBLEM, advice)
    if free < MIN_DISK:
        return Finding(name, f"only {format_bytes(free)} free", Status.PROBLEM, FREE_SPACE)
    state = "writable, with locks" if existing == folder.absolute() else "can be created"
    return Finding(name, f"{state}, {format_bytes(free)} free")
