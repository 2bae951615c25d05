"""Folders of pictures at URLs, in object storage or on a web server; each picture is read by one request."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any
from urllib.parse import quote, unquote

from base.errors import UsageError
from base.places.archives import Entry, MemberError, clean_path, describe_size, hash_identity
from base.places.sources import identify_file
from base.remote import Connection, RemoteMissingError, connect, repeat
from base.urls import UrlPath, redact

NUM_CONNECTIONS = 16
"""Number of threads that read pictures at a URL: their requests wait for the server most of the time."""
ODD_PATH = "a path that no local file can have"
_MAX_DEPTH = 32
"""Largest depth of the folders of a web server, whose links may form a circle."""


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
        entries = _list_web(self._connection) if self._connection.is_web else _list_objects(self._connection)
        if not entries:
            raise UsageError(self._root, "a folder of pictures", "no such folder, or an empty one", "Check the address")
        self._sizes = {entry.path: entry.num_bytes for entry in entries}
        return entries

    def read(self, path: str, max_bytes: int, end: int | None = None) -> bytes:
        """Return the bytes of a file; see `Place`."""
        system, folder, where = self._connection
        name = quote(path, errors="surrogateescape") if self._connection.is_web else path
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
            # With the limits of a range, s3fs does not ask for the size again.
            limits = {"start": 0, "end": num_bytes + 1} if num_bytes and not self._connection.is_web else {}
            data = repeat(lambda: bytes(system.cat_file(place, **limits)), where)
        except RemoteMissingError as error:
            raise MemberError("no such file") from error
        if limits and len(data) != num_bytes:
            raise MemberError("a file that changed while it was read")
        return data


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
    # Names that are not UTF-8 are read as those of local files.
    decode = partial(unquote, errors="surrogateescape")
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
        entries = [Entry(decode(page[len(top) :]).rstrip("/"), 0, 0, "", True) for page in folders if page != top]
        return entries + [_describe(decode(f[len(top) :]), info) for f, info in zip(ordered, infos, strict=True)]


def _describe(path: str, info: dict[str, Any], *, is_folder: bool = False) -> Entry:
    identity = identify_file(info)
    problem = "" if clean_path(path) == path else ODD_PATH
    return Entry(path, info.get("size") or 0, hash_identity(identity) if identity else 0, problem, is_folder)
