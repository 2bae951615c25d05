"""Folds of cross-validation: every picture is held out in one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from base.errors import UsageError
from base.terminal import format_list
from features.store import Example
from features.stratify import stratify
from features.validation_split import list_units, sort_examples
from train_head.data.split import Split, hold_out


def split_into_folds(split: Split, num_folds: int) -> list[Split]:
    """Split training and validation examples into stratified folds by content hash.

    Each picture is held out in one fold, together with its duplicates and with its group, if the split has groups.

    Raises:
        UsageError: fewer than two folds, or more folds than a class has different pictures or groups. With several
            labels a picture: more folds than different pictures, or a fold without a label in its training pictures.
    """
    if num_folds < 2:
        raise UsageError("--folds", "0, or at least 2", str(num_folds), "Use 5 or 10 folds")
    examples = split.train + split.validation
    fold_of = (_place_label_sets if split.is_multi_label else _place_classes)(split, examples, num_folds)
    folds = []
    for fold in range(num_folds):
        held_out = {
            e.content_hash for e in examples if fold_of[split.group_of.get(e.content_hash, e.content_hash)] == fold
        }
        part = hold_out(examples, held_out, f"fold {fold + 1} of {num_folds}")
        folds.append(replace(part, is_multi_label=split.is_multi_label))
    if split.is_multi_label:
        _check_folds(split, folds)
    return folds


def _place_label_sets(split: Split, examples: Sequence[Example], num_folds: int) -> dict[bytes, int]:
    """Return the fold of each picture or group by iterative stratification."""
    units = list_units(examples, split.group_of)
    if len(units) < num_folds:
        expected = f"at most {len(units):,}, the number of {_name_units(split)}"
        raise UsageError("--folds", expected, str(num_folds), "Use fewer folds, or add pictures")
    return dict(zip(units, stratify(list(units.values()), [1 / num_folds] * num_folds), strict=True))


def _check_folds(split: Split, folds: Sequence[Split]) -> None:
    """Raise UsageError unless the training pictures of each fold include pictures with and without each label."""
    for fold in folds:
        counts = fold.count_labels(fold.train)
        if bad := [label for label in split.classes if not 0 < counts[label] < len(fold.train)]:
            expected = f"at least two {_name_units(split)} with and two without each label"
            got = f"{len(folds)} folds with fewer of {format_list([repr(label) for label in bad])}"
            raise UsageError("--folds", expected, got, "Add pictures with these labels, or leave the labels out")
        if not fold.validation:
            raise UsageError("--folds", "pictures in every fold", f"none in {fold.rule}", "Use fewer folds")


def _name_units(split: Split) -> str:
    return "groups of near-duplicates" if split.group_of else "different pictures"


def _place_classes(split: Split, examples: Sequence[Example], num_folds: int) -> dict[bytes, int]:
    """Return the fold of each picture or group: the folds of a class take turns."""
    sizes: Counter[bytes] = Counter()
    label_of: dict[bytes, str] = {}
    first_of: dict[bytes, Example] = {}
    for example in sort_examples(examples):
        first_of.setdefault(example.content_hash, example)
    for example in first_of.values():
        group = split.group_of.get(example.content_hash, example.content_hash)
        label_of.setdefault(group, example.label)
        sizes[group] += 1
    groups_of: dict[str, list[bytes]] = {label: [] for label in split.classes}
    for group, label in label_of.items():
        groups_of[label].append(group)
    fold_of: dict[bytes, int] = {}
    for label, groups in groups_of.items():
        if len(groups) < num_folds:
            expected = f"at most {len(groups):,}, the number of {_name_units(split)} of class {label!r}"
            raise UsageError("--folds", expected, str(num_folds), "Use fewer folds, or add pictures")
        # Each class starts at the fold after the last of the previous class, so that fold sizes differ by at most one.
        order = [(len(fold_of) + place) % num_folds for place in range(num_folds)]
        counts = dict.fromkeys(order, 0)
        for group in sorted(groups, key=lambda group: -sizes[group]):
            # The first of the smallest folds: without groups, the folds take turns.
            fold_of[group] = smallest = min(counts, key=counts.__getitem__)
            counts[smallest] += sizes[group]
    return fold_of
