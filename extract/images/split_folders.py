"""Recognize the folders of splits by the names that public data sets use. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from features.schema import TEST, TRAIN, VALIDATION

_SPLIT_WORDS = {
    **dict.fromkeys(["train", "training", "trainval"], TRAIN),
    **dict.fromkeys(["validation", "validate", "val", "valid"], VALIDATION),
    **dict.fromkeys(["test", "testing"], TEST),
}
_PICTURE_WORDS = frozenset(["image", "images", "img", "imgs", "picture", "pictures", "photo", "photos"])
_PART_WORDS = _PICTURE_WORDS | {"part", "parts", "batch"}
_GENERIC_WORDS = _PICTURE_WORDS | {"set", "data", "dataset", "split", "folder", "seg"}
"""Words that have no meaning in the name of a split: `seg_train`, `training_set`, `Testing Data`, `train_images`."""
_UNLABELLED_WORDS = frozenset(["pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled", "submission"])
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")
"""Word or number in a name: `TrainingData`, `training_data` and `training-data` have the same words."""


def find_splits(names: Iterable[str]) -> dict[str, str]:
    """Find the folders of splits among the names of sibling folders.

    The name of a split has one word for the split, and otherwise only generic words such as `set` or `data`. Further
    words must be the same in all splits: `asl_train` and `asl_test` are splits, but `train_station` is not.

    Returns:
        `train`, `validation` or `test` for each folder of a split; empty without a folder for training.
    """
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        if found := _parse_name(name):
            split, others = found
            groups.setdefault(others, {})[name] = split
    if TRAIN in groups.get((), {}).values():
        return groups[()]
    groups = {others: group for others, group in groups.items() if {TRAIN} < set(group.values())}
    return {name: split for group in groups.values() for name, split in group.items()}


def has_unlabelled_name(name: str) -> bool:
    """Return whether a name is usual for pictures without labels, such as `test1`, `seg_pred` or `unlabeled`."""
    return any(word in _UNLABELLED_WORDS or _SPLIT_WORDS.get(word) == TEST for word in _list_words(name))


def has_generic_name(name: str) -> bool:
    """Return whether a name has only words for splits and pictures, such as `images` or `test_set`."""
    return all(word in _SPLIT_WORDS or word in _GENERIC_WORDS for word in _list_words(name))


def are_parts(names: Collection[str]) -> bool:
    """Return whether the names of folders are those of parts of a data set, and not of classes.

    A part is `images`, also beside `masks`, or differs from all others only in its number, such as `ham_images_part_1`.
    """
    parts = {tuple(word for word in _list_words(name) if not word.isdigit()) for name in names}
    is_numbered = len(parts) == 1 and any(word in _PART_WORDS for part in parts for word in part)
    return is_numbered or not parts.isdisjoint([("images",), ("imgs",)])


def _parse_name(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the split in a name, and the other words; None unless exactly one word is that of a split."""
    words = _list_words(name)
    splits = [_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS]
    others = tuple(word for word in words if word not in _SPLIT_WORDS and word not in _GENERIC_WORDS)
    return (splits[0], others) if len(splits) == 1 else None


def _list_words(name: str) -> list[str]:
    """List the words of a name in lower case; `trainset` is two words."""
    words: list[str] = []
    for word in map(str.casefold, _WORD.findall(name)):
        parts = [(split, word.removeprefix(split)) for split in _SPLIT_WORDS if word.startswith(split)]
        words += next((part for part in parts if part[1] in _GENERIC_WORDS), (word,))
    return words
