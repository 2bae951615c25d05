"""Sort pictures into folders of their predicted classes, as links; the pictures themselves are never changed."""

from __future__ import annotations

import errno
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from base import system
from base.errors import HeadstartError, UsageError
from base.files import read_regular_file
from base.replace import replace_folder
from base.target import LINKS, Names, Target
from base.urls import Location, is_url, redact
from extract.images.recognize import SORTED_FILE
from train_head.predict.prediction import NO_LABEL, NONE_OF_THESE, UNSURE, Prediction
from train_head.runs.card import ModelCard

_GENERATOR = "headstart predict --sort-into"
_MAX_BYTES = 2**26
_MAX_NAME_BYTES = 255
"""Largest length of a file name on Linux and macOS."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems that have no links of a kind."""
_NO_PRIVILEGE = 1314
"""Error of Windows outside its developer mode: symbolic links need a privilege. Source: System Error Codes."""


class Folders(NamedTuple):
    """Names of the folders of sorted pictures."""

    classes: dict[str, str]
    """Folder of each class."""
    none_of_these: str
    unsure: str
    no_label: str
    """Folder of the pictures without any label, if pictures have several."""

    def list_names(self) -> list[str]:
        """List the names of all folders."""
        return [*self.classes.values(), *self[1:]]

    def choose(self, found: Prediction) -> list[str]:
        """Return the folder of a picture, or one for each label if pictures have several."""
        if found.is_outlier:
            return [self.none_of_these]
        if found.is_unsure:
            return [self.unsure]
        return [self.classes[label] for label in found.labels] or [self.no_label]


class Sorter:
    """Sorter of pictures into the folders of a staging folder, which later replaces the user's folder."""

    def __init__(self, staging: Path, place: Path, folders: Folders) -> None:
        """Create a sorter without links.

        Args:
            staging: folder in which the folders and links are created.
            place: resolved path of the folder that the staging folder replaces.
            folders: names of the folders.
        """
        self._staging, self._place, self._folders = staging, place, folders
        self._made: set[str] = set()
        self._numbers: dict[tuple[str, str], int] = {}
        self._has_symbolic_links = True
        self.num_links = 0

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Create the links of some pictures: one, or one for each label if pictures have several."""
        for found in predictions:
            for folder in self._folders.choose(found):
                self._link(found.image, folder)

    def _link(self, picture: Location, folder: str) -> None:
        if folder not in self._made:
            (self._staging / folder).mkdir()
            self._made.add(folder)
        number = self._numbers.get((folder, picture.name), 1)
        while True:
            try:
                self._create_link(picture, folder, number_name(picture.name, number))
                break
            except FileExistsError:
                # A picture of another folder has this name, or one that differs in case only where case is ignored.
                number += 1
                self._numbers[folder, picture.name] = number
        self.num_links += 1

    def _create_link(self, picture: Location, folder: str, name: str) -> None:
        link, target = self._staging / folder / name, Path(os.path.realpath(str(picture.parent)), picture.name)
        if self._has_symbolic_links:
            try:
                link.symlink_to(choose_link_target(target, self._place, folder))
                return
            except OSError as error:
                if error.errno not in _NO_LINKS and getattr(error, "winerror", 0) != _NO_PRIVILEGE:
                    raise
                self._has_symbolic_links = False
        try:
            system.link(target, link, follow=True)
        except OSError as error:
            if error.errno not in (*_NO_LINKS, errno.EXDEV, errno.EMLINK):
                raise
            got, advice = f"one without ({error.strerror})", "Give a folder on another file system"
            raise HeadstartError(self._place, "a file system with links", got, advice) from error


@contextmanager
def open_sorter(out: Path, card: ModelCard) -> Iterator[Sorter]:
    """Open a folder to sort pictures into; the links replace those of an earlier command when the block is complete.

    Args:
        out: the folder.
        card: card of the model.

    Raises:
        TargetLockedError: another command is writing the folder.
        HeadstartError: the folder has foreign entries in place of the new ones, or cannot be written.
    """
    folders = name_folders(card)
    target = describe_sorted(out, folders.list_names())
    with replace_folder(target) as replacement:
        sorter = Sorter(replacement.staging, target.place, folders)
        yield sorter
        marker = {"generator": _GENERATOR, "folders": sorted(folders.list_names())}
        (replacement.staging / SORTED_FILE).write_text(json.dumps(marker, indent=2))
        replacement.commit()


def describe_sorted(out: Path, folders: Iterable[str]) -> Target:
    """Describe the folder of sorted pictures: the entries in it that may be replaced.

    Args:
        out: the folder.
        folders: names of the folders that are written into it.
    """
    earlier = _read_marker(out)["folders"] if os.path.lexists(out / SORTED_FILE) else ()
    names: Names = {SORTED_FILE: None, **dict.fromkeys([*folders, *earlier], LINKS)}
    return Target(out, names, _refuse_foreign_folders, "`sort_into`")


def _refuse_foreign_folders(out: Path) -> None:
    if not os.path.lexists(out / SORTED_FILE):
        got, advice = f"folders of classes without {SORTED_FILE}", "Give another `sort_into`"
        raise HeadstartError(out, "a new folder, or one that this command filled", got, advice)
    _read_marker(out)


def _read_marker(out: Path) -> dict[str, Any]:
    path = out / SORTED_FILE
    try:
        values = json.loads(read_regular_file(path, _MAX_BYTES))
        if values["generator"] != _GENERATOR or not all(is_file_name(name) for name in values["folders"]):
            raise ValueError("a file of another program")
    except (OSError, ValueError, TypeError, KeyError) as error:
        got = (isinstance(error, OSError) and error.strerror) or str(error)
        raise HeadstartError(path, "the list of sorted folders", got, "Give another `sort_into`") from error
    return dict(values)


def check_sort_folder(out: str, pictures: Sequence[str]) -> None:
    """Raise UsageError if the option `sort_into` is a file or has pictures to classify, or these are at a URL.

    Links beside their pictures would be classified as pictures by the next command, and then replaced by links to
    themselves.
    """
    if not out:
        return
    if remote := next(filter(is_url, pictures), None):
        got, advice = redact(remote), "Copy the pictures to a disk, or leave the option out"
        raise UsageError("sort_into", "local pictures, which links can point to", got, advice)
    if os.path.lexists(out) and not Path(out).is_dir():
        raise UsageError(out, "a new folder, or one that this command filled", "a file", "Give another `sort_into`")
    place = Path(out).resolve()
    for parent in sorted({Path(picture).parent for picture in pictures}):
        if parent.resolve().is_relative_to(place):
            got, advice = f"one that contains pictures to classify, in {parent}", "Give another `sort_into`"
            raise UsageError(out, "a folder for links only", got, advice)


def name_folders(card: ModelCard) -> Folders:
    """Choose a folder name for each label: the label, or a valid name that no other label has, in any case."""
    names: list[str] = []
    used: set[str] = set()
    for label in (*card.classes, NONE_OF_THESE, UNSURE, NO_LABEL):
        name, number = make_file_name(label), 1
        while number_name(name, number).casefold() in used:
            number += 1
        names.append(number_name(name, number))
        used.add(names[-1].casefold())
    *classes, none_of_these, unsure, no_label = names
    return Folders(dict(zip(card.classes, classes, strict=True)), none_of_these, unsure, no_label)


def make_file_name(label: str) -> str:
    """Return a valid and visible file name for a label: slashes and control characters become `_`."""
    name = "".join("_" if char == "/" or unicodedata.category(char) == "Cc" else char for char in label)
    name = system.replace_forbidden(name)
    return _cut(f"_{name}" if name.startswith(".") or not name else name, _MAX_NAME_BYTES)


def number_name(name: str, number: int) -> str:
    """Return a file name with a number before its extension, as `a-2.jpg`; unchanged for 1."""
    if number == 1:
        return name
    path, ending = Path(name), f"-{number}"
    return _cut(path.stem, _MAX_NAME_BYTES - len(os.fsencode(ending + path.suffix))) + ending + path.suffix


def is_file_name(name: object) -> bool:
    """Return whether a value is the name of an entry of a folder, and not a path."""
    return isinstance(name, str) and PurePath(name).parts == (name,) and name != ".." and "\0" not in name


def choose_link_target(picture: Path, place: Path, folder: str) -> str:
    """Return the path that a symbolic link in a class folder has.

    It is relative if the picture and the folder are below one folder, which can then be moved or renamed with both;
    else absolute, so that the sorted folder can be moved alone.

    Args:
        picture: resolved path of the picture.
        place: resolved path of the folder that is filled.
        folder: name of the class folder in it.
    """
    is_near = picture.is_relative_to(place.parent) and place.parent != Path(place.anchor)
    return os.path.relpath(picture, place / folder) if is_near else str(picture)


def _cut(text: str, num_bytes: int) -> str:
    """Return the longest beginning of a text that has at most this number of bytes as a file name."""
    while len(os.fsencode(text)) > num_bytes:
        text = text[:-1]
    return text
