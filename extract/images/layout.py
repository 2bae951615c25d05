"""Plan the layout of a tree: decide which folders are splits, classes, or neither. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from extract.images import refusals
from extract.images.refusals import Source
from extract.images.split_folders import are_parts, find_splits, has_generic_name, has_unlabelled_name
from extract.images.tree import Folder, find_copy, unwrap
from extract.images.walk import Skipped
from features.schema import TRAIN

MIN_SHARED = 2
"""Number of equal folder names from which two readings of a layout are possible."""
COPY = "a folder with copies of the others"
BESIDE_SPLITS = "a folder beside the folders of splits"
UNLABELLED = "a folder of pictures without labels"
NO_CLASS_FOLDERS = "a split without class folders"
NO_PICTURES = "a split without pictures"
"""Reasons for leaving out a folder."""


@dataclass(frozen=True)
class ClassFolder:
    """Folder whose pictures, at any depth, have one label."""

    path: str
    label: str
    split: str
    """`train`, `validation`, `test`, or empty if the folder has no splits."""
    num_pictures: int


@dataclass(frozen=True)
class Layout:
    """Meaning of the folders of a tree."""

    classes: list[ClassFolder]
    splits: dict[str, str] = field(default_factory=dict)
    """Split of each folder that holds the class folders of a split, by its path."""
    left_out: list[Skipped] = field(default_factory=list)
    """Folders with pictures that are neither splits nor classes."""
    copies: dict[str, str] = field(default_factory=dict)
    """Original of each folder in `left_out` that is a copy; only names and sizes were compared."""

    @property
    def labels(self) -> list[str]:
        """Labels of the classes to train on, sorted."""
        return sorted({found.label for found in self.classes if found.split in ("", TRAIN)})


def plan_layout(source: Source, top: Folder, chosen: Collection[str] = ()) -> Layout:
    """Decide which folders are splits and classes.

    Args:
        source: the listed folder, for messages.
        top: its tree.
        chosen: labels to use; they choose between two readings. Empty means all.

    Raises:
        LayoutError: there are fewer than two class folders with pictures, or two readings.
    """
    planner, root = _Planner(source, frozenset(chosen)), top
    while True:
        if splits := find_splits(inner.name for inner in root.filled):
            return planner.plan_splits(root, splits)
        if root.pictures or len(root.folders) != 1 or root.folders[0].pictures or not root.folders[0].filled:
            return planner.plan_classes(root, "")
        (root,) = root.folders


@dataclass(frozen=True)
class _Planner:
    """Readings of the folders of a tree."""

    source: Source
    chosen: frozenset[str]

    def plan_classes(self, root: Folder, split: str) -> Layout:
        """Plan the subfolders of a folder as classes; at least two must have pictures."""
        if split == "" and (layout := _plan_splits_in_classes(root)):
            return layout
        if not self.chosen and (holders := [folder for folder in root.filled if _holds_splits(folder)]):
            raise refusals.refuse_inner_splits(self.source, root, holders)
        left_out, copies, folders = [], {}, []
        for folder in root.folders:
            inner = unwrap(folder)
            if self.chosen or len(inner.list_names() & (root.list_names() - {folder.name})) < MIN_SHARED:
                folders.append(folder)
            elif copy := find_copy(folder, root):
                copies[copy.path] = root.path
                left_out.append(Skipped(folder.path, COPY, folder.num_pictures))
            else:
                raise refusals.refuse_nested(self.source, root, inner)
        layout = Layout(_build_classes(self._choose_level(root, folders), split), {}, left_out, copies)
        if len({found.label for found in layout.classes if found.num_pictures}) < 2:
            raise refusals.refuse_too_few_classes(self.source, root)
        if not self.chosen and are_parts(root.list_names()):
            raise refusals.refuse_parts(self.source, root)
        if not self.chosen and (holders := _find_shared_below(root)):
            raise refusals.refuse_shared_below(self.source, root, holders)
        return layout

    def _choose_level(self, root: Folder, folders: Sequence[Folder]) -> list[Folder]:
        """Return the class folders: the given folders, or the folders in them if these have the chosen names."""
        filled = [folder for folder in folders if folder.filled and not folder.pictures]
        inner = [below for folder in filled for below in folder.folders]
        if self.chosen and not self.chosen <= {folder.name for folder in folders}:
            return inner if self.chosen <= {folder.name for folder in inner} else list(folders)
        shared = set.intersection(*(folder.list_names() for folder in filled)) if filled else set()
        num_filled = sum(folder.num_pictures > 0 for folder in folders)
        if self.chosen or len(filled) < max(2, num_filled) or len(shared) < MIN_SHARED:
            return list(folders)
        raise refusals.refuse_shared_subfolders(self.source, root, filled)

    def plan_splits(self, root: Folder, names: dict[str, str]) -> Layout:
        """Plan a folder that has a folder for each split; `names` maps folder names to splits."""
        by_split: dict[str, Folder] = {}
        for folder in root.filled:
            if split := names.get(folder.name):
                if split in by_split:
                    raise refusals.refuse_same_split(self.source, split, [by_split[split], folder])
                by_split[split] = folder
        others = [folder for folder in root.filled if folder.name not in names]
        train = unwrap(by_split.pop(TRAIN))
        if self.chosen and not self.chosen <= train.list_names() and self.chosen <= root.list_names():
            return self.plan_classes(root, "")
        if not train.filled:
            raise refusals.refuse_flat_training(self.source, train, others)
        if _holds_splits(train):
            raise refusals.refuse_inner_splits(self.source, root, [train])
        layout = self.plan_classes(train, TRAIN)
        classes, splits, left_out = list(layout.classes), {train.path: TRAIN}, list(layout.left_out)
        for split, folder in by_split.items():
            if found := _plan_other_split(folder, layout.labels, split):
                place, inner = found
                splits[place] = split
                classes += inner
            else:
                left_out.append(Skipped(folder.path, NO_CLASS_FOLDERS, folder.num_pictures))
        empty = [folder for folder in root.folders if not folder.num_pictures and has_generic_name(folder.name)]
        left_out += [Skipped(folder.path, NO_PICTURES) for folder in empty]
        return self._leave_out(root, others, replace(layout, classes=classes, splits=splits, left_out=left_out))

    def _leave_out(self, root: Folder, others: Sequence[Folder], layout: Layout) -> Layout:
        """Leave out the folders beside the splits, or refuse those that may be classes."""
        left_out, copies, unclear = list(layout.left_out), dict(layout.copies), []
        for folder in others:
            inner = unwrap(folder)
            names = inner.list_names()
            holds_classes = bool(names & set(layout.labels) or find_splits(names))
            reason = BESIDE_SPLITS
            if names & (root.list_names() - {folder.name}) and (copy := find_copy(folder, root)):
                copies[copy.path], reason = root.path, COPY
            elif has_unlabelled_name(folder.name) and not holds_classes:
                reason = UNLABELLED
            elif (inner.pictures or holds_classes) and not self.chosen:
                unclear.append(folder)
            left_out.append(Skipped(folder.path, reason, folder.num_pictures))
        if unclear:
            raise refusals.refuse_beside_splits(self.source, root, layout.splits, unclear, layout.labels)
        return replace(layout, left_out=left_out, copies=copies)


def _holds_splits(folder: Folder) -> bool:
    """Return whether a folder holds several splits, or a folder for training with folders in it."""
    inner = unwrap(folder)
    splits = find_splits(inner.list_names())
    return len(set(splits.values())) > 1 or any(f.filled for f in inner.filled if splits.get(f.name) == TRAIN)


def _find_shared_below(root: Folder) -> list[Folder]:
    """Find the folders, one in each subfolder at any depth, that hold folders with the same names."""
    nodes = [[folder for folder in top.walk() if folder.filled] for top in root.filled]
    shared = set.intersection(*({name for folder in inner for name in folder.list_names()} for inner in nodes))
    found = [[folder for folder in inner if len(folder.list_names() & shared) >= MIN_SHARED] for inner in nodes]
    return [folder for (folder,) in found] if all(len(holders) == 1 for holders in found) else []


def _plan_splits_in_classes(root: Folder) -> Layout | None:
    """Plan class folders that each hold a folder for each split; None if any does not."""
    classes: list[ClassFolder] = []
    splits: dict[str, str] = {}
    for folder in root.filled:
        found = find_splits(folder.list_names())
        is_leaf = all(inner.pictures and not inner.filled for inner in folder.filled)
        if folder.pictures or not is_leaf or len(found) < len(folder.filled) or len(set(found.values())) < len(found):
            return None
        classes += [
            ClassFolder(inner.path, folder.name, found[inner.name], inner.num_pictures) for inner in folder.filled
        ]
        splits |= {f"{root.path}/*/{name}".lstrip("/"): split for name, split in found.items()}
    empty = [folder for folder in root.folders if not folder.num_pictures]
    is_split = len(root.filled) > 1 and len(set(splits.values())) > 1
    return Layout(classes + _build_classes(empty, TRAIN), splits) if is_split else None


def _plan_other_split(folder: Folder, labels: Sequence[str], split: str) -> tuple[str, list[ClassFolder]] | None:
    """Find the class folders of a split at the level with the most labels of train/; None if there are none.

    Returns:
        The folder that holds the class folders, and the class folders.
    """
    levels = [[folder]]
    while any(inner.filled for inner in levels[-1]):
        levels.append([below for inner in levels[-1] for below in inner.folders])
    num_known = [len({found.name for found in level} & set(labels)) for level in levels[1:]]
    if not num_known:
        return None
    depth = num_known.index(max(num_known))
    above, chosen = levels[depth : depth + 2]
    is_wrapper = len(chosen) == 1 and (chosen[0].name == folder.name or has_generic_name(chosen[0].name))
    if is_wrapper and not num_known[depth]:
        return None
    return above[0].path if len(above) == 1 else folder.path, _build_classes(chosen, split)


def _build_classes(folders: Sequence[Folder], split: str) -> list[ClassFolder]:
    return [ClassFolder(folder.path, folder.name, split, folder.num_pictures) for folder in folders]
