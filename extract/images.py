"""Finds a folder's pictures: which there are, of which class and split, and what was passed over."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from features.errors import HeadstartError, UsageError

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


def scan_images(folder: Path) -> Scan:
    """Scans a folder of class folders, or of `train/`, `validation/`, `test/` with class folders in each.

    A class is named by the folder at its level; pictures may lie deeper in it. Hidden files, `._*` and
    `__MACOSX` are not looked at; anything else that is no picture by its name is listed as skipped.

    Args:
        folder: the folder of pictures.

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
    images: list[ImageFile] = []
    skipped: list[Skipped] = []
    class_folders: list[tuple[str, str]] = []
    splits = _list_splits(folder)
    if splits != [("", "")]:
        beside = (entry.name for entry in _list_entries(folder) if not _is_folder(entry))
        skipped += [Skipped(name, "not in a class folder") for name in beside]
    for split, prefix in splits:
        for entry in _list_entries(folder / prefix):
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            if _is_folder(entry):
                class_folders.append((split, path))
                _scan_class(folder, path, split, entry.name, images, skipped)
            else:
                skipped.append(Skipped(path, "not in a class folder"))
    _check_classes(folder, class_folders, images)
    return Scan(sorted(images, key=lambda i: i.path), sorted(skipped, key=lambda s: s.path))


def _list_splits(folder: Path) -> list[tuple[str, str]]:
    """Returns (split, folder name) pairs; ("", "") where class folders stand at the top."""
    names = [entry.name for entry in _list_entries(folder) if _is_folder(entry)]
    if "train" not in {SPLIT_FOLDERS.get(name.lower()) for name in names}:
        return [("", "")]
    strangers = [name for name in names if name.lower() not in SPLIT_FOLDERS]
    if strangers:
        raise HeadstartError(
            folder,
            "either class folders or train/ beside validation/ or test/",
            f"train/ beside {strangers[0]!r}",
            f"Move {strangers[0]!r} into train/, or rename train/ if it is a class",
        )
    return [(SPLIT_FOLDERS[name.lower()], name) for name in names]


def _list_entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(
            (entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))),
            key=lambda entry: entry.name,
        )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, or into a folder that may not be entered: opening it will say what is wrong.
        return False


def _scan_class(
    folder: Path, top: str, split: str, label: str, images: list[ImageFile], skipped: list[Skipped]
) -> None:
    for path, problem in walk_files(folder, top):
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
                images.append(ImageFile(path, label, split, status.st_size, status.st_mtime_ns))
            else:
                skipped.append(Skipped(path, "not a regular file"))


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


def walk_files(folder: Path, top: str) -> Iterator[tuple[str, str]]:
    """Walks a tree of folders, following links but never round a loop.

    Args:
        folder: what paths are relative to.
        top: where to start, relative to it.

    Yields:
        (path relative to `folder`, problem), the problem empty for a file, else why a folder is not
        entered.
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
                yield path, "a link back to a folder that it is in"
                continue
            entries = _list_entries(folder / path)
        except OSError as error:
            yield path, error.strerror or str(error)
            continue
        for entry in entries:
            inside = f"{path}/{entry.name}"
            if _is_folder(entry):
                pending.append((inside, above | {identity}))
            else:
                yield inside, ""


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
        raise HeadstartError(folder / empty[0], "pictures of the class", "none", "Add some, or remove the folder")
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
            "Add the class to train/, or remove it from the other splits",
        )
