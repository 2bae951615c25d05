"""Places of pictures that are no local folder: URLs of folders, archives and shards."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Protocol

from base.errors import HeadstartError
from base.files import hash_file
from base.places.archives import Archive, Entry, MemberError, open_archive
from base.places.folders import NUM_CONNECTIONS, FolderPlace
from base.places.sources import SPARE_BYTES, open_source
from base.places.tar_shards import list_shards, name_shards
from base.urls import TAR, Location, UrlPath, are_shards, is_url, locate_pictures, redact

_MAX_COPIED_BYTES = 2**32
"""Largest size of all tar files of a place that are copied; larger ones are read again, picture by picture."""
_NUM_OPEN = 4


class Place(Protocol):
    """Place of pictures. `read` may run in several threads."""

    @property
    def entries(self) -> list[Entry]:
        """Files and folders in it."""

    @property
    def sidecars(self) -> Mapping[str, bytes]:
        """Content of the small files with the labels of samples in shards, by path."""

    def read(self, path: str, max_bytes: int, end: int | None = None) -> bytes:
        """Return the bytes of a file, or only the first `end`.

        Raises:
            MemberError: the file is gone, damaged, or larger than `max_bytes`.
            RemoteError: the place cannot be reached, or refuses access.
        """


@lru_cache(_NUM_OPEN)
def _open_cached(root: UrlPath) -> Place:
    return ArchivePlace(root) if root.archive else FolderPlace(root)


_opening = Lock()


def open_place(path: UrlPath) -> Place:
    """Open the place of a path; it stays open for later calls.

    Raises:
        UsageError: an archive does not exist, or the scheme is unknown or needs a package that is not installed.
        HeadstartError: it cannot be read, or an archive is damaged.
    """
    with _opening:
        return _open_cached(path.root)


def open_pictures(value: str | os.PathLike[str] | UrlPath) -> Location:
    """Return the location of pictures, which is listed again if it is not a local folder.

    Raises:
        UsageError: there is no such place, or its scheme is unknown or needs a package that is not installed.
        HeadstartError: it cannot be read, or an archive is damaged.
    """
    location = locate_pictures(value)
    if isinstance(location, UrlPath):
        _open_cached.cache_clear()
        entries = open_place(location).entries
        if not location.archive and are_shards([entry.path for entry in entries if not entry.is_folder]):
            return UrlPath(f"{location.place.rstrip('/')}/**/*.tar", TAR)
    return location


def read_file(path: UrlPath, max_bytes: int, end: int | None = None) -> bytes:
    """Return the bytes of a file at a URL or in an archive, or only the first `end`.

    Raises:
        MemberError: the file is gone, damaged, or larger than `max_bytes`.
        RemoteError: it cannot be reached, or access is refused.
    """
    return open_place(path).read(path.inner, max_bytes, end)


def hash_location(path: Location) -> bytes:
    """Return the SHA-256 of a file.

    Raises:
        OSError: the file cannot be read; MemberError at a URL or in an archive.
        RemoteError: a URL cannot be reached, or refuses access.
    """
    if isinstance(path, Path):
        return bytes.fromhex(hash_file(path))
    return hashlib.sha256(read_file(path, sys.maxsize)).digest()


def count_readers(path: Location, num_cores: int) -> int:
    """Return the number of threads that read pictures: one for each core, and more at a URL."""
    is_remote = isinstance(path, UrlPath) and is_url(path.place)
    return max(num_cores, NUM_CONNECTIONS) if is_remote else num_cores


class ArchivePlace:
    """Archive, or several shards, whose members have unique paths."""

    def __init__(self, root: UrlPath) -> None:
        """Open and list all archives."""
        places = list_shards(root.place) if root.archive == TAR else [root.place]
        with ThreadPoolExecutor(min(NUM_CONNECTIONS, len(places))) as pool:
            sources = list(pool.map(open_source, places))
            is_copied = is_url(places[0]) and _have_room(sum(source.size for source in sources))
            archives = list(pool.map(lambda each: open_archive(each, root.archive, is_copied=is_copied), sources))
        self.entries = list[Entry]()
        self.sidecars: dict[str, bytes] = {}
        self._archive_of: dict[str, tuple[Archive, str]] = {}
        has_labels = any(archive.sidecars for archive in archives)
        prefixes = name_shards(places) if has_labels and len(places) > 1 else [""] * len(places)
        for prefix, place, archive in zip(prefixes, places, archives, strict=True):
            for entry in archive.entries:
                path = f"{prefix}{entry.path}"
                self.entries.append(entry._replace(path=path))
                if entry.is_folder or entry.problem:
                    continue
                if path in self._archive_of:
                    got = f"{path} again in {redact(place)}"
                    advice = "Rename the files, or extract the shards into folders"
                    raise HeadstartError(root, "files whose paths are unique in all shards", got, advice)
                self._archive_of[path] = (archive, entry.path)
            self.sidecars |= {f"{prefix}{path}": data for path, data in archive.sidecars.items()}

    def read(self, path: str, max_bytes: int, end: int | None = None) -> bytes:
        """Return the bytes of a member; see `Place`."""
        if path not in self._archive_of:
            raise MemberError("no such file in the archive")
        archive, inner = self._archive_of[path]
        return archive.read(inner, max_bytes)[:end]


def _have_room(num_bytes: int) -> bool:
    """Return whether archives at URLs are copied to temporary files, so that no picture needs a request of its own."""
    return num_bytes <= min(_MAX_COPIED_BYTES, shutil.disk_usage(tempfile.gettempdir()).free - 2 * SPARE_BYTES)
