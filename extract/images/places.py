"""List the pictures at a URL, in an archive or in shards, by the rules for local folders."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from base.places.archives import Entry, split_key
from base.places.open import Place, open_place
from base.urls import Location, UrlPath
from extract.images.recognize import explain_extension, find_extension, list_extensions, name_system_entry
from extract.images.walk import HIDDEN_FILE, HIDDEN_FOLDER, Listing, PictureFile, Skipped, list_files

SECOND_PICTURE = "a further picture of a sample"


def list_location(location: Location, stores: Iterable[Path] = (), known: Collection[str] = ()) -> Listing:
    """List the pictures of a local folder, a URL, an archive or shards; see `list_files`.

    Raises:
        OSError: a local folder itself cannot be read.
        HeadstartError: a URL or an archive cannot be read.
    """
    if isinstance(location, Path):
        return list_files(location, stores, known)
    return list_place(open_place(location), location, known)


def list_place(place: Place, path: UrlPath, known: Collection[str] = ()) -> Listing:
    """List the pictures of a place in the order of a local folder with the same files.

    Args:
        place: the opened place of the path.
        path: the place, or a folder in it, which the paths of the listing are relative to.
        known: relative paths of pictures that are listed even if no decoder for their extension is installed.
    """
    prefix = f"{path.inner}/" if path.inner else ""
    listing, extensions = Listing(), list_extensions()
    listing.folders[""] = []
    ignored, hidden = set[str](), dict[str, int]()
    keys = {split_key(name)[0] for name in place.sidecars}
    inside = (e._replace(path=e.path[len(prefix) :]) for e in place.entries if e.path.startswith(prefix))
    for entry in sorted(inside, key=_order):
        if not entry.path or _ignore(entry, ignored, listing):
            continue
        if folder := _find_hidden_folder(entry):
            hidden.setdefault(folder, 0)
            hidden[folder] += find_extension(entry.path).lower() in extensions
            continue
        folder, _, name = entry.path.rpartition("/")
        _add_folders(listing, entry.path if entry.is_folder else folder)
        if entry.is_folder:
            continue
        key, extension = split_key(entry.path)
        reason = entry.problem
        if not reason and name.startswith("."):
            reason = HIDDEN_FILE
        elif not reason and find_extension(name).lower() not in extensions and entry.path not in known:
            reason = explain_extension(name)
        elif not reason and prefix + key in keys and "." in extension:
            reason = SECOND_PICTURE
        if reason:
            listing.skipped.append(Skipped(entry.path, reason))
        else:
            listing.folders[folder].append(PictureFile(entry.path, entry.num_bytes, entry.modified_ns))
    listing.skipped.extend(Skipped(folder, HIDDEN_FOLDER, count) for folder, count in hidden.items())
    listing.skipped.sort(key=lambda found: found.path)
    return listing


def _order(entry: Entry) -> tuple[list[str], str]:
    """Return the key of the order in which a local folder is listed: files of a folder first, then its folders."""
    folder, _, name = entry.path.rpartition("/")
    return (entry.path.split("/"), "") if entry.is_folder else (folder.split("/") if folder else [], name)


def _add_folders(listing: Listing, folder: str) -> None:
    """Add a folder and those above it, which have no entries of their own in most places."""
    if folder not in listing.folders:
        _add_folders(listing, folder.rpartition("/")[0])
        listing.folders[folder] = []


def _ignore(entry: Entry, ignored: set[str], listing: Listing) -> bool:
    """Return whether an entry is that of an operating system, or in such a folder, and count each once."""
    parts = entry.path.split("/")
    for number, part in enumerate(parts, 1):
        if system_name := name_system_entry(part):
            path = "/".join(parts[:number])
            if path not in ignored:
                ignored.add(path)
                listing.ignored[system_name] += 1
            return True
    return False


def _find_hidden_folder(entry: Entry) -> str:
    """Return the uppermost hidden folder of an entry; empty if it is in none."""
    parts = entry.path.split("/")
    folders = parts if entry.is_folder else parts[:-1]
    number = next((number for number, part in enumerate(folders, 1) if part.startswith(".")), 0)
    return "/".join(folders[:number])
