"""Locations of pictures and tables: local paths, or URLs, archives and shards. No library of URLs is imported."""

from __future__ import annotations

import os
import re
from pathlib import Path

ZIP, TAR = "zip", "tar"
_ARCHIVE_SUFFIXES = {
    ".zip": ZIP,
    **dict.fromkeys([".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz"], TAR),
}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_COLLAPSED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
_CHAINED = re.compile(r"(zip|tar)://(?:(.*?)::)?(.+)", re.DOTALL)
_USER, _QUERY = (
    re.compile(r"((?!(?:zip|tar)://)\b[A-Za-z][A-Za-z0-9+.-]*://)[^/\s]*@"),
    re.compile(r"(https?://[^\s?'\"]*)\?[^\s'\"]*"),
)
_PATTERN = re.compile(r"[*?\[]|\{[^{}]*(?:,|\.\.)[^{}]*\}")
_SHARD_COMPANIONS = frozenset(["", ".json", ".jsonl", ".parquet", ".csv", ".tsv", ".txt", ".idx", ".index", ".md"])
"""Extensions of the files that programs write beside shards."""


class UrlPath:
    """Folder of pictures at a URL, in an archive or in shards, or one file in it.

    It has the part of the interface of `Path` that the code for folders of pictures uses. Its text has no credentials.
    """

    __slots__ = ("archive", "inner", "place")

    def __init__(self, place: str, archive: str = "", inner: str = "") -> None:
        """Create a path.

        Args:
            place: URL of the folder or the file; for an archive also a local path, and for shards a pattern of paths;
            with `/` on every system.
            archive: `zip` or `tar`; empty if `place` is no archive.
            inner: path relative to `place`, with `/`.
        """
        self.place, self.archive, self.inner = place, archive, inner.strip("/")

    @classmethod
    def parse(cls, text: str) -> UrlPath:
        """Parse a URL; `zip://INNER::PLACE` and `zip://PLACE` are archives, as in fsspec, and so are names in .zip."""
        if match := _CHAINED.fullmatch(text):
            archive, inner, place = match.groups()
            return cls(place, archive, inner or "")
        return cls(text, find_archive_kind(text))

    @property
    def full(self) -> str:
        """Text that `parse` accepts, with credentials; never for messages or records."""
        is_plain = not self.inner and find_archive_kind(self.place) == self.archive
        if self.archive and not is_plain:
            return f"{self.archive}://{self.inner}::{self.place}"
        base, mark, query = self.place.partition("?") if self.place.startswith("http") else (self.place, "", "")
        return f"{base.rstrip('/')}/{self.inner}{mark}{query}" if self.inner else self.place

    @property
    def name(self) -> str:
        """Last part of the path."""
        return (self.inner or redact(self.place)).rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> UrlPath:
        """Folder of the path; the path itself for an archive."""
        if self.inner or self.archive:
            return UrlPath(self.place, self.archive, self.inner.rpartition("/")[0])
        return UrlPath(self.place.rstrip("/").rpartition("/")[0])

    @property
    def root(self) -> UrlPath:
        """Path of the URL or the archive, without the path in it."""
        return UrlPath(self.place, self.archive)

    def resolve(self) -> UrlPath:
        """Return the path that is recorded: without credentials, and absolute if it is that of a local archive."""
        place = redact(self.place) if is_url(self.place) else Path(self.place).resolve().as_posix()
        return UrlPath(place if self.archive else place.rstrip("/"), self.archive, self.inner)

    def absolute(self) -> UrlPath:
        """Return the path for another process: with credentials, and absolute if it is that of a local archive."""
        place = self.place if is_url(self.place) else Path(self.place).absolute().as_posix()
        return UrlPath(place, self.archive, self.inner)

    def __truediv__(self, part: str | os.PathLike[str]) -> UrlPath:
        """Return the path of a file or folder in this one."""
        return UrlPath(self.place, self.archive, f"{self.inner}/{os.fspath(part)}")

    def __eq__(self, other: object) -> bool:
        """Return whether two paths have the same parts."""
        return isinstance(other, UrlPath) and self.full == other.full

    def __hash__(self) -> int:
        """Return the hash of the text."""
        return hash(self.full)

    def __str__(self) -> str:
        """Return the path without credentials."""
        return redact(self.full)

    def __repr__(self) -> str:
        """Return the path without credentials."""
        return f"UrlPath({str(self)!r})"

    def __reduce__(self) -> tuple[type[UrlPath], tuple[str, str, str]]:
        """Return the parts that recreate the path in another process."""
        return UrlPath, (self.place, self.archive, self.inner)


Location = Path | UrlPath
"""Local path, or a URL, an archive or shards."""


def is_url(text: str) -> bool:
    """Return whether a text has a scheme, such as `s3://`."""
    return _SCHEME.match(text) is not None


def redact(text: str) -> str:
    """Remove user names, passwords and queries, which may be signatures, from the URLs in a text."""
    return _QUERY.sub(r"\1", _USER.sub(r"\1", text))


def parse_location(value: str | os.PathLike[str] | UrlPath) -> Location:
    """Return a URL as a `UrlPath`, and any other text as a `Path`; no file is examined.

    A `Path` that was made from a URL has one slash after the scheme, and is read as that URL if no such file exists.
    """
    if isinstance(value, UrlPath):
        return value
    text = os.fspath(value)
    if is_url(text):
        return UrlPath.parse(text)
    if isinstance(value, Path) and _COLLAPSED.match(value.as_posix()) and not value.exists():
        return UrlPath.parse(_COLLAPSED.sub(r"\1://", value.as_posix(), count=1))
    return Path(text)


def locate_pictures(value: str | os.PathLike[str] | UrlPath) -> Location:
    """Return the location of pictures: a local archive, a folder of shards and a pattern of them are no `Path`."""
    path = parse_location(value)
    if isinstance(path, UrlPath):
        return path
    text, kind = path.as_posix(), find_archive_kind(path.name)
    if kind and path.is_file():
        return UrlPath(text, kind)
    if kind == TAR and has_pattern(text) and not path.exists():
        return UrlPath(text, TAR)
    return UrlPath((path / "*.tar").as_posix(), TAR) if _holds_shards(path) else path


def has_pictures(value: str | Location) -> bool:
    """Return whether a location is a local folder, or a URL or an archive, which is not opened."""
    location = locate_pictures(value)
    return isinstance(location, UrlPath) or location.is_dir()


def find_archive_kind(place: str) -> str:
    """Return `zip` or `tar` if the name of a file is that of an archive; empty for any other."""
    name = place.partition("?")[0].lower() if place.startswith("http") else place.lower()
    return next((kind for suffix, kind in _ARCHIVE_SUFFIXES.items() if name.endswith(suffix)), "")


def has_pattern(place: str) -> bool:
    """Return whether a path has wildcards or braces, as `shards-{000000..000063}.tar`."""
    return _PATTERN.search(place) is not None


def are_shards(names: list[str]) -> bool:
    """Return whether the files of a folder are shards: tar files, and only such other files as are written beside."""
    suffixes = {Path(name).suffix.lower() for name in names if not name.startswith(".")}
    return ".tar" in suffixes and suffixes - {".tar"} <= _SHARD_COMPANIONS


def _holds_shards(folder: Path) -> bool:
    """Return whether a folder holds shards; almost any other folder is recognised by its first entry."""
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not are_shards([entry.name, "0.tar"]) or entry.is_dir():
                    return False
                names.append(entry.name)
    except OSError:
        return False
    return are_shards(names)
