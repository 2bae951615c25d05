"""Order and validation split of pictures, both by content hash, and class numbers of their labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from base.errors import UsageError
from features.contents import Example
from features.labels import split_labels
from features.options import VALIDATION_SHARE
from features.schema import TEST, TRAIN, VALIDATION
from features.stratify import NO_LABEL, Unit, stratify


def sort_examples(examples: Iterable[Example]) -> list[Example]:
    """Sort by content hash, so that results do not depend on paths or shards; duplicates by label and path."""
    return sorted(examples, key=lambda example: (example.content_hash, example.label, example.path))


class Labelled(Protocol):
    """Object with a label."""

    @property
    def label(self) -> str:
        """Label, or the joined labels of a multi-label store."""


def encode_labels(examples: Sequence[Labelled], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the class number of each example: the position of its label in `classes`."""
    number_of = {label: number for number, label in enumerate(classes)}
    return np.array([number_of[example.label] for example in examples], np.int64)


def encode_label_sets(examples: Sequence[Labelled], classes: Sequence[str]) -> NDArray[np.uint8]:
    """Return which labels each example of a multi-label store has.

    Returns:
        (n, classes) uint8: 1 where the example has the label, else 0.
    """
    number_of = {label: number for number, label in enumerate(classes)}
    found = np.zeros((len(examples), len(classes)), np.uint8)
    for row, example in zip(found, examples, strict=True):
        row[[number_of[label] for label in split_labels(example.label)]] = 1
    return found


class Choice(NamedTuple):
    """Pictures chosen for validation."""

    held_out: set[bytes]
    """Their content hashes."""
    num_moved: int
    """Number of pictures moved so that training and validation have every class."""


def choose_validation(
    examples: Sequence[Example], share: float, group_of: Mapping[bytes, bytes] = MappingProxyType({})
) -> Choice:
    """Choose about a share of the examples for validation by content hash.

    Whether an example is chosen does not depend on its name or on other examples, and duplicates stay together. There
    is one exception: if training or validation would lack a class of two or more distinct pictures, the picture of that
    class nearest to the threshold is moved, with its duplicates.

    Args:
        examples: the examples to choose from.
        share: share of the examples to choose.
        group_of: content hash that represents the group of a picture, for pictures that stay together; the others are
            alone. Large groups are moved if the share would be missed by more than chance would explain.
    """
    hashes = {example.content_hash for example in examples}
    sizes = Counter(group_of.get(example.content_hash, example.content_hash) for example in examples)
    held_out = {group for group in sizes if is_held_out(group, share)}
    if group_of:
        _balance(held_out, sizes, share)
    groups_of: dict[str, set[bytes]] = {}
    for example in examples:
        groups_of.setdefault(example.label, set()).add(group_of.get(example.content_hash, example.content_hash))
    num_moved = 0
    for _, groups in sorted(groups_of.items()):
        if len(groups) < 2:
            continue
        # Without groups, the number of copies of a picture does not matter: runs of earlier versions have this split.
        weights = {group: sizes[group] if group_of else 1 for group in groups}
        if not groups & held_out:
            moved = min(groups, key=lambda group: (weights[group], _compute_position(group)))
            held_out.add(moved)
        elif groups <= held_out:
            moved = min(groups, key=lambda group: (weights[group], -_compute_position(group)))
            held_out.remove(moved)
        else:
            continue
        num_moved += sizes[moved]
    return Choice({key for key in hashes if group_of.get(key, key) in held_out}, num_moved)


def choose_stratified(
    examples: Sequence[Example], share: float, group_of: Mapping[bytes, bytes] = MappingProxyType({})
) -> set[bytes]:
    """Choose about a share of the examples of a multi-label store for validation, with that share of every label.

    Copies and groups stay together. A label of two or more distinct pictures is in training and in validation, if that
    is possible without taking another label out of either.

    Args:
        examples: the examples to choose from.
        share: share of the examples to choose.
        group_of: content hash that represents the group of a picture, for pictures that stay together.

    Returns:
        The content hashes of the chosen pictures.
    """
    units = list_units(examples, group_of)
    parts = stratify(list(units.values()), (1 - share, share))
    held_out = {group for group, part in zip(units, parts, strict=True) if part}
    return {e.content_hash for e in examples if group_of.get(e.content_hash, e.content_hash) in held_out}


def list_units(examples: Iterable[Example], group_of: Mapping[bytes, bytes]) -> dict[bytes, Unit]:
    """List the pictures of a multi-label store that stay together, keyed by the hash that represents them.

    They are in the order in which they are placed: the largest first, then by content hash in descending order, so that
    mostly the pictures with the lowest hashes are held out, as in `choose_validation`.
    """
    labels_of: dict[bytes, Counter[str]] = {}
    sizes: Counter[bytes] = Counter()
    for example in examples:
        group = group_of.get(example.content_hash, example.content_hash)
        sizes[group] += 1
        labels_of.setdefault(group, Counter()).update(split_labels(example.label) or [NO_LABEL])
    order = sorted(sorted(sizes, reverse=True), key=lambda group: -sizes[group])
    return {group: Unit(sizes[group], labels_of[group]) for group in order}


def is_held_out(content_hash: bytes, share: float = VALIDATION_SHARE) -> bool:
    """Return whether a picture is for validation, unless it is moved so that both sides have every class."""
    return _compute_position(content_hash) < share


def choose_representatives(groups: Iterable[Collection[bytes]]) -> dict[bytes, bytes]:
    """Map the content hash of each picture in a group of several to the hash that represents the group.

    It is chosen by the end of the hash, and the group is placed by the beginning. A group is thus placed like a single
    picture, and it is not more likely to be held out the larger it is.
    """
    group_of: dict[bytes, bytes] = {}
    for group in groups:
        if len(group) > 1:
            chosen = min(group, key=lambda content_hash: (content_hash[8:], content_hash))
            group_of |= dict.fromkeys(group, chosen)
    return group_of


def _balance(held_out: set[bytes], sizes: Mapping[bytes, int], share: float) -> None:
    """Move groups, the largest first and then those nearest to the threshold, until their share is close to `share`.

    Nothing is moved if the share is missed by less than two standard deviations of a choice of single pictures.
    """
    total = sum(sizes.values())
    missed_by, tolerance = 2 * math.sqrt(total * share * (1 - share)), 0.1 * share * total
    # A large group that is moved may leave too few pictures, which the second round adds.
    for _ in range(2):
        excess = sum(sizes[group] for group in held_out) - share * total
        if abs(excess) <= missed_by:
            return
        movable, move = (held_out, held_out.remove) if excess > 0 else (sizes.keys() - held_out, held_out.add)
        missing = abs(excess)
        for group in sorted(movable, key=lambda group: (-sizes[group], abs(_compute_position(group) - share), group)):
            if missing <= tolerance:
                break
            if sizes[group] < 2 * missing:
                move(group)
                missing -= sizes[group]


def select_examples(
    examples: Sequence[Example], split: str | None, where: Path, *, has_validation: bool, is_multi_label: bool = False
) -> list[Example]:
    """Select the examples of a split, sorted by content hash.

    If no picture belongs to the validation split, a fifth of the training pictures is used for it.

    Args:
        examples: all examples of a store.
        split: `train`, `validation` or `test`; None for all.
        where: path of the store, for messages.
        has_validation: whether a picture of the store belongs to the validation split.
        is_multi_label: whether a picture may have several labels.

    Raises:
        UsageError: unknown split, or a split without pictures.
    """
    if split not in (None, TRAIN, VALIDATION, TEST):
        expected = f"{TRAIN!r}, {VALIDATION!r}, {TEST!r} or None"
        raise UsageError("split", expected, repr(split), "Give None for all pictures")
    chosen = [example for example in examples if split is None or (example.split or TRAIN) == split]
    if split in (TRAIN, VALIDATION) and not has_validation:
        trained = [example for example in examples if example.split != TEST]
        held_out = (
            choose_stratified(trained, VALIDATION_SHARE)
            if is_multi_label
            else choose_validation(trained, VALIDATION_SHARE).held_out
        )
        chosen = [example for example in trained if (example.content_hash in held_out) == (split == VALIDATION)]
    if split and not chosen:
        raise UsageError("split", f"a split with pictures in {where}", repr(split), "Give another split")
    return sort_examples(chosen)


def _compute_position(content_hash: bytes) -> float:
    """Map a content hash to a number in [0, 1)."""
    return int.from_bytes(content_hash[:8], "big") / 2**64
