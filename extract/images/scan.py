"""Find a folder's pictures with their classes and splits, and list the files that are skipped."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from base.errors import HeadstartError, UsageError
from base.terminal import format_count
from extract.images.recognize import (
    EXTENSIONS,
    HEADSTART,
    HEADSTART_STORE,
    explain_extension,
    identify_headstart_folder,
)
from extract.images.walk import SPECIAL_FILE, Skipped, is_folder
from features.catalog.tables import ImageRow
from features.labels import LabelSource

if TYPE_CHECKING:
    from extract.images.labels import TableLabels

SPLIT_FOLDERS = {
    **dict.fromkeys(["train", "training"], "train"),
    **dict.fromkeys(["validation", "val", "valid"], "validation"),
    **dict.fromkeys(["test", "testing"], "test"),
}


@dataclass(frozen=True)
class Scan:
    """Pictures and skipped files of a folder."""

    images: list[ImageRow]
    """Pictures with the label of their class; the split is empty where the folder has no splits."""
    skipped: list[Skipped]
    labels: TableLabels | None = None
    """Use of the table that the labels are from; None for the names of the class folders."""

    @property
    def label_source(self) -> LabelSource:
        """Source of the labels, as the catalog records it."""
        return self.labels.source if self.labels else LabelSource()

    def count_by_class(self) -> dict[str, dict[str, int]]:
        """Count pictures as {split: {label: count}}; a picture with several labels counts for each."""
        counts: dict[str, dict[str, int]] = {}
        list_labels = self.label_source.list_labels
        pairs = ((image.split, label) for image in self.images for label in list_labels(image.label))
        for (split, label), count in Counter(pairs).items():
            counts.setdefault(split, {})[label] = count
        return counts

    def describe(self) -> str:
        """Return the number of pictures of each class and split, as one line."""
        parts = []
        for split, counts in sorted(self.count_by_class().items()):
            classes = ", ".join(f"{count:,} {label}" for label, count in sorted(counts.items()))
            parts.append(f"{split}: {classes}" if split else classes)
        skipped = f"; {format_count(len(self.skipped), 'file')} skipped" if self.skipped else ""
        return f"{format_count(len(self.images), 'picture')} ({'; '.join(parts)}){skipped}"


def scan_images(folder: Path, stores: Collection[Path] = ()) -> Scan:
    """Scan a folder of class folders, or of `train/`, `validation/`, `test/` with class folders in each.

    The name of a class folder is the label of all pictures below it, at any depth. Hidden files, `._*` and
    `__MACOSX` are ignored. Hidden class folders with pictures, folders that Headstart wrote, and files without the
    extension of a picture are listed as skipped.

    Args:
        folder: the folder of pictures.
        stores: folders of feature stores, which need not exist yet; listed as skipped if they are inside `folder`.

    Returns:
        Pictures and skipped files, sorted by path.

    Raises:
        UsageError: the folder does not exist.
        HeadstartError: there is no picture, only one class, a class folder without pictures, or an ambiguous layout.
    """
    if not folder.is_dir():
        got = "a file" if folder.exists() else "no such folder"
        raise UsageError(folder, "a folder of pictures", got, "Give its path with --images")
    top = folder.resolve()
    inside = [store.resolve().relative_to(top).as_posix() for store in stores if store.resolve().is_relative_to(top)]
    stores_inside = frozenset(inside) - {"."}
    names = [entry.name for entry in list_entries(folder) if is_folder(entry)]
    splits = {name: SPLIT_FOLDERS[name.lower()] for name in names if name.lower() in SPLIT_FOLDERS}
    if "train" not in splits.values():
        splits = {"": ""}
    images: list[ImageRow] = []
    skipped: list[Skipped] = []
    class_folders: list[tuple[str, Path]] = []
    for prefix in dict.fromkeys(["", *splits]):
        for entry in list_entries(folder / prefix, hidden=True):
            path, is_hidden = f"{prefix}/{entry.name}" if prefix else entry.name, entry.name.startswith(".")
            if path in splits:
                continue
            if not is_folder(entry):
                skipped += [] if is_hidden else [Skipped(path, "a file outside a class folder")]
                continue
            found, others = _scan_class(folder, path, splits.get(prefix, ""), entry.name, stores_inside)
            if is_hidden:
                reason = f"a hidden folder with {format_count(len(found), 'picture')}"
                skipped += [Skipped(path, reason)] if found else []
                continue
            is_own = not found and others and all(file.reason.startswith(HEADSTART) for file in others)
            if not is_own and prefix not in splits:
                raise HeadstartError(
                    folder,
                    "either class folders, or only split folders (train/, validation/, test/)",
                    f"train/ beside {path!r}",
                    f"Move {path!r} into train/, or rename train/ if it is a class",
                )
            images += found
            skipped += others
            if not is_own:
                class_folders.append((splits[prefix], Path(path)))
    _check_classes(folder, class_folders, images)
    # Also list a store that this run will create, so that this run and the next one list the same folders.
    skipped += [Skipped(path, HEADSTART_STORE) for path in stores_inside - {found.path for found in skipped}]
    return Scan(sorted(images, key=lambda i: i.path), sorted(skipped, key=lambda s: s.path))


def _scan_class(
    folder: Path, top: str, split: str, label: str, stores: Collection[str]
) -> tuple[list[ImageRow], list[Skipped]]:
    images, skipped = [], []
    for path, problem in walk_files(folder, top, stores):
        if not problem and Path(path).suffix.lower() not in EXTENSIONS:
            problem = explain_extension(path)
        if not problem:
            try:
                status = (folder / path).stat()
                problem = "" if stat.S_ISREG(status.st_mode) else SPECIAL_FILE
            except OSError as error:
                problem = f"an unreadable file ({error.strerror or error})"
        if problem:
            skipped.append(Skipped(path, problem))
        else:
            modified_ns = max(1 - 2**63, min(status.st_mtime_ns, 2**63 - 1))
            images.append(ImageRow(path, label, split, status.st_size, modified_ns))
    return images, skipped


def _check_classes(folder: Path, class_folders: list[tuple[str, Path]], images: list[ImageRow]) -> None:
    filled = {(image.split, image.label) for image in images}
    trained = sorted({label for split, label in filled if split in ("", "train")})
    if not filled:
        got = f"{format_count(len(class_folders), 'folder')} and no picture"
        raise HeadstartError(
            folder,
            "a folder of pictures for each class",
            got,
            "Put the pictures of each class into a folder of its own",
        )
    for split, path in class_folders:
        if (split, path.name) not in filled:
            advice = f"Add pictures of the class, or move the folder out of {folder}"
            raise HeadstartError(folder / path, "one or more pictures", "none", advice)
    if len(trained) == 1:
        raise HeadstartError(
            folder, "two or more classes", f"one class, {trained[0]!r}", "Add a folder of pictures for each other class"
        )
    others = sorted(label for _, label in filled if label not in trained)
    if others:
        raise HeadstartError(
            folder,
            "only classes of train/ in the other splits",
            f"the class {others[0]!r}",
            "Add pictures of that class to train/, or move its folder out of the other splits",
        )


def walk_files(folder: Path, top: str, stores: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Walk a tree of folders. Links are followed, except links to a folder above them.

    Args:
        folder: the folder that paths are relative to.
        top: path of the folder to start from, relative to `folder`.
        stores: paths of feature stores, relative to `folder`; they need not exist yet.

    Yields:
        (path, problem) for each file, and for each folder that is not entered. The path is relative to `folder`. The
        problem is a noun phrase for a folder, and empty for a file.
    """
    parts = Path(top).parts
    parents = [folder.joinpath(*parts[:depth]).stat() for depth in range(len(parts))]
    pending = [(top, frozenset((status.st_dev, status.st_ino) for status in parents))]
    while pending:
        path, above = pending.pop()
        try:
            status = (folder / path).stat()
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                yield path, "a link to a folder above it"
                continue
            entries = list_entries(folder / path)
            names = {entry.name for entry in entries}
            own = HEADSTART_STORE if path in stores else identify_headstart_folder(folder / path, names)
        except OSError as error:
            yield path, f"an unreadable folder ({error.strerror or error})"
            continue
        if own:
            yield path, own
            continue
        for entry in entries:
            inside = f"{path}/{entry.name}"
            if is_folder(entry):
                pending.append((inside, above | {identity}))
            else:
                yield inside, ""


def list_entries(folder: Path, *, hidden: bool = False) -> list[os.DirEntry[str]]:
    """List the entries of a folder in alphabetical order, without `__MACOSX`; `hidden` includes hidden entries."""
    ignored = "__MACOSX" if hidden else (".", "__MACOSX")
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(ignored)), key=lambda entry: entry.name)
