"""Training and validation examples: by folder, by content hash, or in folds."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from base.errors import HeadstartError, UsageError
from features.catalog.tables import ImageRow
from features.split import choose_validation, sort_examples
from features.store import Example, FeatureStore


@dataclass(frozen=True)
class Split:
    """Training and validation examples in the order of their content hashes, and the rule that split them."""

    train: list[Example]
    validation: list[Example]
    rule: str
    test: list[Example] = field(default_factory=list)
    """Those in test/: for the final number alone."""

    @property
    def classes(self) -> list[str]:
        """The labels in alphabetical order; a class's number is its place in it."""
        return sorted({example.label for example in self.train})

    def count_leaks(self) -> int:
        """Count validation examples whose very bytes are in training too: they bias the accuracy upwards."""
        trained = {example.content_hash for example in self.train}
        return sum(example.content_hash in trained for example in self.validation)


def split_examples(examples: Sequence[Example], validation_share: float, images: Iterable[ImageRow] = ()) -> Split:
    """Split by the folders where there is a validation/, else by content hash.

    Args:
        examples: a store's examples; those in test/ are kept apart.
        validation_share: share of the training pictures to set aside where there is no validation/.
        images: every image of the store's folder, also those without a feature.

    Raises:
        HeadstartError: nothing to train on, one class only, too little of a class for both sides, or a validation/
            of which nothing is extracted yet.
    """
    if not examples:
        advice = "Run `python -m extract` first, and look at what failed"
        raise HeadstartError("the store", "features to train on", "none", advice)
    train, validation, test = (
        sort_examples(example for example in examples if example.split in names)
        for names in (("train", ""), ("validation",), ("test",))
    )
    num_in_folder = sum(image.split == "validation" for image in images)
    if num_in_folder and not validation:
        got, advice = (
            f"none of its {num_in_folder:,} pictures",
            "Run `python -m extract` to the end, and look at what failed",
        )
        raise HeadstartError("the folder validation/", "features to validate with", got, advice)
    if validation:
        split = Split(train, validation, "folder validation/", test)
    else:
        split = replace(split_by_content(train, validation_share), test=test)
    _check_classes(split)
    return split


def split_by_content(examples: Sequence[Example], validation_share: float) -> Split:
    """Set examples aside by their content hash, as `choose_validation` describes."""
    held_out = choose_validation(examples, validation_share)
    return _hold_out(examples, held_out, f"content hash, {validation_share:g} set aside")


def split_into_folds(split: Split, num_folds: int) -> list[Split]:
    """Return stratified folds by content hash, each picture of a split held out once, duplicates together.

    Raises:
        UsageError: one fold, or a class with fewer different pictures than folds.
    """
    if num_folds < 2:
        raise UsageError("--folds", "0, or 2 and more", str(num_folds), "5 and 10 are usual")
    examples = split.train + split.validation
    label_of: dict[bytes, str] = {}
    for example in sort_examples(examples):
        label_of.setdefault(example.content_hash, example.label)
    fold_of: dict[bytes, int] = {}
    for label in split.classes:
        hashes = sorted(content_hash for content_hash, found in label_of.items() if found == label)
        if len(hashes) < num_folds:
            expected = f"at most {len(hashes):,}, the number of different pictures of class {label!r}"
            raise UsageError("--folds", expected, str(num_folds), "Ask for fewer folds, or add pictures")
        # Every class starts where the one before ended, so that no fold gets the odd one of each.
        fold_of |= {content_hash: (len(fold_of) + place) % num_folds for place, content_hash in enumerate(hashes)}
    return [
        _hold_out(examples, {key for key, found in fold_of.items() if found == fold}, f"fold {fold + 1} of {num_folds}")
        for fold in range(num_folds)
    ]


def list_rows(store: FeatureStore, examples: Sequence[Example], num_views: int | None) -> list[Example]:
    """List examples as view 0, then their stored views below `num_views` in the order of content hash and view."""
    if not num_views or num_views == 1:
        return list(examples)
    views = [view for example in examples for view in store.list_views(example, num_views)[1:]]
    return [*examples, *sorted(views, key=lambda view: (view.content_hash, view.view, view.label, view.path))]


def hash_views(store: FeatureStore, split: Split, num_views: int | None) -> str:
    """Hash which views of the training examples a store holds; empty where one of each is asked for."""
    if not num_views or num_views == 1:
        return ""
    rows = sorted({(row.content_hash, row.view) for row in list_rows(store, split.train, num_views)})
    return hashlib.sha256(b"".join(content_hash + view.to_bytes(4, "big") for content_hash, view in rows)).hexdigest()


def _hold_out(examples: Sequence[Example], held_out: Container[bytes], rule: str) -> Split:
    return Split(
        sort_examples(example for example in examples if example.content_hash not in held_out),
        sort_examples(example for example in examples if example.content_hash in held_out),
        rule,
    )


def _check_classes(split: Split) -> None:
    """Raise HeadstartError unless there are two classes, each on both sides."""
    if len(split.classes) < 2:
        got = f"only {split.classes}" if split.classes else "none"
        advice = "Add pictures of the others, and extract again"
        raise HeadstartError("the training pictures", "two or more classes", got, advice)
    validated = {example.label for example in split.validation}
    for label in sorted(validated ^ set(split.classes)):
        got, advice = "none to validate with", "Add different pictures of that class, and extract again"
        if label in validated:
            got = "none to train on"
            advice = "Add some to the training folder, or remove the class from validation, and extract again"
        raise HeadstartError(f"class {label!r}", "pictures on both sides", got, advice)
