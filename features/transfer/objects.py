"""Files of a store at a URL: list, upload and download them, several at once; every byte is verified."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event, Lock
from typing import BinaryIO, NamedTuple, TypeVar

from base.errors import HeadstartError, ShardDamagedError
from base.files import atomic_file, write_durably
from base.remote import Connection, RemoteMissingError, repeat
from features.catalog.database import convert_write_error

NUM_TRANSFERS = 8
"""Number of files that are copied at the same time, because a single connection does not use the whole network."""
NUM_ATTEMPTS = 3
"""Number of downloads of a file whose bytes are wrong."""
CHUNK_BYTES = 2**23

Item = TypeVar("Item")


class FileRef(NamedTuple):
    """File of a store, with the digest of its bytes."""

    name: str
    """Path relative to the store."""
    num_bytes: int
    sha256: str


class _Stopped(HeadstartError):
    """Download that is ended because another one failed; never shown."""


def join(folder: Connection, name: str) -> Connection:
    """Return an entry of a folder at a URL; the folder itself for an empty name."""
    if not name:
        return folder
    return folder._replace(path=f"{folder.path.rstrip('/')}/{name}", where=f"{folder.where.rstrip('/')}/{name}")


def find_local_path(place: Connection) -> Path | None:
    """Return the path of a place on this computer, or None for one elsewhere."""
    protocols = place.system.protocol
    return Path(place.path) if "file" in ((protocols,) if isinstance(protocols, str) else protocols) else None


def list_sizes(folder: Connection) -> dict[str, int]:
    """List the files directly in a folder, with their sizes; empty if it does not exist."""
    try:
        entries = repeat(lambda: folder.system.ls(folder.path, detail=True), folder.where)
    except RemoteMissingError:
        return {}
    return {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries if entry["type"] == "file"}


def read_bytes(place: Connection) -> bytes | None:
    """Read a file at a URL into memory; None if it does not exist."""
    try:
        return bytes(repeat(lambda: place.system.cat_file(place.path), place.where))
    except RemoteMissingError:
        return None


def exists(place: Connection) -> bool:
    """Return whether there is a file at a URL."""
    try:
        # On a web server, `info` takes any failure for a missing file.
        repeat(lambda: place.system.cat_file(place.path, start=0, end=1), place.where)
    except RemoteMissingError:
        return False
    return True


def identify(place: Connection) -> tuple[object, ...]:
    """Return values that change when a file at a URL is replaced; empty if it does not exist."""
    try:
        info = repeat(lambda: place.system.info(place.path), place.where)
    except RemoteMissingError:
        return ()
    return tuple(str(info.get(key)) for key in ("size", "ETag", "etag", "generation", "LastModified", "mtime"))


def upload(place: Connection, data: bytes) -> None:
    """Write a file at a URL, atomically on this computer and in object storage.

    S3 compares the bytes that it received with their SHA-256, and keeps it.

    Raises:
        RemoteError: the server fails, or refuses access.
        StoreWriteError: the file cannot be written on this computer.
    """
    if path := find_local_path(place):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, data)
        except OSError as error:
            raise convert_write_error(path, error) from error
        return
    options = {}
    if "s3" in place.system.protocol:
        # One request has one checksum, but parts of a file have one each.
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        options = {"chunksize": len(data) + 1, "ChecksumSHA256": digest}
    repeat(lambda: place.system.pipe_file(place.path, data, **options), place.where)


def download(place: Connection, path: Path, ref: FileRef, advance: Callable[[int], None], stop: Event) -> None:
    """Write a file durably under its final name after all of its bytes are verified.

    Raises:
        ShardDamagedError: the file at the URL is missing, or has other bytes in every attempt.
        RemoteError: the server fails, or refuses access.
        StoreWriteError: the file cannot be written.
    """
    with atomic_file(path) as file:
        for attempt in range(1, NUM_ATTEMPTS + 1):
            try:
                repeat(lambda: _copy_stream(place, file, path, ref, advance, stop), place.where)
            except RemoteMissingError as error:
                raise _build_damage_error(place, ref, "no such file") from error
            except ShardDamagedError:
                if attempt == NUM_ATTEMPTS:
                    raise
            else:
                return


def _copy_stream(
    place: Connection, file: BinaryIO, path: Path, ref: FileRef, advance: Callable[[int], None], stop: Event
) -> None:
    """Copy and verify a stream, after the earlier attempt is undone."""
    advance(-file.tell())
    _write(file, b"", path)
    hasher = hashlib.sha256()
    # A web server may have no answer for a part of a file, and none for its size.
    options = {"block_size": 0, "size": ref.num_bytes} if place.is_web else {"block_size": CHUNK_BYTES}
    with place.system.open(place.path, "rb", cache_type="none", **options) as source:
        while file.tell() <= ref.num_bytes and (chunk := source.read(CHUNK_BYTES)):
            if stop.is_set():
                raise _Stopped(place.where, "no failure of another file", "one", "Run the command again")
            hasher.update(chunk)
            _write(file, chunk, path)
            advance(len(chunk))
    if file.tell() != ref.num_bytes:
        more = "or more" if file.tell() > ref.num_bytes else ""
        raise _build_damage_error(place, ref, f"{file.tell():,} bytes {more}".strip())
    if hasher.hexdigest() != ref.sha256:
        raise _build_damage_error(place, ref, f"{file.tell():,} bytes with another SHA-256")


def _write(file: BinaryIO, chunk: bytes, path: Path) -> None:
    """Write a chunk; without one, empty the file. An error of the disk is not taken for one of the network."""
    try:
        if not chunk:
            file.seek(0)
            file.truncate()
        file.write(chunk)
    except OSError as error:
        raise convert_write_error(path, error) from error


def copy_all(
    items: Sequence[Item],
    copy: Callable[[Item, Callable[[int], None], Event], None],
    advance: Callable[[int], None],
    num_threads: int,
) -> None:
    """Copy files in several threads; after the first error, no further file is begun.

    Args:
        items: the files.
        copy: copies a file; receives it, a function to call with numbers of copied bytes, and an event that is set when
            the copy is no longer needed.
        advance: called with numbers of copied bytes, by one thread at a time.
        num_threads: number of files that are copied at the same time.
    """
    lock, stop = Lock(), Event()

    def count(num_bytes: int) -> None:
        with lock:
            advance(num_bytes)

    pool = ThreadPoolExecutor(num_threads, "transfer")
    try:
        for future in as_completed([pool.submit(copy, item, count, stop) for item in items]):
            future.result()
    except Exception:
        stop.set()
        # The caller holds a lock, which must outlast the copies that have begun.
        pool.shutdown(cancel_futures=True)
        raise
    finally:
        stop.set()
        # An interrupt does not wait for a slow server.
        pool.shutdown(wait=False, cancel_futures=True)


def _build_damage_error(place: Connection, ref: FileRef, got: str) -> ShardDamagedError:
    expected = f"{ref.num_bytes:,} bytes with SHA-256 {ref.sha256[:12]}…"
    return ShardDamagedError(place.where, expected, got, "Delete it there, and push the original store again")
