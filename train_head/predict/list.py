"""List the pictures to classify."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from base.errors import HeadstartError, UsageError
from base.places.open import open_pictures
from base.terminal import format_list
from base.urls import Location, UrlPath, locate_pictures
from extract.images.places import list_location
from extract.images.recognize import find_extension, list_extensions
from extract.images.walk import UNREADABLE_FILE, list_files
from train_head.predict.prediction import UnusedPicture


def list_pictures(files: Sequence[Location]) -> tuple[list[str], list[UnusedPicture]]:
    """List the pictures to classify.

    Args:
        files: pictures with any extension, and folders and archives, which are searched for pictures by extension. A
            URL with the extension of a picture is one, and any other is a folder.

    Returns:
        The paths of the pictures, in the given order and sorted by path within a folder; and the skipped files in the
        folders. The paths are texts for `parse_location`, which take a fifth of the memory of `Path`.

    Raises:
        UsageError: a path does not exist.
        HeadstartError: no picture was found.
    """
    paths: list[str] = []
    skipped: list[UnusedPicture] = []
    for file in map(locate_pictures, files):
        if isinstance(file, UrlPath):
            if not file.archive and find_extension(file.name).lower() in list_extensions():
                paths.append(file.full)
                continue
            found = open_pictures(file)
            listing = list_location(found)
            inside = (found / picture.path for picture in listing.pictures)
            paths += [path.full if isinstance(path, UrlPath) else str(path) for path in inside]
            skipped += [UnusedPicture(found / f.path, f.reason) for f in listing.skipped]
            continue
        try:
            is_folder = stat.S_ISDIR(file.stat().st_mode)
        except OSError as error:
            got = "no such file or folder" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
            raise UsageError(file, "a picture or a folder", got, "Check the path") from error
        if not is_folder:
            paths.append(str(file))
            continue
        listing = list_files(file)
        # A link to a missing file fails when it is read, so that it is not overlooked.
        broken = {found.path for found in listing.skipped if found.reason.startswith(UNREADABLE_FILE)}
        names = {picture.path for folder in listing.folders.values() for picture in folder} | broken
        paths += [str(file / name) for name in sorted(names)]
        skipped += [UnusedPicture(file / f.path, f.reason) for f in listing.skipped if f.path not in broken]
    if not paths:
        got = f"none ({skipped[0].image}: {skipped[0].reason})" if skipped else "none"
        raise HeadstartError(format_list([*map(str, files)]), "pictures", got, "Give pictures or a folder of pictures")
    return paths, skipped
