"""List a tree of folders once: the pictures in each folder, and the files and folders that are skipped."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from extract.images.recognize import (
    HEADSTART_STORE,
    explain_extension,
    find_extension,
    identify_headstart_folder,
    list_extensions,
    name_system_entry,
)

SPECIAL_FILE = "a special file, such as a pipe or a device"
UNREADABLE_FILE, UNREADABLE_FOLDER = "an unreadable file", "an unreadable folder"
HIDDEN_FILE, HIDDEN_FOLDER = "a hidden file", "a hidden folder"
UNFETCHED = "a git-annex link to a file that is not here: run `git annex get`"
_ANNEX_FOLDER = ".git/annex/objects/"
_MAX_TIME_NS = 2**63 - 1
"""Latest time that SQLite can store, in nanoseconds (the year 2262); the earliest is its negative."""


class PictureFile(NamedTuple):
    """File with the extension of a picture."""

    path: str
    """Path relative to the listed folder, with `/`."""
    num_bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Skipped:
    """Skipped file or folder, with the reason: a noun phrase."""

    path: str
    reason: str
    num_pictures: int = 0
    """Number of pictures in a skipped folder, as far as they were counted."""


@dataclass(frozen=True)
class Listing:
    """All files below a folder, whatever its layout."""

    folders: dict[str, list[PictureFile]] = field(default_factory=dict)
    """Pictures directly in each folder, by the folder's relative path; the listed folder itself has the path `""`."""
    skipped: list[Skipped] = field(default_factory=list)
    """Files that are not pictures, and folders that were not entered."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Number of files and folders of operating systems, network storage and editors for each name."""

    @property
    def pictures(self) -> list[PictureFile]:
        """All pictures, sorted by path."""
        return sorted(picture for pictures in self.folders.values() for picture in pictures)


def list_files(folder: Path, stores: Iterable[Path] = (), known: Collection[str] = ()) -> Listing:
    """List all pictures below a folder, and all files and folders that are skipped, whatever the layout.

    Links are followed, except links to a folder above them. Hidden files and folders, and folders that Headstart
    wrote, are skipped. Files and folders of operating systems, network storage and editors are only counted.

    Args:
        folder: an existing folder.
        stores: folders of feature stores, which need not exist yet; listed as skipped if they are inside `folder`.
        known: relative paths of pictures that are listed even if no decoder for their extension is installed.

    Raises:
        OSError: the folder itself cannot be read.
    """
    top = folder.resolve()
    inside = [store.resolve().relative_to(top).as_posix() for store in stores if store.resolve().is_relative_to(top)]
    stores_inside = set(inside) - {"."}
    rules = _Rules(stores_inside, list_extensions(), known)
    listing, pending = Listing(), [_Pending("")]
    while pending:
        pending += _list_folder(folder, pending.pop(), rules, listing)
    # A store that this run will create is listed too, so that the next run lists the same folders.
    listed = {found.path for found in listing.skipped}
    listing.skipped.extend(Skipped(path, HEADSTART_STORE) for path in stores_inside - listed)
    listing.skipped.sort(key=lambda found: found.path)
    return listing


class _Pending(NamedTuple):
    """Folder to list: its relative path, and the devices and inodes of the folders above it."""

    path: str
    above: frozenset[tuple[int, int]] = frozenset()


class _Rules(NamedTuple):
    """Rules that decide which files are pictures."""

    stores: Collection[str]
    """Relative paths of feature stores."""
    extensions: Collection[str]
    """Extensions of pictures, in lower case."""
    known: Collection[str]
    """Relative paths that are pictures whatever their extension."""


def _list_folder(top: Path, pending: _Pending, rules: _Rules, listing: Listing) -> list[_Pending]:
    """Add the entries of one folder to the listing, and return the folders to list next."""
    path, folder = pending.path, top / pending.path
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        problem = "a link to a folder above it" if identity in pending.above else ""
        if path and not problem:
            names = {entry.name for entry in entries}
            problem = HEADSTART_STORE if path in rules.stores else identify_headstart_folder(folder, names)
    except OSError as error:
        if not path:
            raise
        # Listed without pictures, so that an empty class is reported.
        listing.folders[path] = []
        problem = f"{UNREADABLE_FOLDER} ({error.strerror or error})"
    if problem:
        listing.skipped.append(Skipped(path, problem))
        return []
    pictures = listing.folders[path] = []
    inner = []
    for entry in entries:
        inside = f"{path}/{entry.name}" if path else entry.name
        if system_name := name_system_entry(entry.name):
            listing.ignored[system_name] += 1
            continue
        match _describe_entry(entry, inside, rules):
            case PictureFile() as picture:
                pictures.append(picture)
            case Skipped() as skipped:
                listing.skipped.append(skipped)
            case None:
                inner.append(_Pending(inside, pending.above | {identity}))
    return inner[::-1]


def _describe_entry(entry: os.DirEntry[str], path: str, rules: _Rules) -> PictureFile | Skipped | None:
    """Return the picture, or the reason for skipping the file or folder; None for a folder to list."""
    name = entry.name
    is_hidden = name.startswith(".") and path not in rules.stores
    if _is_folder(entry):
        return Skipped(path, HIDDEN_FOLDER, _count_pictures(entry.path, rules.extensions)) if is_hidden else None
    if is_hidden:
        return Skipped(path, HIDDEN_FILE)
    if find_extension(name).lower() not in rules.extensions and path not in rules.known:
        return Skipped(path, explain_extension(name))
    try:
        status = entry.stat()
    except OSError as error:
        if entry.is_symlink() and _ANNEX_FOLDER in str(Path(entry.path).readlink()):
            return Skipped(path, UNFETCHED)
        return Skipped(path, f"{UNREADABLE_FILE} ({error.strerror or error})")
    if not stat.S_ISREG(status.st_mode):
        return Skipped(path, SPECIAL_FILE)
    return PictureFile(path, status.st_size, max(-_MAX_TIME_NS, min(status.st_mtime_ns, _MAX_TIME_NS)))


def _count_pictures(folder: str, extensions: Collection[str]) -> int:
    names = (name for _, _, names in os.walk(folder) for name in names)
    return sum(find_extension(name).lower() in extensions for name in names)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to a folder."""
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, or into a folder without access. Opening it fails with the reason.
        return False
