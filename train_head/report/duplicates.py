"""Duplicates across the split: validation or test pictures that are (nearly) the same as a training picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from base.terminal import Console, format_count
from features.store import Example
from train_head.data.split import Split
from train_head.evaluation.neighbours import NEAR, list_contents
from train_head.evaluation.pooled import MAX_PICTURES
from train_head.reduction.cache import Neighbours

NUM_NEAR_SHOWN = 12


class Pair(NamedTuple):
    """Validation or test picture with a similar training picture."""

    held_out: Example
    train: Example
    similarity: float
    """1 for the same bytes or features, 0 for an ordinary neighbour."""


class Duplicates(NamedTuple):
    """Duplicates across a split."""

    exact: list[Pair]
    near: list[Pair]
    """Most similar pairs, which the report shows."""
    num_near: int | None
    """Number of pairs with a similarity of `NEAR` or more; None if there were too many pictures to compare."""
    typical_similarity: float
    """Median similarity of a picture to its nearest neighbour."""


def find_duplicates(split: Split, contents: Sequence[Example], neighbours: Neighbours | None) -> Duplicates:
    """Find validation and test pictures with the bytes of a training picture, and validation pictures similar to one.

    Args:
        split: the split.
        contents: different pictures of training and validation.
        neighbours: their neighbours; None if there are too many pictures.
    """
    exact = find_exact(split.train, [*split.validation, *split.test])
    if neighbours is None:
        return Duplicates(exact, [], None, 0.0)
    nearest = find_nearest(split, contents, neighbours)
    num_near = sum(pair.similarity >= NEAR for pair in nearest)
    near = nearest[: max(NUM_NEAR_SHOWN, min(2 * NUM_NEAR_SHOWN, num_near))]
    return Duplicates(exact, near, num_near, measure_typical_similarity(neighbours))


def warn_of_duplicates(num_near: int | None, rule: str, console: Console) -> None:
    """Warn if validation pictures are nearly the same as a training picture, with the option that prevents it."""
    if num_near is None:
        console.info(f"near-duplicates were not searched for: more than {MAX_PICTURES:,} pictures")
    if not num_near:
        return
    advice = "The report shows the pairs"
    if rule.startswith("content hash"):
        advice += ". Train with `--split group` to keep near-duplicates together"
    console.warning(
        f"{format_count(num_near, 'validation picture')} nearly the same as a training picture: the validation "
        f"accuracy is optimistically biased. {advice}"
    )


def find_exact(train: Sequence[Example], held_out: Sequence[Example]) -> list[Pair]:
    """Find the held-out pictures whose bytes are those of a training picture, in the order of their paths."""
    trained: dict[bytes, Example] = {}
    for example in sorted(train, key=lambda example: example.path):
        trained.setdefault(example.content_hash, example)
    ordered = sorted(held_out, key=lambda example: example.path)
    return [Pair(e, trained[e.content_hash], 1.0) for e in ordered if e.content_hash in trained]


def find_nearest(split: Split, contents: Sequence[Example], neighbours: Neighbours) -> list[Pair]:
    """Find the most similar training picture of each validation picture, and sort by descending similarity.

    Pictures with the same bytes count once, and those with the bytes of a training picture are left out, as are those
    without a training picture among their neighbours.

    Args:
        split: the split.
        contents: pictures of the rows of `neighbours`.
        neighbours: neighbours of training and validation pictures.
    """
    trained = {example.content_hash: example for example in list_contents(split.train)}
    train_of: dict[int, Example] = {}
    for first, example in zip(neighbours.firsts.tolist(), contents, strict=True):
        if example.content_hash in trained:
            train_of.setdefault(first, trained[example.content_hash])
    pairs = []
    for number, example in enumerate(contents):
        if example.content_hash in trained:
            continue
        rows = [int(neighbours.firsts[number]), *neighbours.rows[number].tolist()]
        similarities = [1.0, *neighbours.similarities[number].tolist()]
        found = next(((row, value) for row, value in zip(rows, similarities, strict=True) if row in train_of), None)
        if found:
            pairs.append(Pair(example, train_of[found[0]], found[1]))
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.held_out.path))


def measure_typical_similarity(neighbours: Neighbours) -> float:
    """Return the median similarity of a picture to its nearest neighbour."""
    counts = np.bincount(neighbours.firsts, minlength=len(neighbours.firsts))
    nearest = neighbours.similarities.max(axis=1, initial=0)
    return float(np.median(np.where(counts[neighbours.firsts] > 1, 1, nearest)))
