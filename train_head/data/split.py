"""Decides which examples are trained on and which validate: from folders, or by content hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from base.errors import HeadstartError
from features.catalog.tables import ImageRow
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

    Pictures in test/ are never used for validation: they are kept apart, for the final number alone.

    Args:
        examples: a store's examples.
        validation_share: how much of the training pictures to set aside where there is no validation/.
        images: every image of the store's folder, also those without a feature: they decide which folders there are.

    Raises:
        HeadstartError: nothing to train on, one class only, too little of a class for both sides, or a validation/
            of which nothing is extracted yet.
    """
    if not examples:
        raise HeadstartError(
            "the store",
            "features to train on",
            "none",
            "Run `python -m extract` first, and look at what failed",
        )
    train, validation, test = (
        sort_examples(example for example in examples if example.split in names)
        for names in (("train", ""), ("validation",), ("test",))
    )
    num_in_folder = sum(image.split == "validation" for image in images)
    if num_in_folder and not validation:
        raise HeadstartError(
            "the folder validation/",
            "features to validate with",
            f"none of its {num_in_folder:,} pictures",
            "Run `python -m extract` to the end, and look at what failed",
        )
    if validation:
        split = Split(train, validation, "folder validation/", test)
    else:
        split = replace(split_by_content(train, validation_share), test=test)
    _check(split)
    return split


def split_by_content(examples: Sequence[Example], validation_share: float) -> Split:
    """Sets examples aside by their content hash, whatever their names and whatever else there is.

    An example's side depends on its own bytes alone, so it stays when others come or go, and duplicates
    are always on one side. Only where a class would be missing on a side, the picture of that class that
    is nearest to the border goes over, with its duplicates.
    """
    held_out = {e.content_hash for e in examples if _place(e.content_hash) < validation_share}
    for label in sorted({example.label for example in examples}):
        hashes = {example.content_hash for example in examples if example.label == label}
        if len(hashes) < 2:
            continue
        if not hashes & held_out:
            held_out.add(min(hashes, key=_place))
        elif hashes <= held_out:
            held_out.remove(max(hashes, key=_place))
    return Split(
        sort_examples(example for example in examples if example.content_hash not in held_out),
        sort_examples(example for example in examples if example.content_hash in held_out),
        f"content hash, {validation_share:g} set aside",
    )


def list_rows(store: FeatureStore, examples: Sequence[Example], num_views: int | None) -> list[Example]:
    """List examples, each as view 0, and after them all their further views that are stored.

    The further views are in the order of content hash and view, whatever the store's layout.

    Args:
        store: where they are.
        examples: view 0 of each picture.
        num_views: how many views of a picture at most; None for one.
    """
    if not num_views or num_views == 1:
        return list(examples)
    views = [view for example in examples for view in store.list_views(example, num_views)[1:]]
    return [*examples, *sorted(views, key=lambda view: (view.content_hash, view.view, view.label, view.path))]


def hash_views(store: FeatureStore, split: Split, num_views: int | None) -> str:
    """Hashes which views of the training examples a store holds; empty where one of each is asked for."""
    if not num_views or num_views == 1:
        return ""
    rows = sorted({(row.content_hash, row.view) for row in list_rows(store, split.train, num_views)})
    return hashlib.sha256(b"".join(content_hash + view.to_bytes(4, "big") for content_hash, view in rows)).hexdigest()


def sort_examples(examples: Iterable[Example]) -> list[Example]:
    """Sort by what a picture is before what it is named, so that neither paths nor shards decide a number."""
    return sorted(examples, key=lambda example: (example.content_hash, example.label, example.path))


def _place(content_hash: bytes) -> float:
    """Where a content hash lies in [0, 1)."""
    return int.from_bytes(content_hash[:8], "big") / 2**64


def _check(split: Split) -> None:
    if len(split.classes) < 2:
        raise HeadstartError(
            "the training pictures",
            "two or more classes",
            f"only {split.classes}" if split.classes else "none",
            "Add pictures of the others, and extract again",
        )
    for label in split.classes:
        if sum(example.label == label for example in split.validation) == 0:
            raise HeadstartError(
                f"class {label!r}",
                "pictures on both sides",
                "none to validate with",
                "Add different pictures of that class, and extract again",
            )
    strangers = sorted({example.label for example in split.validation} - set(split.classes))
    if strangers:
        raise HeadstartError(
            f"class {strangers[0]!r}",
            "pictures on both sides",
            "none to train on",
            "Add some to the training folder, or remove the class from validation, and extract again",
        )
