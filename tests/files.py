"""Read the files of folders, for comparisons."""

from __future__ import annotations

from pathlib import Path

from base.lock import LOCK_NAME


def read_files(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder by relative path, except locks, whose content changes with every writer."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK_NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
