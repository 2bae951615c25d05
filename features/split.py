"""Order and validation split of pictures, both by content hash, and class numbers of their labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from base.errors import UsageError
from features.contents import Example

VALIDATION_SHARE = 0.2
"""Default share of the training pictures that is held out if the folder has no validation/."""


def sort_examples(examples: Iterable[Example]) -> list[Example]:
    """Sort by content hash, so that results do not depend on paths or shards; duplicates by label and path."""
    return sorted(examples, key=lambda example: (example.content_hash, example.label, example.path))


def encode_labels(examples: Sequence[Example], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the class number of each example: the position of its label in `classes`."""
    number_of = {label: number for number, label in enumerate(classes)}
    return np.array([number_of[example.label] for example in examples], np.int64)


def choose_validation(examples: Sequence[Example], share: float) -> set[bytes]:
    """Choose about a share of the examples for validation by content hash, and return the content hashes.

    Whether an example is chosen does not depend on its name or on other examples, and duplicates stay together. There
    is one exception: if training or validation would lack a class of two or more distinct pictures, the picture of that
    class nearest to the threshold is moved, with its duplicates.
    """
    held_out = {e.content_hash for e in examples if _compute_position(e.content_hash) < share}
    hashes_of: dict[str, set[bytes]] = {}
    for example in examples:
        hashes_of.setdefault(example.label, set()).add(example.content_hash)
    for _, hashes in sorted(hashes_of.items()):
        if len(hashes) < 2:
            continue
        if not hashes & held_out:
            held_out.add(min(hashes, key=_compute_position))
        elif hashes <= held_out:
            held_out.remove(max(hashes, key=_compute_position))
    return held_out


def select_examples(
    examples: Sequence[Example], split: str | None, where: Path, *, has_validation: bool
) -> list[Example]:
    """Select the examples of a split, sorted by content hash; a fifth of the training pictures without validation/.

    Args:
        examples: all examples of a store.
        split: `train`, `validation` or `test`; None for all.
        where: path of the store, for messages.
        has_validation: whether a picture of the store belongs to the validation split.

    Raises:
        UsageError: unknown split, or a split without pictures.
    """
    if split not in (None, "train", "validation", "test"):
        expected = "'train', 'validation', 'test' or None"
        raise UsageError("split", expected, repr(split), "Give None for all pictures")
    chosen = [example for example in examples if split is None or (example.split or "train") == split]
    if split in ("train", "validation") and not has_validation:
        trained = [example for example in examples if example.split != "test"]
        held_out = choose_validation(trained, VALIDATION_SHARE)
        chosen = [example for example in trained if (example.content_hash in held_out) == (split == "validation")]
    if split and not chosen:
        raise UsageError("split", f"a split with pictures in {where}", repr(split), "Give another split")
    return sort_examples(chosen)


def _compute_position(content_hash: bytes) -> float:
    """Map a content hash to a number in [0, 1)."""
    return int.from_bytes(content_hash[:8], "big") / 2**64
