"""Members of zip and tar files, read by position, so that several threads can read a file at a URL."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, BinaryIO, NamedTuple, Protocol

from base.errors import HeadstartError
from base.places.sources import BLOCK_BYTES, ByteSource, TemporaryCopy, open_stream
from base.urls import ZIP

LINK, ENCRYPTED, OUTSIDE_ARCHIVE = "a link in an archive", "an encrypted file", "a path outside the archive"
REPLACED = "a file that a later one of the same path in the archive replaces"
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Local header of a member of a zip file: signature, and the lengths of name and extra field. Source: APPNOTE 4.3.7."""
_LOCAL_SIGNATURE = b"PK\x03\x04"
_LOCAL_SPARE = 1024
"""Bytes that are requested for the extra field of a local header, which is often longer than the listed one."""
_ZIP_LINK_TYPE, _ZIP_ENCRYPTED = 0o120000, 1
_COMPRESSED: tuple[tuple[bytes, Callable[[BinaryIO], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
)
CLASS, TEXT, JSON = "cls", "txt", "json"
SIDECAR_BYTES = {CLASS: 2**10, TEXT: 2**12, JSON: 2**16}
"""Largest sizes of the files with the label of a sample in a shard, by extension, the preferred one first.

Source: WebDataset's format.
"""


class MemberError(OSError):
    """File at a URL or in an archive that is gone or damaged; the message is the reason, a noun phrase."""


class Entry(NamedTuple):
    """File or folder of a place of pictures."""

    path: str
    """Path relative to the place, with `/`."""
    num_bytes: int
    modified_ns: int
    """Number that changes when the content does; not always a time."""
    problem: str = ""
    """Reason why the file is not read, a noun phrase."""
    is_folder: bool = False


class Archive(Protocol):
    """Opened archive."""

    entries: list[Entry]
    sidecars: dict[str, bytes]
    """Content of the small files with the labels of samples, by path; only of a tar file."""

    def read(self, path: str, max_bytes: int) -> bytes:
        """Return the bytes of a member; raise MemberError if it is damaged or longer than `max_bytes`."""


def open_archive(source: ByteSource, kind: str, *, is_copied: bool = False) -> Archive:
    """List the members of an archive.

    Args:
        source: the file.
        kind: `zip` or `tar`.
        is_copied: whether a tar file is copied to a temporary file while it is listed, which reads all of it anyway.

    Raises:
        HeadstartError: the file is no such archive, or is damaged or truncated.
    """
    try:
        return ZipArchive(source) if kind == ZIP else TarArchive(_copy(source, is_copied=is_copied))
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise _refuse(source, kind, str(error)) from error
    except OSError as error:
        # Raised by gzip and bz2 for damaged data; other errors have a number.
        if error.errno is not None:
            raise
        raise _refuse(source, kind, str(error)) from error
    except NotImplementedError as error:
        raise _refuse(source, kind, str(error)) from error


def _refuse(source: ByteSource, kind: str, reason: str) -> HeadstartError:
    advice = "Copy or download it again"
    return HeadstartError(source.where, f"an intact {kind} file", f"a damaged or truncated file ({reason})", advice)


class ZipArchive:
    """Zip file. Its checksums show which members have changed."""

    def __init__(self, source: ByteSource) -> None:
        """Read the list of the members."""
        self._source, self.sidecars = source, dict[str, bytes]()
        self._infos: dict[str, zipfile.ZipInfo] = {}
        self.entries: list[Entry] = []
        with open_stream(source) as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
        last = {info.filename: number for number, info in enumerate(infos)}
        for number, info in enumerate(infos):
            path = clean_path(info.filename)
            problem = "" if path is not None else OUTSIDE_ARCHIVE
            if last[info.filename] != number:
                problem = REPLACED
            elif (info.external_attr >> 16) & 0o170000 == _ZIP_LINK_TYPE:
                problem = LINK
            path = info.filename if path is None else path
            self.entries.append(Entry(path, info.file_size, info.CRC, problem, info.is_dir()))
            if not problem:
                self._infos[path] = info

    def read(self, path: str, max_bytes: int) -> bytes:
        """Return the bytes of a member; raise MemberError if it is damaged or longer than `max_bytes`."""
        info = self._infos.get(path)
        if info is None:
            raise MemberError("no such file in the archive")
        if info.flag_bits & _ZIP_ENCRYPTED:
            raise MemberError(ENCRYPTED)
        if max(info.file_size, info.compress_size) > max_bytes:
            raise MemberError(describe_size(max(info.file_size, info.compress_size), max_bytes))
        start, header = info.header_offset, _LOCAL_HEADER.size
        guess = start + header + len(info.filename.encode()) + _LOCAL_SPARE
        data = self._source.read(start, guess + info.compress_size)
        if len(data) < header or not data.startswith(_LOCAL_SIGNATURE):
            raise MemberError("a damaged member of the archive")
        _, name_length, extra_length = _LOCAL_HEADER.unpack_from(data)
        first = header + name_length + extra_length
        if missing := first + info.compress_size - len(data):
            data += self._source.read(start + len(data), start + len(data) + max(0, missing))
        member = io.BytesIO(data[first : first + info.compress_size])
        try:
            with zipfile.ZipExtFile(member, "r", info) as file:
                content = file.read()
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
            raise MemberError(f"a damaged member of the archive ({error})") from error
        except NotImplementedError as error:
            raise MemberError(f"a member of the archive in an unsupported format ({error})") from error
        if len(content) != info.file_size:
            raise MemberError("a truncated member of the archive")
        return content


class TarArchive:
    """Tar file, without compression. It has no checksums, so that a change of the file changes all its members."""

    def __init__(self, source: ByteSource) -> None:
        """Read the headers of all members, in the order of the file."""
        self._source, self.sidecars = source, dict[str, bytes]()
        self._places: dict[str, tuple[int, int]] = {}
        self.entries: list[Entry] = []
        number_of: dict[str, int] = {}
        with open_stream(source) as file:
            for member in _list_members(file):
                path = clean_path(member.name)
                problem = "" if path is not None else OUTSIDE_ARCHIVE
                if member.issym() or member.islnk():
                    problem = problem or LINK
                elif not (member.isdir() or (member.isreg() and member.sparse is None)):
                    problem = problem or "a special file in an archive"
                path = member.name if path is None else path
                if (earlier := number_of.get(path)) is not None and not member.isdir():
                    self.entries[earlier] = self.entries[earlier]._replace(problem=REPLACED)
                modified_ns = hash_identity(f"{source.identity} {member.mtime}")
                number_of[path] = len(self.entries)
                self.entries.append(Entry(path, member.size, modified_ns, problem, member.isdir()))
                if not problem and not member.isdir():
                    self._places[path] = (member.offset_data, member.size)
                    if member.size <= SIDECAR_BYTES.get(split_key(path)[1].lower(), -1):
                        file.seek(member.offset_data)
                        self.sidecars[path] = file.read(member.size)

    def read(self, path: str, max_bytes: int) -> bytes:
        """Return the bytes of a member; raise MemberError if it is damaged or longer than `max_bytes`."""
        if path not in self._places:
            raise MemberError("no such file in the archive")
        start, num_bytes = self._places[path]
        if num_bytes > max_bytes:
            raise MemberError(describe_size(num_bytes, max_bytes))
        data = self._source.read(start, start + num_bytes)
        if len(data) != num_bytes:
            raise MemberError("a truncated member of the archive")
        return data


def _list_members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file; a damaged header is an error, which tarfile takes for the end of the file."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            yield member
            # All members would be kept otherwise.
            vars(archive)["members"].clear()
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"an invalid header at byte {archive.offset:,}")


def _copy(source: ByteSource, *, is_copied: bool) -> ByteSource:
    """Return a tar file without compression: a compressed one is copied to a temporary file, another one if asked."""
    start = source.read(0, 8)
    opener = next((opener for magic, opener in _COMPRESSED if start.startswith(magic)), None)
    if opener is None and not is_copied:
        return source
    copy = TemporaryCopy(source)
    with open_stream(source) as packed, opener(packed) if opener else packed as file:
        while chunk := file.read(BLOCK_BYTES):
            copy.write(chunk)
    return copy


def clean_path(name: str) -> str | None:
    """Return the path of a member without `.` and repeated slashes; None for one outside the archive."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if name.startswith("/") or ".." in parts else "/".join(parts)


def split_key(path: str) -> tuple[str, str]:
    """Divide the path of a file in a shard at the first dot of its name, into key and extension.

    Source: WebDataset's format.
    """
    folder, slash, name = path.rpartition("/")
    key, _, extension = name.partition(".")
    return folder + slash + key, extension


def hash_identity(text: str) -> int:
    """Return a number of 63 bits for a text that changes with the content of a file."""
    return int.from_bytes(sha256(text.encode("utf-8", "surrogateescape")).digest()[:8], "big") >> 1


def describe_size(num_bytes: int, max_bytes: int) -> str:
    """Return the reason for refusing a file that is too large."""
    return f"a file of {num_bytes:,} bytes, above the limit of {max_bytes:,}"
