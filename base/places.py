"""Places of pictures that are no local folder: URLs of folders, archives and shards."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, Protocol
from urllib.parse import quote, unquote

from base.archives import Archive, Entry, MemberError, describe_size, hash_identity, open_archive
from base.errors import HeadstartError, UsageError
from base.files import hash_file
from base.remote import Connection, RemoteMissingError, connect, repeat
from base.sources import identify_file, open_source
from base.urls import TAR, Location, UrlPath, are_shards, has_pattern, is_url, locate_pictures, redact

NUM_CONNECTIONS = 16
"""Number of threads that read pictures at a URL: their requests wait for the server most of the time."""
_MAX_DEPTH = 32
"""Largest depth of the folders of a web server, whose links may form a circle."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_NUMBER = re.compile(r"(?<=[^\W_])[-_.](?=\d+$)")
"""Separator before the number at the end of a shard's name."""
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


class FolderPlace:
    """Folder at a URL; each picture is an object or a file of its own."""

    sidecars: Mapping[str, bytes] = {}

    def __init__(self, root: UrlPath) -> None:
        """Connect; the files are listed when they are needed."""
        self._root, self._connection = root, connect(root.place)
        self._sizes: dict[str, int] = {}

    @cached_property
    def entries(self) -> list[Entry]:
        """Files and folders in it."""
        entries = _list_web(self._connection) if _is_web(self._connection) else _list_objects(self._connection)
        if not entries:
            raise UsageError(self._root, "a folder of pictures", "no such folder, or an empty one", "Check the address")
        self._sizes = {entry.path: entry.num_bytes for entry in entries}
        return entries

    def read(self, path: str, max_bytes: int, end: int | None = None) -> bytes:
        """Return the bytes of a file; see `Place`."""
        system, folder, where = self._connection
        name = quote(path) if _is_web(self._connection) else path
        place = f"{folder.rstrip('/')}/{name}" if path else folder
        where = f"{where.rstrip('/')}/{path}" if path else where
        try:
            num_bytes = self._sizes.get(path)
            if num_bytes is None:
                num_bytes = repeat(lambda: system.info(place), where).get("size") or 0
            if num_bytes > max_bytes:
                raise MemberError(describe_size(num_bytes, max_bytes))
            if end is not None and end < num_bytes:
                return repeat(lambda: bytes(system.cat_file(place, start=0, end=end)), where)[:end]
            return repeat(lambda: bytes(system.cat_file(place)), where)
        except RemoteMissingError as error:
            raise MemberError("no such file") from error


class ArchivePlace:
    """Archive, or several shards, whose members have unique paths."""

    def __init__(self, root: UrlPath) -> None:
        """Open and list all archives."""
        places = list_shards(root.place) if root.archive == TAR else [root.place]
        with ThreadPoolExecutor(min(NUM_CONNECTIONS, len(places))) as pool:
            archives = list(pool.map(lambda place: open_archive(open_source(place), root.archive), places))
        self.entries = list[Entry]()
        self.sidecars: dict[str, bytes] = {}
        self._archive_of: dict[str, tuple[Archive, str]] = {}
        has_labels = any(archive.sidecars for archive in archives)
        prefixes = _name_shards(places) if has_labels and len(places) > 1 else [""] * len(places)
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


def list_shards(pattern: str) -> list[str]:
    """List the archives that a pattern with braces or wildcards denotes, in the order of their names.

    Raises:
        UsageError: there is none.
    """
    places: list[str] = []
    for place in expand_braces(pattern):
        if not has_pattern(place):
            places.append(place)
        elif is_url(place):
            system, path, where = connect(place)
            scheme = place.partition("://")[0]
            found = repeat(partial(system.glob, path), where)
            places += sorted(name if is_url(name) else f"{scheme}://{name}" for name in found)
        else:
            parts = Path(place).parts
            first = next(number for number, part in enumerate(parts) if has_pattern(part))
            places += sorted(map(str, Path(*parts[:first]).glob("/".join(parts[first:]))))
    if not places:
        raise UsageError(redact(pattern), "tar files", "none", "Check the pattern")
    return places


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the texts that a pattern with `{a,b}` and `{000..063}` denotes, in order."""
    parts = _BRACES.split(pattern)
    options = []
    for number, part in enumerate(parts):
        if number % 2 == 0:
            options.append([part])
        elif match := _RANGE.fullmatch(part):
            first, last = match.groups()
            options.append([f"{value:0{len(first)}d}" for value in range(int(first), int(last) + 1)])
        else:
            options.append(part.split(","))
    return map("".join, itertools.product(*options))


def _name_shards(places: Sequence[str]) -> list[str]:
    """Return a folder for the members of each shard, such as `train/000007/` for `train-000007.tar`.

    The number is a folder of its own, so that the folders above it can be those of splits.
    """
    names = [redact(place) for place in places]
    folder = os.path.commonprefix([name.rpartition("/")[0] + "/" for name in names]).rpartition("/")[0]
    stems = [name[len(folder) :].strip("/").partition(".tar")[0] for name in names]
    return [f"{_NUMBER.sub('/', stem)}/" for stem in stems]


def _list_objects(connection: Connection) -> list[Entry]:
    system, folder, where = connection
    found = repeat(lambda: system.find(folder, withdirs=False, detail=True), where, ())
    top, entries = folder.rstrip("/"), []
    for name, info in found.items():
        if name.rstrip("/") == top:
            if name == top and info.get("type") == "file":
                raise UsageError(where, "a folder of pictures", "a file", "Give its folder with --images")
            continue
        path = name.removeprefix(top).strip("/")
        is_folder = info.get("type") == "directory" or name.endswith("/")
        entries.append(_describe(path, info, is_folder=is_folder))
    return entries


def _list_web(connection: Connection) -> list[Entry]:
    """List the pages of folders of a web server, and ask for the size of each file."""
    system, top, where = connection
    top = top.rstrip("/") + "/"
    folders, files, pending = set[str](), set[str](), [top]

    def list_page(page: str) -> list[str]:
        return list(repeat(lambda: system.ls(page, detail=False), where, () if page == top else None))

    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        for _ in range(_MAX_DEPTH):
            folders |= set(pending)
            pages = pool.map(list_page, pending)
            links = {link for page in pages for link in page if link.startswith(top) and not {"?", "#"} & set(link)}
            files |= {link for link in links if not link.endswith("/")}
            pending = sorted({link for link in links if link.endswith("/")} - folders)
            if not pending:
                break
        ordered = sorted(files)
        infos = pool.map(lambda file: repeat(lambda: system.info(file), redact(file)), ordered)
        entries = [Entry(unquote(page[len(top) :]).rstrip("/"), 0, 0, "", True) for page in folders if page != top]
        return entries + [_describe(unquote(f[len(top) :]), info) for f, info in zip(ordered, infos, strict=True)]


def _describe(path: str, info: dict[str, Any], *, is_folder: bool = False) -> Entry:
    identity = identify_file(info)
    return Entry(path, info.get("size") or 0, hash_identity(identity) if identity else 0, "", is_folder)


def _is_web(connection: Connection) -> bool:
    return connection.path.startswith(("http://", "https://"))
