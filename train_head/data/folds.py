"""Folds for cross-validation: every picture is held out once."""

from __future__ import annotations

from collections.abc import Sequence

from base.errors import UsageError
from features.store import Example
from train_head.data.split import Split, sort_examples


def split_into_folds(split: Split, num_folds: int) -> list[Split]:
    """Shares out all pictures of a split, so that each is held out once.

    Stratified: within each class, contents are dealt out in the order of their hashes. Duplicates go together,
    whatever they are called and wherever they lie.

    Args:
        split: whose training and validation pictures to share out.
        num_folds: two or more.

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
            raise UsageError(
                "--folds",
                f"at most {len(hashes):,}, the number of different pictures of class {label!r}",
                str(num_folds),
                "Ask for fewer folds, or add pictures",
            )
        # Every class starts where the one before ended, so that no fold gets the odd one of each.
        fold_of |= {content_hash: (len(fold_of) + place) % num_folds for place, content_hash in enumerate(hashes)}
    return [_hold_out(examples, fold_of, fold, num_folds) for fold in range(num_folds)]


def _hold_out(examples: Sequence[Example], fold_of: dict[bytes, int], fold: int, num_folds: int) -> Split:
    return Split(
        sort_examples(example for example in examples if fold_of[example.content_hash] != fold),
        sort_examples(example for example in examples if fold_of[example.content_hash] == fold),
        f"fold {fold + 1} of {num_folds}",
    )
