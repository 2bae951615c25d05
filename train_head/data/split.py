"""Split of a store's examples into training and validation: by folder, or by content hash."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from base.errors import HeadstartError, UsageError
from base.invocation import format_command
from base.terminal import format_count, format_list
from features.catalog.tables import ImageRow
from features.labels import split_labels
from features.store import Example, FeatureStore
from features.validation_split import (
    choose_stratified,
    choose_validation,
    encode_label_sets,
    encode_labels,
    sort_examples,
)

FindGroups = Callable[[Sequence[Example]], Mapping[bytes, bytes]]
"""Function that maps content hashes of examples to the hash that represents the group; see `choose_representatives`."""
Targets = NDArray[Any]
"""(n,) int64 class numbers; or (n, classes) uint8, 1 for each label of a picture, if pictures have several labels."""
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
    is_multi_label: bool = False
    """Whether a picture may have several labels, or none; the label of an example is then their joined text."""

    @property
    def classes(self) -> list[str]:
        """Labels of the training examples in alphabetical order; a class number is an index in this list."""
        return sorted(self.count_labels(self.train))

    def count_labels(self, examples: Iterable[Example]) -> Counter[str]:
        """Count the examples with each label."""
        if not self.is_multi_label:
            return Counter(example.label for example in examples)
        return Counter(label for example in examples for label in split_labels(example.label))

    def encode(self, examples: Sequence[Example]) -> Targets:
        """Return the targets of examples: their class numbers, or which labels each of them has."""
        return (encode_label_sets if self.is_multi_label else encode_labels)(examples, self.classes)

    def count_leaks(self) -> int:
        """Return the number of validation examples that are copies of training examples, which bias the accuracy."""
        trained = {example.content_hash for example in self.train}
        return sum(example.content_hash in trained for example in self.validation)


def split_examples(
    examples: Sequence[Example],
    validation_share: float,
    images: Iterable[ImageRow] = (),
    find_groups: FindGroups | None = None,
    *,
    is_multi_label: bool = False,
) -> Split:
    """Split examples by the folder validation/ if there is one, else by content hash.

    Args:
        examples: the examples of a store; those in test/ become `Split.test`.
        validation_share: share of the training pictures to hold out if there is no validation/.
        images: all images of the store's folder, with or without features.
        find_groups: finds the pictures that stay together; None for a split of single pictures.
        is_multi_label: whether a picture may have several labels, or none.

    Raises:
        UsageError: groups are requested, but the folder validation/ determines the split.
        HeadstartError: no examples, fewer than two classes, a class that is missing from training or validation, a
            label that all training pictures have, or a folder validation/ without features.
    """
    if not examples:
        advice = f"Run `{format_command('extract')}` again with the same options, and check the pictures that failed"
        raise HeadstartError("the store", "features to train on", "none", advice)
    train, validation, test = (
        sort_examples(example for example in examples if example.split in names)
        for names in (("train", ""), ("validation",), ("test",))
    )
    num_in_folder = sum(image.split == "validation" for image in images)
    if num_in_folder and not validation:
        got = f"none for {format_count(num_in_folder, 'picture')}"
        command = format_command("extract")
        advice = f"Run `{command}` again with the same options until it is done, and check the pictures that failed"
        raise HeadstartError("the folder validation/", "features to validate with", got, advice)
    if validation and find_groups:
        got = f"group with {format_count(len(validation), 'picture')} that the store assigns to validation"
        advice = "Omit the option, or move the pictures of validation to training and extract again"
        raise UsageError("--split", "content", got, advice)
    if validation:
        split = Split(train, validation, FOLDER_RULE, test, is_multi_label=is_multi_label)
    else:
        group_of = find_groups(train) if find_groups else None
        split_by = split_by_label_sets if is_multi_label else split_by_content
        split = replace(split_by(train, validation_share, group_of), test=test)
    (_check_labels if is_multi_label else _check_classes)(split)
    return split


def split_by_label_sets(
    examples: Sequence[Example], validation_share: float, group_of: Mapping[bytes, bytes] | None = None
) -> Split:
    """Hold out about the given share of the pictures with each label; see `choose_stratified`."""
    name = "content hash" if group_of is None else "groups of near-duplicates"
    held_out = choose_stratified(examples, validation_share, group_of or {})
    split = hold_out(examples, held_out, f"{name}, stratified by labels, {validation_share:g} set aside")
    return replace(split, group_of=group_of or {}, is_multi_label=True)


def split_by_content(
    examples: Sequence[Example], validation_share: float, group_of: Mapping[bytes, bytes] | None = None
) -> Split:
    """Hold out about the given share of the examples for validation, by content hash; see `choose_validation`."""
    name = "content hash" if group_of is None else "groups of near-duplicates"
    choice = choose_validation(examples, validation_share, group_of or {})
    split = hold_out(examples, choice.held_out, f"{name}, {validation_share:g} set aside")
    return replace(split, group_of=group_of or {}, num_moved=choice.num_moved)


def order_by_class(examples: Sequence[Example]) -> list[Example]:
    """Order pictures so that the first n of them, for any n, are a stratified sample.

    The order depends on the content of the pictures only. One picture of each class comes first.
    """
    sizes, ranks = Counter(example.label for example in examples), Counter[str]()
    ranked: list[tuple[tuple[bool, float], Example]] = []
    for example in sorted(examples, key=lambda e: (e.content_hash, e.path)):
        rank = ranks[example.label]
        ranked.append(((rank > 0, (rank + 0.5) / sizes[example.label]), example))
        ranks[example.label] += 1
    return [example for _, example in sorted(ranked, key=lambda pair: pair[0])]


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


def hold_out(examples: Sequence[Example], held_out: Container[bytes], rule: str) -> Split:
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


def _check_labels(split: Split) -> None:
    """Raise HeadstartError unless there are two labels, each on some but not all of the training pictures.

    Validation need not have every label: a label that it lacks has no average precision.
    """
    if not split.validation:
        got = f"none of {format_count(len(split.train), 'picture')}"
        raise HeadstartError("the store", "pictures for validation", got, "Add pictures, and extract again")
    counts = split.count_labels(split.train)
    unknown = sorted(split.count_labels(split.validation).keys() - counts.keys())
    everywhere = sorted(label for label, count in counts.items() if count == len(split.train))
    where, advice = "the training pictures", "Correct the table of labels, or add pictures, and extract again"
    if len(counts) < 2:
        got = f"only {min(counts)!r}" if counts else f"none for {format_count(len(split.train), 'picture')}"
        raise HeadstartError(where, "at least two labels", got, advice)
    for labels, expected in (
        (unknown, "training pictures for each label of the validation pictures"),
        (everywhere, "training pictures without each of the labels"),
    ):
        if labels:
            raise HeadstartError(where, expected, f"none for {format_list([repr(x) for x in labels])}", advice)
