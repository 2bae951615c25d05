"""Finds a folder's pictures: which there are, of which class and split, and what was passed over."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from base.errors import HeadstartError, UsageError
from extract.images.walk import OWN, OWN_STORE, is_folder, list_entries, walk_files

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
    "testing": "test",
}
EXTENSIONS = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp"]
    + [".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"]
)

_MAX_TIME_NS = 2**63 - 1
"""The last time that SQLite can hold, in the year 2262; the first is as long before 1970."""
UNREADABLE = "a picture of a kind that is not decoded"
_UNREADABLE_EXTENSIONS = frozenset(
    [".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".ico", ".psd", ".tga", ".hdr", ".exr", ".dcm"]
    + [".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw"]
)


@dataclass(frozen=True)
class ImageFile:
    """A picture file of a class."""

    path: str
    """Relative to the scanned folder, with `/`."""
    label: str
    split: str
    """`train`, `validation`, `test`, or empty where the folder has no splits."""
    num_bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Skipped:
    """A file that is not taken, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Scan:
    """What a folder holds."""

    images: list[ImageFile]
    skipped: list[Skipped]

    def count_by_class(self) -> dict[str, dict[str, int]]:
        """Counts pictures as {split: {label: count}}."""
        counts: dict[str, dict[str, int]] = {}
        for image in self.images:
            by_label = counts.setdefault(image.split, {})
            by_label[image.label] = by_label.get(image.label, 0) + 1
        return counts

    def describe(self) -> str:
        """Says how many pictures there are of each class and split."""
        parts = []
        for split, counts in sorted(self.count_by_class().items()):
            classes = ", ".join(f"{count:,} {label}" for label, count in sorted(counts.items()))
            parts.append(f"{split}: {classes}" if split else classes)
        skipped = f"; {len(self.skipped)} other files skipped" if self.skipped else ""
        return f"{len(self.images):,} pictures ({'; '.join(parts)}){skipped}"


def scan_images(folder: Path, stores: Collection[Path] = ()) -> Scan:
    """Scans a folder of class folders, or of `train/`, `validation/`, `test/` with class folders in each.

    A class is named by the folder at its level; pictures may lie deeper in it. Hidden files, `._*` and
    `__MACOSX` are not looked at. A hidden folder with pictures at the level of the classes is listed as
    skipped. So are Headstart's own folders at any level, and files whose extension is not a picture's.

    Args:
        folder: the folder of pictures.
        stores: where features are kept, or will be; listed as skipped where that is inside the folder.

    Returns:
        Pictures and skipped files, by path.

    Raises:
        UsageError: there is no such folder.
        HeadstartError: no picture, one class only, a class folder without a picture, or a layout that
            can be read in two ways.
    """
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing"
        raise UsageError(folder, "a folder of pictures", f"{got} there", "Give its path with --images (DATA=)")
    own = _list_inside(folder, stores)
    images: list[ImageFile] = []
    splits, skipped = _list_splits(folder, own)
    class_folders: list[tuple[str, str]] = []
    for split, prefix in splits:
        skipped += _list_hidden(folder, prefix)
        for entry in list_entries(folder / prefix):
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            if is_folder(entry):
                taken, passed = _scan_class(folder, path, split, entry.name, own)
                images += taken
                skipped += passed
                if taken or not _are_own(passed):
                    class_folders.append((split, path))
            else:
                skipped.append(Skipped(path, "not in a class folder"))
    _check_classes(folder, class_folders, images)
    # A store that is made by this very run is listed as it will be by the next.
    skipped += [Skipped(path, OWN_STORE) for path in own - {found.path for found in skipped}]
    return Scan(sorted(images, key=lambda i: i.path), sorted(skipped, key=lambda s: s.path))


def _list_inside(folder: Path, stores: Collection[Path]) -> frozenset[str]:
    """Lists those stores that are inside the folder of pictures, relative to it."""
    top = folder.resolve()
    return frozenset(
        found.relative_to(top).as_posix() for store in stores if (found := store.resolve()).is_relative_to(top)
    ) - {"."}


def _list_splits(folder: Path, own: Collection[str]) -> tuple[list[tuple[str, str]], list[Skipped]]:
    """Returns (split, folder name) pairs, ("", "") where class folders stand at the top; and what is beside splits."""
    names = {entry.name: is_folder(entry) for entry in list_entries(folder)}
    folders = [name for name, is_one in names.items() if is_one]
    if "train" not in {SPLIT_FOLDERS.get(name.lower()) for name in folders}:
        return [("", "")], []
    skipped = [Skipped(name, "not in a class folder") for name, is_one in names.items() if not is_one]
    for name in folders:
        if name.lower() in SPLIT_FOLDERS:
            continue
        taken, passed = _scan_class(folder, name, "", name, own)
        if taken or not _are_own(passed):
            raise HeadstartError(
                folder,
                "either class folders or train/ beside validation/ or test/",
                f"train/ beside {name!r}",
                f"Move {name!r} into train/, or rename train/ if it is a class",
            )
        skipped += passed
    skipped += _list_hidden(folder, "")
    return [(SPLIT_FOLDERS[name.lower()], name) for name in folders if name.lower() in SPLIT_FOLDERS], skipped


def _are_own(passed: list[Skipped]) -> bool:
    """Says whether a folder without a picture holds nothing but Headstart's own."""
    return bool(passed) and all(found.reason.startswith(OWN) for found in passed)


def _list_hidden(folder: Path, prefix: str) -> list[Skipped]:
    """Lists hidden folders in the place of classes that have pictures in them, and says how many."""
    with os.scandir(folder / prefix) as entries:
        hidden = sorted(entry.name for entry in entries if entry.name.startswith(".") and is_folder(entry))
    skipped = []
    for name in hidden:
        path = f"{prefix}/{name}" if prefix else name
        files = walk_files(folder, path)
        count = sum(not problem and Path(file).suffix.lower() in EXTENSIONS for file, problem in files)
        if count:
            skipped.append(Skipped(path, f"a hidden folder, with {count:,} pictures"))
    return skipped


def _scan_class(
    folder: Path, top: str, split: str, label: str, own: Collection[str]
) -> tuple[list[ImageFile], list[Skipped]]:
    images, skipped = [], []
    for path, problem in walk_files(folder, top, own):
        if problem:
            skipped.append(Skipped(path, problem))
        elif Path(path).suffix.lower() not in EXTENSIONS:
            skipped.append(Skipped(path, explain_extension(path)))
        else:
            try:
                status = (folder / path).stat()
            except OSError as error:
                skipped.append(Skipped(path, error.strerror or str(error)))
                continue
            if stat.S_ISREG(status.st_mode):
                modified_ns = max(-_MAX_TIME_NS, min(status.st_mtime_ns, _MAX_TIME_NS))
                images.append(ImageFile(path, label, split, status.st_size, modified_ns))
            else:
                skipped.append(Skipped(path, "not a regular file"))
    return images, skipped


def explain_extension(path: str) -> str:
    """Says why a file is no picture to be taken, by its name."""
    extension = Path(path).suffix
    if extension.lower() in _UNREADABLE_EXTENSIONS:
        return f"{UNREADABLE} ({extension}); convert it to JPEG or PNG"
    return f"not a picture by its name ({extension or 'no extension'})"


def describe_unreadable(files: Iterable[tuple[str, str]]) -> str:
    """Says how many pictures are of a kind that is not decoded; empty for none.

    Args:
        files: paths of skipped files, each with its reason.
    """
    unreadable = [(path, reason) for path, reason in files if reason.startswith(UNREADABLE)]
    if not unreadable:
        return ""
    return f"{len(unreadable):,} pictures are skipped, such as {unreadable[0][0]}: {unreadable[0][1]}"


def _check_classes(folder: Path, class_folders: list[tuple[str, str]], images: list[ImageFile]) -> None:
    filled = {(image.split, image.label) for image in images}
    if not filled:
        raise HeadstartError(
            folder,
            "a folder for each class with pictures in it",
            f"{len(class_folders)} folders and no picture in them",
            "Put each class's pictures into a folder of its own",
        )
    empty = [path for split, path in class_folders if (split, Path(path).name) not in filled]
    if empty:
        advice = f"Add pictures of the class, or move the folder out of {folder}"
        raise HeadstartError(folder / empty[0], "pictures of the class", "none", advice)
    for split in sorted({split for split, _ in filled}):
        labels = sorted(label for other, label in filled if other == split)
        if len(labels) == 1 and split in ("", "train"):
            raise HeadstartError(
                folder, "two or more classes", f"one, {labels[0]!r}", "Add a folder for each other class"
            )
    trained = {label for split, label in filled if split in ("", "train")}
    strangers = sorted(label for _, label in filled if label not in trained)
    if strangers:
        raise HeadstartError(
            folder,
            "the classes of train/ in every split",
            f"{strangers[0]!r}, which is not in train/",
            "Add pictures of that class to train/, or move its folder out of the other splits",
        )
