"""Tree of the folders of a listing, with the pictures in each."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from extract.images.recognize import HEADSTART
from extract.images.walk import Listing, PictureFile


@dataclass(eq=False)
class Folder:
    """Folder of a listing."""

    path: str
    """Path relative to the listed folder, with `/`; empty for the listed folder itself."""
    pictures: list[PictureFile]
    """Pictures directly in the folder."""
    folders: list[Folder] = field(default_factory=list)
    """Subfolders, without those that contain nothing but folders written by Headstart."""

    @property
    def name(self) -> str:
        """Name of the folder as a label, in Unicode form C: macOS and Linux may write the same name differently."""
        return unicodedata.normalize("NFC", self.path.rpartition("/")[2])

    @cached_property
    def num_pictures(self) -> int:
        """Number of pictures at any depth."""
        return len(self.pictures) + sum(inner.num_pictures for inner in self.folders)

    @cached_property
    def filled(self) -> list[Folder]:
        """Subfolders with pictures at any depth."""
        return [inner for inner in self.folders if inner.num_pictures]

    def list_names(self) -> set[str]:
        """Return the names of the subfolders with pictures."""
        return {inner.name for inner in self.filled}

    def walk(self) -> Iterator[Folder]:
        """Yield this folder and all folders below it."""
        pending = [self]
        while pending:
            folder = pending.pop()
            yield folder
            pending += reversed(folder.folders)


def build_tree(listing: Listing) -> Folder:
    """Build the tree of the folders of a listing, and return its top."""
    nodes = {path: Folder(path, pictures) for path, pictures in listing.folders.items()}
    own = {found.path.rpartition("/")[0] for found in listing.skipped if found.reason.startswith(HEADSTART)}
    # In reverse, each folder comes after the folders in it. Their order is restored when it is reached.
    for path, node in reversed(nodes.items()):
        node.folders.reverse()
        parent = nodes[path.rpartition("/")[0]]
        if path in own and not node.num_pictures:
            own.add(parent.path)
        elif path:
            parent.folders.append(node)
    return nodes[""]


def unwrap(folder: Folder) -> Folder:
    """Enter a folder that holds nothing but one folder with class folders, as in `seg_train/seg_train`, repeatedly."""
    while not folder.pictures and len(folder.folders) == 1:
        (inner,) = folder.folders
        if inner.pictures or not inner.filled:
            break
        folder = inner
    return folder


def find_copy(folder: Folder, outer: Folder) -> Folder | None:
    """Find a second copy of a folder's content in one of its subfolders, as in `cell_images/cell_images`.

    Args:
        folder: subfolder of `outer` that may be the copy, or contain it.
        outer: folder with the originals.

    Returns:
        The folder in which every picture has the relative path and the size of a picture in `outer`; None if
        there is none.
    """
    inner = unwrap(folder)
    if not inner.filled:
        return None
    sizes = {
        picture.path[len(outer.path) :].lstrip("/"): picture.num_bytes
        for other in outer.filled
        if other is not folder
        for node in other.walk()
        for picture in node.pictures
    }
    pictures = [picture for node in inner.walk() for picture in node.pictures]
    is_copy = all(sizes.get(picture.path[len(inner.path) + 1 :]) == picture.num_bytes for picture in pictures)
    return inner if is_copy else None
