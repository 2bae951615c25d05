"""Folders: whether Headstart can write and lock files in them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from base.errors import NoLocksError
from base.lock import require_locks
from base.npm import find_cache_folder
from headstart.doctor.findings import Finding, Status


def check_folders() -> Iterator[Finding]:
    """Check the folders that Headstart writes to."""
    yield check_folder("current folder", Path.cwd())
    if Path("work").exists():
        yield check_folder("work/", Path("work").absolute())
    yield check_folder("cache", find_cache_folder())
    yield check_folder("temporary folder", Path(tempfile.gettempdir()))


def check_folder(name: str, folder: Path) -> Finding:
    """Check that files in a folder can be written and locked; a missing folder is checked by its nearest parent."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        return Finding(name, f"{existing} is a file", Status.PROBLEM, "Move the file, or use another folder")
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"test")
        require_locks(existing)
    except NoLocksError as error:
        return Finding(name, error.got, Status.PROBLEM, error.advice)
    except OSError as error:
        advice = "Change its permissions, or use another folder"
        return Finding(name, f"not writable: {error.strerror} ({existing})", Status.PROBLEM, advice)
    return Finding(name, "writable, with locks" if existing == folder.absolute() else "can be created")
