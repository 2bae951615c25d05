"""Bytes of a local file or of a file at a URL, read by position from several threads."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from base import system
from base.errors import HeadstartError, UsageError, convert_os_error
from base.files import atomic_file, require_space
from base.regular import RegularFile
from base.remote import RemoteMissingError, connect, repeat
from base.urls import is_url

BLOCK_BYTES = 2**22
"""Number of bytes of one request when a file is read in order."""
SPARE_BYTES = 2**30
"""Free disk space that a temporary copy leaves."""
_IDENTITY_KEYS = (
    *("ETag", "etag", "md5Hash", "md5", "crc32c", "generation", "Content-MD5", "Digest"),
    *("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "modified"),
)
"""Keys of fsspec's descriptions of files whose value changes with the content, the best first."""


class ByteSource(Protocol):
    """File whose bytes are read by position. All methods may run in several threads."""

    @property
    def where(self) -> str:
        """Path or URL without credentials, for messages."""

    @property
    def size(self) -> int:
        """Number of bytes."""

    @property
    def identity(self) -> str:
        """Text that changes when the file is replaced or modified."""

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`, or to the end of the file."""


class LocalSource:
    """Local file. Each read opens it, so that the number of archives is not limited by that of open files."""

    def __init__(self, path: Path) -> None:
        """Open the file once.

        Raises:
            UsageError: it does not exist or cannot be read.
        """
        self._path, self.where = path, str(path)
        try:
            with RegularFile(path, follow=True) as file:
                self._identity = file.identity[:4]
        except OSError as error:
            raise UsageError(path, "an archive", error.strerror or str(error), "Check the path") from error
        self.size = file.identity.num_bytes
        self.identity = f"{file.identity.num_bytes} {file.identity.modified_ns}"

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`, or to the end of the file.

        Raises:
            HeadstartError: the file cannot be read, or has changed.
        """
        try:
            with RegularFile(self._path, follow=True) as file:
                if file.identity[:4] != self._identity:
                    advice = "Run again when it no longer changes"
                    raise HeadstartError(self._path, "an unchanged archive", "another file", advice)
                return _read_descriptor(file.fileno(), start, end)
        except OSError as error:
            raise convert_os_error(error, self.where) from error


class RemoteSource:
    """File at a URL whose server answers requests for a part of it."""

    def __init__(self, url: str) -> None:
        """Connect, and ask for the size.

        Raises:
            RemoteError: the file does not exist, or cannot be read.
        """
        self._system, self._path, self.where = connect(url)
        info = repeat(lambda: self._system.info(self._path), self.where, ())
        if info.get("type") == "directory":
            raise RemoteMissingError(self.where, "a file", "a folder", "Check the address")
        self.identity = identify_file(info)
        self._size: int | None = info.get("size")

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._size or 0

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`, or to the end of the file.

        Raises:
            RemoteError: all attempts failed, or the file is shorter than when it was opened.
        """
        end = min(end, self.size)
        return repeat(lambda: self._read_once(start, end), self.where) if start < end else b""

    def _read_once(self, start: int, end: int) -> bytes:
        data = bytes(self._system.cat_file(self._path, start=start, end=end))
        if len(data) != end - start:
            raise OSError(f"{len(data):,} bytes instead of {end - start:,}")
        return data

    def has_ranges(self) -> bool:
        """Return whether the server answers requests for a part of the file."""
        if self._size is None or self._size < 2:
            return False

        def read_second() -> bool:
            try:
                with self._system.open(self._path, "rb", cache_type="none") as file:
                    file.seek(1)
                    return len(file.read(1)) == 1
            except ValueError:
                # Raised by HTTPFileSystem of fsspec if the answer is the whole file.
                return False

        return repeat(read_second, self.where)

    def copy_stream(self, write: Callable[[bytes], object], restart: Callable[[], object]) -> None:
        """Pass all bytes on in order; after a failure, call `restart` and begin again."""

        def copy() -> None:
            restart()
            num_bytes = 0
            with self._system.open(self._path, "rb", block_size=0) as file:
                while chunk := file.read(BLOCK_BYTES):
                    write(chunk)
                    num_bytes += len(chunk)
            if self._size not in (None, num_bytes):
                raise OSError(f"{num_bytes:,} bytes instead of {self._size:,}")

        repeat(copy, self.where)


class _Stream(io.RawIOBase):
    """Bytes of a source as a file."""

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._source, self._position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(self._position, self._position + len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_stream(source: ByteSource) -> BinaryIO:
    """Open a source as a file that is read in blocks of `BLOCK_BYTES`."""
    return cast(BinaryIO, io.BufferedReader(_Stream(source), BLOCK_BYTES))


def open_source(place: str) -> ByteSource:
    """Open a local file or a URL. A file whose server sends it only as a whole is copied to a temporary file.

    Raises:
        UsageError: no such local file; the scheme is unknown, or its package is not installed.
        RemoteError: the URL cannot be read.
    """
    if not is_url(place):
        return LocalSource(Path(place))
    source = RemoteSource(place)
    if source.has_ranges():
        return source
    copy = TemporaryCopy(source)
    source.copy_stream(copy.write, copy.restart)
    return copy


class TemporaryCopy:
    """Copy of a file on the local disk, without a name; it is gone when it is no longer used."""

    def __init__(self, source: ByteSource) -> None:
        """Create an empty copy."""
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self.where, self.identity = source.where, source.identity
        self.size = 0

    def __del__(self) -> None:
        """Close the file when the copy is no longer used."""
        self._file.close()

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            HeadstartError: the disk of temporary files is full.
        """
        require_space(Path(tempfile.gettempdir()), SPARE_BYTES + len(data))
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise convert_os_error(error, tempfile.gettempdir()) from error
        self.size += len(data)

    def restart(self) -> None:
        """Remove all bytes."""
        self._file.seek(0)
        self._file.truncate()
        self.size = 0

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`, or to the end of the file."""
        return _read_descriptor(self._file.fileno(), start, end)


def _read_descriptor(descriptor: int, start: int, end: int) -> bytes:
    parts = []
    while start < end and (part := system.read_at(descriptor, end - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def download(url: str, target: Path) -> None:
    """Download a file; `target` appears when it is complete, and is unchanged after a failure.

    Raises:
        RemoteError: the file cannot be read.
        HeadstartError: the target cannot be written.
    """
    source = RemoteSource(url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as out:

            def write(data: bytes) -> None:
                try:
                    out.write(data)
                except OSError as error:
                    raise convert_os_error(error, str(target)) from error

            def restart() -> None:
                out.seek(0)
                out.truncate()

            if source.has_ranges():
                for start in range(0, source.size, BLOCK_BYTES):
                    write(source.read(start, start + BLOCK_BYTES))
            else:
                source.copy_stream(write, restart)
    except OSError as error:
        raise convert_os_error(error, str(target)) from error


def identify_file(info: Mapping[str, Any]) -> str:
    """Return the value of fsspec's description of a file that changes with its content; empty if there is none."""
    return next((str(info[key]) for key in _IDENTITY_KEYS if info.get(key)), "")
