"""Decides which examples are trained on and which validate: from folders, or by content hash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from features.errors import HeadstartError
from features.store import Example, FeatureStore


@dataclass(frozen=True)
class Split:
    """Training and validation examples, and how they were told apart."""

    train: list[Example]
    validation: list[Example]
    rule: str
    test: list[Example] = field(default_factory=list)
    """Those in test/ where there is a validation/ too: for the final number alone."""

    @property
    def classes(self) -> list[str]:
        """The labels in alphabetical order; a class's number is its place in it."""
        return sorted({example.label for example in self.train})

    def count_leaks(self) -> int:
        """Counts validation examples whose very file is in training too: they flatter the accuracy."""
        trained = {example.content_hash for example in self.train}
        return sum(example.content_hash in trained for example in self.validation)


def split_examples(examples: Sequence[Example], validation_share: float) -> Split:
    """Splits by the folders where they say, else by content hash.

    Args:
        examples: a store's examples.
        validation_share: how much to set aside where the folders have no validation/ or test/.

    Raises:
        HeadstartError: nothing to train on, one class only, or too little of a class for both sides.
    """
    if not examples:
        raise HeadstartError(
            "the store",
            "features to train on",
            "none",
            "Run `python -m extract` first, and look at what failed",
        )
    held_out = next((name for name in ("validation", "test") if any(e.split == name for e in examples)), "")
    if held_out:
        train = [example for example in examples if example.split in ("train", "")]
        validation = [example for example in examples if example.split == held_out]
        test = [example for example in examples if example.split == "test"] if held_out != "test" else []
        split = Split(train, validation, f"folder {held_out}/", test)
    else:
        split = split_by_content(examples, validation_share)
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
        [example for example in examples if example.content_hash not in held_out],
        [example for example in examples if example.content_hash in held_out],
        f"content hash, {validation_share:g} set aside",
    )


def list_rows(store: FeatureStore, examples: Sequence[Example], num_views: int | None) -> list[Example]:
    """Lists examples, each as view 0, and after them all their further views that are stored.

    Args:
        store: where they are.
        examples: view 0 of each picture.
        num_views: how many views of a picture at most; None for one.
    """
    if not num_views or num_views == 1:
        return list(examples)
    views = [store.list_views(example, num_views) for example in examples]
    return [*examples, *(view for found in views for view in found[1:])]


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
