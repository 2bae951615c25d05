"""Errors about layouts that cannot be read, or can be read in two ways, with advice that works."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from base.errors import HeadstartError
from base.terminal import NUM_LISTED, format_count, format_list
from base.urls import Location
from extract.images.recognize import find_extension, list_extensions, name_system_entry
from extract.images.split_folders import find_splits, has_unlabelled_name
from extract.images.tree import Folder

_NUM_PREFIXES = 1000
_NUM_EXAMINED = 100
"""Largest number of folders beside a folder of pictures, and of files in each, that are examined for advice."""
_PREFIX = re.compile(r"([^\W\d_]+(?:[ _-][^\W\d_]+)*)[ ._(-]*\d")
"""Words before the number in a file name, such as `cat` in `cat.0.jpg`."""


class LayoutError(HeadstartError):
    """Folder of pictures without class folders, or with two readings of its folders."""


@dataclass(frozen=True)
class Source:
    """Folder of pictures, and what its messages contain."""

    images: Location
    tables: Sequence[str] = ()
    """Relative paths of files that may be a table of labels."""
    reasons: Sequence[str] = ()
    """Reasons for the skipped files and folders, one for each."""

    def format_option(self, folder: Folder) -> str:
        """Return the option `--images` with a folder, quoted for a shell."""
        return f"--images {shlex.quote(str(self.images / folder.path))}"


def format_classes_option(names: Collection[str]) -> str:
    """Return the option `--classes` with some names, quoted for a shell; at most five, then an ellipsis."""
    quoted = shlex.quote(",".join(sorted(names)[:NUM_LISTED]))
    return f"--classes {quoted}{',…' if len(names) > NUM_LISTED else ''}"


def refuse_too_few_classes(source: Source, root: Folder) -> LayoutError:
    """Describe a tree with at most one class folder, and suggest what would work.

    Args:
        source: the folder of pictures.
        root: folder in its tree in which the class folders are expected.
    """
    if not root.num_pictures:
        num_folders = sum(1 for _ in root.walk()) - 1
        got = f"{format_count(num_folders, 'folder')} and no picture"
        for reason, count in Counter(source.reasons).most_common(1):
            got += f"; {format_count(count, 'file')} skipped ({reason})"
        return LayoutError(source.images, "a folder of pictures for each class", got, "Check the path")
    flat = max(root.walk(), key=lambda folder: len(folder.pictures))
    prefixes = _find_prefixes(flat)
    names = f", with names such as {format_list(prefixes)} before a number" if prefixes else ""
    return LayoutError(
        source.images,
        "a folder of pictures for each of two or more classes",
        f"{_count_places(root)}{names}",
        _suggest(source, root, flat, prefixes),
    )


def _count_places(root: Folder) -> str:
    place = f"in {root.path}/" if root.path else "in it"
    direct = [f"{format_count(len(root.pictures), 'picture')} directly {place}"] if root.pictures else []
    inner = [f"{format_count(folder.num_pictures, 'picture')} in {folder.path}/" for folder in root.filled]
    empty = [f"{folder.path}/" for folder in root.folders if not folder.num_pictures]
    return format_list([*direct, *inner, *([f"no picture in {format_list(empty)}"] if empty else [])])


def _suggest(source: Source, root: Folder, flat: Folder, prefixes: Sequence[str]) -> str:
    """Return the advice for a tree with at most one class folder."""
    if deeper := _find_deeper(root):
        return f"Give {format_list([source.format_option(folder) for folder in deeper], ' or ')}"
    if source.tables:
        return f"Give a table of labels, such as --labels {shlex.quote(str(source.images / source.tables[0]))}"
    if prefixes:
        folders = format_list([f"{flat.path}/{name}/".lstrip("/") for name in prefixes])
        return f"Move the pictures of each class into a folder of its own ({folders}), or give a table with --labels"
    if not flat.path and (parent := _find_parent(source.images)):
        return f"If the folders beside it are the other classes, give --images {shlex.quote(os.fspath(parent))}"
    return "Put the pictures of each class into a folder of its own, or give a table of labels with --labels"


def _find_prefixes(folder: Folder) -> list[str]:
    """Return the words with which file names begin, if they may be classes: each before several numbers."""
    found = (_PREFIX.match(picture.path.rpartition("/")[2]) for picture in folder.pictures)
    counts = Counter(match[1] for match in found if match)
    is_likely = 2 <= len(counts) <= _NUM_PREFIXES and counts.total() == len(folder.pictures)
    return sorted(counts) if is_likely and min(counts.values()) > 1 else []


def _find_deeper(root: Folder) -> list[Folder]:
    """Find folders below that hold splits or several class folders."""
    pending, found = list(root.filled), []
    while pending:
        folder = pending.pop(0)
        with_pictures = [inner for inner in folder.filled if inner.pictures]
        if find_splits(folder.list_names()) or len(with_pictures) > 1:
            found.append(folder)
        else:
            pending += folder.filled
    return found


def _find_parent(images: Location) -> Path | None:
    """Return the folder above a local folder of pictures if it holds other such folders."""
    if not isinstance(images, Path):
        return None
    parent = images.parent if images.name not in ("", "..") else images.resolve().parent
    num_folders, extensions = 0, list_extensions()
    with suppress(OSError), os.scandir(parent) as entries:
        folders = (entry for entry in entries if entry.name[0] != "." and not name_system_entry(entry.name))
        for folder in islice(folders, _NUM_EXAMINED):
            with suppress(OSError), os.scandir(folder) as inside:
                names = (entry.name for entry in islice(inside, _NUM_EXAMINED))
                num_folders += any(find_extension(name).lower() in extensions for name in names)
    above = parent.parent if find_splits([parent.name]) else parent
    return above if num_folders > 1 else None


def refuse_flat_training(source: Source, train: Folder, others: Sequence[Folder]) -> LayoutError:
    """Describe a folder of training pictures without class folders, and the folders beside it."""
    classes = [folder.name for folder in others if folder.pictures and not has_unlabelled_name(folder.name)]
    error = refuse_too_few_classes(source, train)
    beside = [f"{format_count(folder.num_pictures, 'picture')} in {folder.path}/" for folder in others]
    got = f"{error.got}; beside it {format_list(beside)}" if beside else error.got
    advice = error.advice
    if classes:
        advice = f"{advice}. If {train.path}/ is a class, give {format_classes_option([train.name, *classes])}"
    return LayoutError(source.images, f"class folders in {train.path}/", got, advice)


def refuse_same_split(source: Source, split: str, folders: Sequence[Folder]) -> LayoutError:
    """Describe several folders for one split."""
    got = format_list([f"{folder.path}/" for folder in folders])
    advice = "Move the pictures of one into the other, or move one out of the folder"
    return LayoutError(source.images, f"one folder for the split {split!r}", got, advice)


def refuse_nested(source: Source, root: Folder, inner: Folder) -> LayoutError:
    """Describe a class folder that holds the other classes again, with other pictures."""
    outer = [folder.name for folder in root.filled if not f"{inner.path}/".startswith(f"{folder.path}/")]
    got = f"{inner.path}/, which holds the classes {format_list(sorted(inner.list_names()))} again, with other pictures"
    others, only = format_classes_option(outer), source.format_option(inner)
    advice = f"Give {others} to leave it out, or {only} to use only this folder"
    return LayoutError(source.images, "each class once", got, advice)


def refuse_shared_subfolders(source: Source, root: Folder, folders: Sequence[Folder]) -> LayoutError:
    """Describe folders without pictures of their own that hold the same subfolders."""
    outer = sorted(folder.name for folder in folders)
    inner = sorted({name for folder in folders for name in folder.list_names()})
    place = f" in {root.path}/" if root.path else ""
    got = f"the folders {format_list(outer)}{place} as classes, or the folders {format_list(inner)} in each of them"
    only = source.format_option(max(folders, key=lambda folder: folder.num_pictures))
    advice = f"Give {format_classes_option(outer)} or {format_classes_option(inner)}, or {only} to use only this folder"
    return LayoutError(source.images, "one reading of the folders", f"two: {got}", advice)


def refuse_shared_below(source: Source, root: Folder, holders: Sequence[Folder]) -> LayoutError:
    """Describe folders that hold the same subfolders at different depths, such as pictures and their masks."""
    outer, places = sorted(root.list_names()), format_list([f"{folder.path}/" for folder in holders])
    got = f"two: the folders {format_list(outer)} as classes, or the folders in {places}"
    options = format_list(list(map(source.format_option, holders)), " or ")
    advice = f"Give {options}, or {format_classes_option(outer)}"
    return LayoutError(source.images, "one reading of the folders", got, advice)


def refuse_parts(source: Source, root: Folder) -> LayoutError:
    """Describe folders that are parts of a data set by their names, in the place of classes."""
    table = shlex.quote(str(source.images / source.tables[0])) if source.tables else "FILE"
    advice = f"Give a table of labels with --labels {table}"
    advice = f"{advice}, or {format_classes_option(root.list_names())} if these folders are the classes"
    return LayoutError(source.images, "folders with the names of classes", _count_places(root), advice)


def refuse_inner_splits(source: Source, root: Folder, folders: Sequence[Folder]) -> LayoutError:
    """Describe folders in the place of classes that hold folders of splits."""
    names = format_list([f"{folder.path}/" for folder in folders])
    advice = f"Give {format_list([source.format_option(folder) for folder in folders], ' or ')}"
    if not find_splits(root.list_names()):
        advice = f"{advice}, or {format_classes_option(root.list_names())} if these folders are the classes"
    expected = "class folders, or one folder for each split"
    return LayoutError(source.images, expected, f"folders of splits in {names}", advice)


def refuse_beside_splits(
    source: Source, root: Folder, splits: Collection[str], folders: Sequence[Folder], labels: Sequence[str]
) -> LayoutError:
    """Describe folders beside the folders of splits that look like classes."""
    beside = format_list([f"{folder.path!r} ({format_count(folder.num_pictures, 'picture')})" for folder in folders])
    names = format_list([f"{path}/" for path in splits])
    advice = f"Give {format_classes_option(labels)} to leave out {format_list([folder.path for folder in folders])}"
    if len(splits) == 1:
        advice = f"{advice}, or {format_classes_option(root.list_names())} if these folders are the classes"
    expected = "either class folders, or only folders of splits"
    return LayoutError(source.images, expected, f"{names} beside {beside}", advice)
