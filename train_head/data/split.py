"""Split of a store's examples into training and validation: by folder, by content hash, or in folds."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from base.errors import HeadstartError, UsageError
from base.terminal import format_count
from features.catalog.tables import ImageRow
from features.split import choose_validation, sort_examples
from features.store import Example, FeatureStore

FindGroups = Callable[[Sequence[Example]], Mapping[bytes, bytes]]
"""Function that maps content hashes of examples to the hash that represents the group; see `choose_representatives`."""
FOLDER_RULE = "folder validation/"
"""Rule of a split by the folders, or by the splits that the store records."""


@dataclass(frozen=True)
class Split:
    """Training and validation examples, sorted by content hash, label and path."""

    train: list[Example]
    validation: list[Example]
    rule: str
    """Description of the rule that split the examples, for logs and reports."""
    test: list[Example] = field(default_factory=list)
    """Examples of the folder test/, used only for the final test accuracy."""
    group_of: Mapping[bytes, bytes] = field(default_factory=dict)
    """Content hash that represents the group of a picture, for pictures that stay together in folds."""
    num_moved: int = 0
    """Number of pictures moved so that training and validation have every class."""

    @property
    def classes(self) -> list[str]:
        """Labels of the training examples in alphabetical order; a class number is an index in this list."""
        return sorted({example.label for example in self.train})

    def count_leaks(self) -> int:
        """Return the number of validation examples that are copies of training examples, which bias the accuracy."""
        trained = {example.content_hash for example in self.train}
        return sum(example.content_hash in trained for example in self.validation)


def split_examples(
    examples: Sequence[Example],
    validation_share: float,
    images: Iterable[ImageRow] = (),
    find_groups: FindGroups | None = None,
) -> Split:
    """Split examples by the folder validation/ if there is one, else by content hash.

    Args:
        examples: the examples of a store; those in test/ become `Split.test`.
        validation_share: share of the training pictures to hold out if there is no validation/.
        images: all images of the store's folder, with or without features.
        find_groups: finds the pictures that stay together; None for a split of single pictures.

    Raises:
        UsageError: groups are requested, but the folder validation/ determines the split.
        HeadstartError: no examples, fewer than two classes, a class that is missing from training or validation, or
            a folder validation/ without features.
    """
    if not examples:
        advice = "Run `python -m extract`, and check the pictures that failed"
        raise HeadstartError("the store", "features to train on", "none", advice)
    train, validation, test = (
        sort_examples(example for example in examples if example.split in names)
        for names in (("train", ""), ("validation",), ("test",))
    )
    num_in_folder = sum(image.split == "validation" for image in images)
    if num_in_folder and not validation:
        got = f"none for {format_count(num_in_folder, 'picture')}"
        advice = "Run `python -m extract` to the end, and check the pictures that failed"
        raise HeadstartError("the folder validation/", "features to validate with", got, advice)
    if validation and find_groups:
        got = f"group with {format_count(len(validation), 'picture')} that the store assigns to validation"
        advice = "Omit the option, or move the pictures of validation to training and extract again"
        raise UsageError("--split", "content", got, advice)
    if validation:
        split = Split(train, validation, FOLDER_RULE, test)
    else:
        group_of = find_groups(train) if find_groups else None
        split = replace(split_by_content(train, validation_share, group_of), test=test)
    _check_classes(split)
    return split


def split_by_content(
    examples: Sequence[Example], validation_share: float, group_of: Mapping[bytes, bytes] | None = None
) -> Split:
    """Hold out about the given share of the examples for validation, by content hash; see `choose_validation`."""
    name = "content hash" if group_of is None else "groups of near-duplicates"
    choice = choose_validation(examples, validation_share, group_of or {})
    split = _hold_out(examples, choice.held_out, f"{name}, {validation_share:g} set aside")
    return replace(split, group_of=group_of or {}, num_moved=choice.num_moved)


def split_into_folds(split: Split, num_folds: int) -> list[Split]:
    """Split training and validation examples into stratified folds by content hash.

    Each picture is held out in one fold, together with its duplicates and with its group, if the split has groups.

    Raises:
        UsageError: fewer than two folds, or more folds than a class has different pictures or groups.
    """
    if num_folds < 2:
        raise UsageError("--folds", "0, or at least 2", str(num_folds), "Use 5 or 10 folds")
    examples = split.train + split.validation
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
            noun = "groups of near-duplicates" if split.group_of else "different pictures"
            expected = f"at most {len(groups):,}, the number of {noun} of class {label!r}"
            raise UsageError("--folds", expected, str(num_folds), "Use fewer folds, or add pictures")
        # Each class starts at the fold after the last of the previous class, so that fold sizes differ by at most one.
        order = [(len(fold_of) + place) % num_folds for place in range(num_folds)]
        counts = dict.fromkeys(order, 0)
        for group in sorted(groups, key=lambda group: -sizes[group]):
            # The first of the smallest folds: without groups, the folds take turns.
            fold_of[group] = smallest = min(counts, key=counts.__getitem__)
            counts[smallest] += sizes[group]
    return [
        _hold_out(
            examples,
            {e.content_hash for e in examples if fold_of[split.group_of.get(e.content_hash, e.content_hash)] == fold},
            f"fold {fold + 1} of {num_folds}",
        )
        for fold in range(num_folds)
    ]


def list_rows(store: FeatureStore, examples: Sequence[Example], num_views: int | None) -> list[Example]:
    """List the examples (view 0), then their stored views 1 to `num_views` - 1, sorted by content hash and view."""
    if not num_views or num_views == 1:
        return list(examples)
    views = [view for example in examples for view in store.list_views(example, num_views)[1:]]
    return [*examples, *sorted(views, key=lambda view: (view.content_hash, view.view, view.label, view.path))]


def hash_views(store: FeatureStore, split: Split, num_views: int | None) -> str:
    """Return a SHA-256 over the stored views of the training examples; empty if each has one view."""
    if not num_views or num_views == 1:
        return ""
    rows = sorted({(row.content_hash, row.view) for row in list_rows(store, split.train, num_views)})
    return hashlib.sha256(b"".join(content_hash + view.to_bytes(4, "big") for content_hash, view in rows)).hexdigest()


def _hold_out(examples: Sequence[Example], held_out: Container[bytes], rule: str) -> Split:
    """Split examples into those to train on and those whose content hashes are held out."""
    return Split(
        sort_examples(example for example in examples if example.content_hash not in held_out),
        sort_examples(example for example in examples if example.content_hash in held_out),
        rule,
    )


def _check_classes(split: Split) -> None:
    """Raise HeadstartError unless there are two classes, each with training and validation examples."""
    if len(split.classes) < 2:
        got = f"only {split.classes[0]!r}" if split.classes else "none"
        advice = "Add pictures of another class, and extract again"
        raise HeadstartError("the training pictures", "at least two classes", got, advice)
    validated = {example.label for example in split.validation}
    for label in sorted(validated ^ set(split.classes)):
        got, advice = "none for validation", "Add different pictures of this class, and extract again"
        if label in validated:
            got = "none for training"
            advice = "Add training pictures of this class or remove it from validation, and extract again"
        raise HeadstartError(f"class {label!r}", "pictures for training and for validation", got, advice)
