"""Files in the folder `derived/` of a store: data that can be computed again from the features."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from base.files import is_regular
from base.system import is_running

_STARTED = time.time()
"""Time at which this process was started, in seconds since the epoch."""
_KINDS = "factors|rows|directions|neighbours|pooled|labelscores|means"
"""Kinds of data; `rows` are large matrices of factors; `means` was written by earlier versions and is only removed."""
_CACHE_FILE = re.compile(rf"(?:{_KINDS})-[0-9a-f]{{32}}-[0-9a-f]{{64}}\.np[yz]")
_PARTIAL_FILE = re.compile(rf"\.partial-(?:{_KINDS})-[0-9a-f]{{32}}-[0-9]+")


def list_cached(folder: Path) -> list[Path]:
    """List the files of derived data in a folder; other files and links are left out."""
    return _list_files(folder, _CACHE_FILE)


def list_abandoned(folder: Path) -> list[Path]:
    """List the partial files of processes that have ended; none if the folder is a link.

    A file is abandoned if it is older than this process, and no other process has the number in its name. In a new
    container, this process often has the number of the one that was killed.
    """
    found = []
    for path in [] if folder.is_symlink() else _list_files(folder, _PARTIAL_FILE):
        number = path.name.rpartition("-")[2]
        with suppress(OSError):
            if path.stat().st_mtime < _STARTED and (int(number) == os.getpid() or not is_running(int(number))):
                found.append(path)
    return found


def _list_files(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """List the regular files in a folder whose names match a pattern; none if the folder cannot be read."""
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name) and is_regular(path))
    return []
