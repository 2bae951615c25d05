"""Match the paths in a table to the pictures of a folder."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote

from base.urls import Location
from extract.images.formats import FORMAT_BY_EXTENSION
from extract.images.recognize import EXTENSIONS
from extract.images.split_folders import find_splits

_FILE_EXTENSIONS = EXTENSIONS.union(FORMAT_BY_EXTENSION, [".dcm", ".dicom", ".dng", ".cr2", ".nef", ".npy"])
"""Extensions of a value; a table often keeps the old one when its pictures are converted."""


@dataclass(frozen=True)
class Matches:
    """Pictures that the values of one column refer to."""

    pictures: list[int | None]
    """Number of the picture of each row; None if there is none or if there are several."""
    ambiguous: dict[str, list[str]]
    """Values that fit several pictures, with the paths of these."""

    @cached_property
    def num_found(self) -> int:
        """Number of different pictures, plus the number of values that fit several."""
        return len(set(self.pictures) - {None}) + len(self.ambiguous)


class PictureIndex:
    """Pictures of a folder, to be found by the values of a table.

    A value may be a path relative to the folder or to a folder above or below it, an absolute path, a path of another
    machine, a URL, or a name, each with or without the extension. Folders in the value must fit those of the picture.
    """

    def __init__(self, folder: Location, paths: Sequence[str]) -> None:
        """Index the pictures; `paths` are relative to the folder."""
        self.paths = paths
        self.folder = folder
        self._absolute = _normalise(str(folder.resolve()))
        self._folders: list[str] = []
        self._by_path: dict[str, int] = {}
        self._by_name: dict[str, list[int]] = {}
        self._by_stem: dict[str, list[int]] = {}
        for number, path in enumerate(paths):
            if not path.isascii():
                path = unicodedata.normalize("NFC", path)
            parent, _, name = path.rpartition("/")
            self._folders.append(parent)
            self._by_path[path] = number
            self._by_name.setdefault(name, []).append(number)
            self._by_stem.setdefault(remove_extension(name), []).append(number)

    def match(self, values: Sequence[str]) -> Matches:
        """Find the picture of each value."""
        found = {value: self.find(value) for value in set(values)}
        picture_of = {value: numbers[0] if len(numbers) == 1 else None for value, numbers in found.items()}
        several = {value: numbers for value, numbers in found.items() if len(numbers) > 1}
        ambiguous = {value: [self.paths[number] for number in numbers] for value, numbers in several.items()}
        return Matches([picture_of[value] for value in values], ambiguous)

    def find(self, value: str) -> list[int]:
        """Return the numbers of the pictures that a value fits."""
        parent, path, name = "", value, value
        if "/" in value or "\\" in value or not value.isascii():
            path = _normalise(value).removeprefix(f"{self._absolute}/")
            parent, _, name = path.rpartition("/")
        exact = self._by_path.get(path)
        if exact is not None:
            return [exact]
        found = self._by_name.get(name) or self._by_stem.get(name) or self._by_stem.get(remove_extension(name)) or []
        if not parent or not found:
            return found
        # A picture whose path ends with these folders is more certain than one whose path only does not contradict.
        certain = [number for number in found if _ends_with(self._locate(number), parent)]
        return certain or [number for number in found if self._may_be_in(number, parent)]

    def _locate(self, number: int) -> str:
        return f"{self._absolute}/{self._folders[number]}".rstrip("/")

    def _may_be_in(self, number: int, parent: str) -> bool:
        """Return whether `parent`, which may be a folder of another machine, can be the folder of a picture."""
        inside = self._folders[number]
        if inside:
            return _ends_with(parent, inside)
        names = (folder.rpartition("/")[2] for folder in (parent, self._absolute))
        return len(set(find_splits(names).values())) < 2


def remove_extension(name: str) -> str:
    """Return a file name without its extension, if that is one of a picture."""
    stem, _, extension = name.rpartition(".")
    return stem if stem and f".{extension.lower()}" in _FILE_EXTENSIONS else name


def _ends_with(folder: str, end: str) -> bool:
    return f"/{folder}".endswith(f"/{end.strip('/')}")


def _normalise(value: str) -> str:
    r"""Return a path with `/`, without `.`, `..`, `\`, and the host and query of a URL, in NFC."""
    path = value.replace("\\", "/")
    if "://" in path:
        path = unquote(re.split("[?#]", path.partition("://")[2])[0].partition("/")[2])
    if "./" in path or "//" in path:
        path = ("/" if path.startswith("/") else "") + "/".join(p for p in path.split("/") if p not in ("", ".", ".."))
    return path if path.isascii() else unicodedata.normalize("NFC", path)
