"""Find a folder's pictures with their classes and splits, and list the files that are skipped."""

from __future__ import annotations

import filecmp
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from base.errors import UsageError
from base.invocation import format_options
from base.places.open import hash_location
from base.terminal import NUM_LISTED, format_count, format_list
from base.urls import Location
from extract.images.classes import Counts, check_classes, check_labels, find_excluded, find_similar, parse_classes
from extract.images.layout import ClassFolder, Layout, plan_layout
from extract.images.places import list_location
from extract.images.refusals import Source, refuse_nested
from extract.images.tree import Folder, build_tree
from extract.images.walk import UNREADABLE_FOLDER, Listing, PictureFile, Skipped
from extract.labels.summary import TableLabels
from features.catalog.tables import ImageRow
from features.labels import LabelSource
from features.schema import TEST, TRAIN

NUM_COMPARED = 16
"""Number of pictures whose bytes are compared with those of a nested copy; names and sizes of all are compared."""
TABLE_EXTENSIONS = (".csv", ".tsv", ".parquet")
OUTSIDE = "a file outside a class folder"


@dataclass(frozen=True)
class Scan:
    """Pictures and skipped files of a folder."""

    images: list[ImageRow]
    """Pictures with the label of their class; the split is empty where the folder has no splits."""
    skipped: list[Skipped]
    """Files and folders that are not used, with the reason of each."""
    labels: TableLabels | None = None
    """Labels of a table, and the rows that do not fit; None if the labels are the names of the class folders."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """`train`, `validation` or `test` for each folder that was read as a split, by its relative path."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Number of files and folders of operating systems, network storage and editors for each name."""
    nested: Sequence[str] = ()
    """Paths of the pictures that are in subfolders of their class folder."""
    empty: Sequence[ClassFolder] = ()
    """Class folders without pictures."""

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

    def describe(self, folder: Location) -> list[str]:
        """Describe the pictures of each class, the folders of splits, and the folders that are left out, as lines."""
        parts = []
        for split, counts in sorted(self.count_by_class().items()):
            classes = describe_counts(counts)
            parts.append(f"{split}: {classes}" if split else classes)
        skipped = f"; {format_count(len(self.skipped), 'file or folder', 'files and folders')} skipped"
        classes = f" ({'; '.join(parts)})" if parts else ""
        lines = [f"{format_count(len(self.images), 'picture')}{classes}{skipped if self.skipped else ''}"]
        if self.splits:
            lines.append("splits: " + ", ".join(f"{split} is {path}/" for path, split in self.splits.items()))
        if self.nested:
            count = format_count(len(self.nested), "picture")
            lines.append(
                f"{count} in subfolders of class folders, first {self.nested[0]}. Their class folder is the label"
            )
        if left_out := [found for found in self.skipped if found.num_pictures]:
            count = format_count(sum(found.num_pictures for found in left_out), "picture")
            shown = format_list([f"{found.path}/ ({found.num_pictures:,})" for found in left_out])
            lines.append(f"{count} left out, in {format_count(len(left_out), 'folder')}: {shown}")
        return [f"{folder}: {line}" for line in lines]


def describe_counts(counts: Mapping[str, int]) -> str:
    """Describe the number of pictures of each class; for more than five classes, only the smallest and the largest."""
    if len(counts) <= NUM_LISTED:
        return ", ".join(f"{count:,} {label}" for label, count in sorted(counts.items()))
    ordered = sorted(counts, key=lambda label: (counts[label], label))
    smallest, largest = (f"{label} ({counts[label]:,})" for label in (ordered[0], ordered[-1]))
    return f"{len(counts):,} classes, smallest {smallest}, largest {largest}"


def scan_images(
    folder: Location,
    stores: Collection[Path] = (),
    classes: str = "",
    min_pictures: int = 0,
    known: Collection[str] = (),
) -> Scan:
    """Scan a folder of class folders, or of folders for splits with class folders in each.

    The name of a class folder, in Unicode form C, is the label of all pictures below it, at any depth. Names of splits
    are recognized as public data sets write them (`find_splits`). Folders that only wrap others are entered.

    Args:
        folder: the folder of pictures.
        stores: folders of feature stores, which need not exist yet; listed as skipped if they are inside `folder`.
        classes: labels to use, separated by commas; they also choose between two readings. Empty means all.
        min_pictures: classes with fewer training pictures are left out; 0 leaves none out.
        known: relative paths of pictures that are used even if no decoder for their extension is installed.

    Returns:
        Pictures and skipped files, sorted by path.

    Raises:
        UsageError: the folder does not exist, or has no class of a chosen label.
        LayoutError: there are fewer than two class folders with pictures, or an ambiguous layout.
    """
    require_folder(folder)
    listing = list_location(folder, stores, known)
    tables = [found.path for found in listing.skipped if found.path.lower().endswith(TABLE_EXTENSIONS)]
    source = Source(folder, tables, [found.reason for found in listing.skipped])
    top = build_tree(listing)
    chosen = parse_classes(classes, {node.name for node in top.walk()})
    layout = plan_layout(source, top, chosen)
    _check_copies(source, top, layout)
    excluded = find_excluded(_count_folders(layout.classes), chosen, min_pictures)
    left_out = [
        *layout.left_out,
        *(Skipped(c.path, excluded[c.label], c.num_pictures) for c in layout.classes if c.label in excluded),
    ]
    used = [found for found in layout.classes if found.label not in excluded]
    images, outside = _label_pictures(listing, used, {found.path for found in left_out})
    skipped = [*listing.skipped, *left_out, *(Skipped(picture.path, OUTSIDE) for picture in outside)]
    images.sort(key=lambda image: image.path)
    places = {found.path for found in used}
    return Scan(
        images=images,
        skipped=_drop_inner(sorted(skipped, key=lambda found: found.path), {found.path for found in left_out}),
        splits=layout.splits,
        ignored=dict(listing.ignored.most_common()),
        nested=[image.path for image in images if image.path.rpartition("/")[0] not in places],
        empty=[found for found in used if not found.num_pictures],
    )


def require_folder(folder: Location) -> None:
    """Raise UsageError if a local folder of pictures does not exist."""
    if isinstance(folder, Path) and not folder.is_dir():
        # The path may be relative to a folder that the user does not see, such as that of `make -C`.
        got = "a file" if folder.exists() else f"no folder {folder.absolute()}"
        raise UsageError(folder, "a folder of pictures", got, f"Give {format_options('extract', {'images': 'FOLDER'})}")


def leave_out_classes(scan: Scan, classes: str, min_pictures: int) -> Scan:
    """Leave out classes (`find_excluded`) of a scan whose labels are from a table.

    Raises:
        UsageError: a chosen label does not exist, or pictures have several labels.
    """
    if not classes and not min_pictures:
        return scan
    if scan.label_source.is_multi_label:
        option = "--classes" if classes else "--min-pictures"
        raise UsageError(option, "one label for each picture", "several labels", "Remove the labels from the table")
    chosen = parse_classes(classes, {image.label for image in scan.images})
    excluded = find_excluded(scan.count_by_class(), chosen, min_pictures)
    left_out = [Skipped(image.path, excluded[image.label]) for image in scan.images if image.label in excluded]
    return replace(
        scan,
        images=[image for image in scan.images if image.label not in excluded],
        skipped=sorted([*scan.skipped, *left_out], key=lambda found: found.path),
    )


def check_scan(folder: Location, scan: Scan) -> list[str]:
    """Check that a head can be trained on the pictures of a scan.

    Returns:
        Warnings about labels that are easily confused.

    Raises:
        HeadstartError: `train` would refuse the pictures.
    """
    counts = scan.count_by_class()
    if scan.label_source.is_multi_label:
        check_labels(folder, counts, sum(image.split in ("", TRAIN) for image in scan.images))
        return []
    unreadable = {found.path: found.reason for found in scan.skipped if found.reason.startswith(UNREADABLE_FOLDER)}
    # An empty class folder in test/ does not affect training.
    empty = [found for found in scan.empty if found.split != TEST and not counts.get(found.split, {}).get(found.label)]
    names = [f"{found.path}: {unreadable[found.path]}" if found.path in unreadable else found.path for found in empty]
    check_classes(folder, counts, names)
    if not (similar := find_similar({image.label for image in scan.images})):
        return []
    shown = format_list(list(map(repr, similar)))
    return [f"{folder}: labels that differ only in case, spaces or leading zeros: {shown}. Each is a class"]


def _count_folders(classes: Sequence[ClassFolder]) -> Counts:
    counts: dict[str, dict[str, int]] = {}
    for found in classes:
        in_split = counts.setdefault(found.split, {})
        in_split[found.label] = in_split.get(found.label, 0) + found.num_pictures
    return counts


def _label_pictures(
    listing: Listing, classes: Sequence[ClassFolder], left_out: Collection[str]
) -> tuple[list[ImageRow], list[PictureFile]]:
    """Give each picture the label of its class folder; also return the pictures outside of all class folders."""
    class_of: dict[str, ClassFolder | None] = {found.path: found for found in classes} | dict.fromkeys(left_out)
    images: list[ImageRow] = []
    outside: list[PictureFile] = []
    # A folder is listed before the folders in it.
    for path, pictures in listing.folders.items():
        parent = path.rpartition("/")[0]
        if path not in class_of and path and parent in class_of:
            class_of[path] = class_of[parent]
        if path not in class_of:
            outside += pictures
        elif found := class_of[path]:
            images += [
                ImageRow(picture.path, found.label, found.split, picture.num_bytes, picture.modified_ns)
                for picture in pictures
            ]
    return images, outside


def _drop_inner(skipped: Sequence[Skipped], left_out: Collection[str]) -> list[Skipped]:
    """Drop the files in skipped folders, because the folder itself is listed."""

    def is_inner(path: str) -> bool:
        while path:
            path = path.rpartition("/")[0]
            if path in left_out:
                return True
        return False

    return [found for found in skipped if not is_inner(found.path)]


def _check_copies(source: Source, top: Folder, layout: Layout) -> None:
    """Compare the bytes of some pictures of each nested copy with the originals; sizes may be equal by chance.

    Raises:
        LayoutError: the bytes differ, so that the folder is no copy.
    """
    nodes = {node.path: node for node in top.walk()} if layout.copies else {}
    for path, original in layout.copies.items():
        copies = [picture.path for node in nodes[path].walk() for picture in node.pictures]
        for copy in copies[:: -(-len(copies) // NUM_COMPARED)]:
            other = Path(original) / Path(copy).relative_to(path)
            if not _have_equal_bytes(source.images / copy, source.images / other):
                raise refuse_nested(source, nodes[original], nodes[path])


def _have_equal_bytes(first: Location, second: Location) -> bool:
    if isinstance(first, Path) and isinstance(second, Path):
        return filecmp.cmp(first, second, shallow=False)
    return hash_location(first) == hash_location(second)
