"""Find a folder's pictures with their classes and splits, and list the files that are skipped."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from base.errors import HeadstartError, UsageError
from extract.images.walk import OWN, OWN_STORE, is_folder, list_entries, walk_files
from features.catalog.tables import ImageRow

SPLIT_FOLDERS = {
    **dict.fromkeys(["train", "training"], "train"),
    **dict.fromkeys(["validation", "val", "valid"], "validation"),
    **dict.fromkeys(["test", "testing"], "test"),
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
_MAX_TIME_NS = 2**63 - 1
"""The last time that SQLite can hold, in the year 2262; the first is as long before 1970."""


@dataclass(frozen=True)
class Skipped:
    """A file or folder that is skipped, with the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class Scan:
    """Content of a folder of pictures."""

    images: list[ImageRow]
    """Pictures with the label of their class; the split is empty where the folder has no splits."""
    skipped: list[Skipped]

    def count_by_class(self) -> dict[str, dict[str, int]]:
        """Count pictures as {split: {label: count}}."""
        counts: dict[str, dict[str, int]] = {}
        for (split, label), count in Counter((image.split, image.label) for image in self.images).items():
            counts.setdefault(split, {})[label] = count
        return counts

    def describe(self) -> str:
        """Return the numbers of pictures of each class and split in one line."""
        parts = []
        for split, counts in sorted(self.count_by_class().items()):
            classes = ", ".join(f"{count:,} {label}" for label, count in sorted(counts.items()))
            parts.append(f"{split}: {classes}" if split else classes)
        skipped = f"; {len(self.skipped)} other files skipped" if self.skipped else ""
        return f"{len(self.images):,} pictures ({'; '.join(parts)}){skipped}"


def scan_images(folder: Path, stores: Collection[Path] = ()) -> Scan:
    """Scan a folder of class folders, or of `train/`, `validation/`, `test/` with class folders in each.

    A class is named by the folder at its level; pictures may be deeper in it. Hidden files, `._*` and
    `__MACOSX` are ignored. A hidden folder with pictures at the level of the classes is listed as
    skipped. So are Headstart's own folders at any level, and files whose extension is not a picture's.

    Args:
        folder: the folder of pictures.
        stores: folders of the features, existing or not; listed as skipped where they are inside the folder.

    Returns:
        Pictures and skipped files, by path.

    Raises:
        UsageError: there is no such folder.
        HeadstartError: no picture, one class only, a class folder without a picture, or an ambiguous layout.
    """
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing"
        raise UsageError(folder, "a folder of pictures", f"{got} there", "Give its path with --images (DATA=)")
    top = folder.resolve()
    inside = [store.resolve().relative_to(top).as_posix() for store in stores if store.resolve().is_relative_to(top)]
    own = frozenset(inside) - {"."}
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
                skipped += [] if is_hidden else [Skipped(path, "not in a class folder")]
                continue
            found, passed = _scan_class(folder, path, splits.get(prefix, ""), entry.name, own)
            if is_hidden:
                skipped += [Skipped(path, f"a hidden folder, with {len(found):,} pictures")] if found else []
                continue
            is_own = not found and passed and all(file.reason.startswith(OWN) for file in passed)
            if not is_own and prefix not in splits:
                raise HeadstartError(
                    folder,
                    "either class folders or train/ beside validation/ or test/",
                    f"train/ beside {path!r}",
                    f"Move {path!r} into train/, or rename train/ if it is a class",
                )
            images += found
            skipped += passed
            if not is_own:
                class_folders.append((splits[prefix], Path(path)))
    _check_classes(folder, class_folders, images)
    # A store that is made by this very run is listed as it will be by the next.
    skipped += [Skipped(path, OWN_STORE) for path in own - {found.path for found in skipped}]
    return Scan(sorted(images, key=lambda i: i.path), sorted(skipped, key=lambda s: s.path))


def _scan_class(
    folder: Path, top: str, split: str, label: str, own: Collection[str]
) -> tuple[list[ImageRow], list[Skipped]]:
    images, skipped = [], []
    for path, problem in walk_files(folder, top, own):
        if not problem and Path(path).suffix.lower() not in EXTENSIONS:
            problem = explain_extension(path)
        if not problem:
            try:
                status = (folder / path).stat()
                problem = "" if stat.S_ISREG(status.st_mode) else "not a regular file"
            except OSError as error:
                problem = error.strerror or str(error)
        if problem:
            skipped.append(Skipped(path, problem))
        else:
            modified_ns = max(-_MAX_TIME_NS, min(status.st_mtime_ns, _MAX_TIME_NS))
            images.append(ImageRow(path, label, split, status.st_size, modified_ns))
    return images, skipped


def explain_extension(path: str) -> str:
    """Return the reason why a file is skipped for its extension."""
    extension = Path(path).suffix
    if extension.lower() in _UNREADABLE_EXTENSIONS:
        return f"{UNREADABLE} ({extension}); convert it to JPEG or PNG"
    return f"not a picture by its name ({extension or 'no extension'})"


def describe_unreadable(files: Iterable[tuple[str, str]]) -> str:
    """Return a warning about pictures of a kind that is not decoded; empty for none.

    Args:
        files: (path, reason) of skipped files.
    """
    unreadable = [(path, reason) for path, reason in files if reason.startswith(UNREADABLE)]
    if not unreadable:
        return ""
    return f"{len(unreadable):,} pictures are skipped, such as {unreadable[0][0]}: {unreadable[0][1]}"


def _check_classes(folder: Path, class_folders: list[tuple[str, Path]], images: list[ImageRow]) -> None:
    filled = {(image.split, image.label) for image in images}
    trained = sorted({label for split, label in filled if split in ("", "train")})
    if not filled:
        expected, got = "a folder for each class with pictures in it", f"{len(class_folders)} folders and no picture"
        advice = "Put each class's pictures into a folder of its own"
        raise HeadstartError(folder, expected, f"{got} in them", advice)
    for split, path in class_folders:
        if (split, path.name) not in filled:
            advice = f"Add pictures of the class, or move the folder out of {folder}"
            raise HeadstartError(folder / path, "pictures of the class", "none", advice)
    if len(trained) == 1:
        raise HeadstartError(folder, "two or more classes", f"one, {trained[0]!r}", "Add a folder for each other class")
    others = sorted(label for _, label in filled if label not in trained)
    if others:
        raise HeadstartError(
            folder,
            "the classes of train/ in every split",
            f"{others[0]!r}, which is not in train/",
            "Add pictures of that class to train/, or move its folder out of the other splits",
        )
