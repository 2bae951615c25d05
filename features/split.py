"""Order of pictures, numbers of their classes, and the pictures to hold out for validation, by content alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from features.contents import Example

VALIDATION_SHARE = 0.2
"""Share of the training pictures that is held out by default where there is no validation/."""


def sort_examples(examples: Iterable[Example]) -> list[Example]:
    """Sort by content before label and path, so that neither paths nor shards decide a number."""
    return sorted(examples, key=lambda example: (example.content_hash, example.label, example.path))


def encode_labels(examples: Sequence[Example], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the class number of each example: its label's place among the classes."""
    number_of = {label: number for number, label in enumerate(classes)}
    return np.array([number_of[example.label] for example in examples], np.int64)


def choose_validation(examples: Sequence[Example], share: float) -> set[bytes]:
    """Return the content hashes of about a share of the examples, whatever their names and the other examples.

    An example stays on its side when others come or go, and duplicates are on one side. Only where a class would be
    missing on a side, the picture of that class nearest to the border goes over, with its duplicates.
    """
    held_out = {e.content_hash for e in examples if _place(e.content_hash) < share}
    for label in sorted({example.label for example in examples}):
        hashes = {example.content_hash for example in examples if example.label == label}
        if len(hashes) < 2:
            continue
        if not hashes & held_out:
            held_out.add(min(hashes, key=_place))
        elif hashes <= held_out:
            held_out.remove(max(hashes, key=_place))
    return held_out


def _place(content_hash: bytes) -> float:
    """Return the position of a content hash in [0, 1)."""
    return int.from_bytes(content_hash[:8], "big") / 2**64
