"""Reduces a split's features, or takes the factors that were kept, and leads a fitted kernel back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from features.console import Console
from features.errors import UsageError
from features.store import Example, FeatureStore
from train_head.head import Array
from train_head.reduction.decompose import MAX_EXACT_ROWS, decompose_exactly, sketch
from train_head.reduction.factors import Factors, keep_factors, load_factors, make_key
from train_head.reduction.rows import FeatureRows
from train_head.split import Split

DEFAULT_RANK = 512
SKETCH_SEED = 0


@dataclass(frozen=True)
class Contents:
    """The distinct contents among some examples."""

    hashes: list[bytes]
    """In ascending order: the rows of factors."""
    examples: list[Example]
    """One for each hash."""
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    """For each of the examples asked for, its row."""


@dataclass(frozen=True)
class Reduced:
    """A split's features with a few hundred inputs."""

    train: Array
    """(training examples, r)."""
    validation: Array
    """(validation examples, r)."""
    factors: Factors
    key: str
    rank: int
    """How many inputs were asked for; r is less where the training features span less."""
    was_kept: bool


def list_contents(examples: Iterable[Example]) -> Contents:
    """Lists distinct contents; pure, and the same for any order and any names."""
    asked = list(examples)
    by_hash = {example.content_hash: example for example in asked}
    hashes = sorted(by_hash)
    row_of = {content_hash: row for row, content_hash in enumerate(hashes)}
    rows = np.array([row_of[example.content_hash] for example in asked], np.int64)
    return Contents(hashes, [by_hash[content_hash] for content_hash in hashes], rows)


def choose_rank(asked: int | None, num_contents: int) -> int:
    """Chooses how many inputs to keep.

    Raises:
        UsageError: more were asked for than there are different training pictures.
    """
    if asked is not None and asked > num_contents:
        raise UsageError(
            "--rank", f"at most {num_contents:,}, the number of different training pictures", f"{asked:,}", "Lower it"
        )
    return min(DEFAULT_RANK, num_contents) if asked is None else asked


def reduce_features(store: FeatureStore, split: Split, rank: int | None, console: Console) -> Reduced:
    """Reduces a split's features, from kept factors where there are some.

    Args:
        store: where the features are; its derived/ keeps the factors.
        split: what to train on, whose span counts, and what to validate with.
        rank: how many inputs to keep; None for the default.
        console: where progress goes.

    Raises:
        UsageError: the rank is above the number of training pictures.
        HeadstartError: there is nothing to train on in the features.
    """
    train, validation = list_contents(split.train), list_contents(split.validation)
    rank = choose_rank(rank, len(train.hashes))
    key = make_key(store.fingerprint, train.hashes, validation.hashes, rank)
    folder = store.derived_folder
    kept = load_factors(folder, key, console)
    factors = kept or _make_factors(store, train, validation, rank, console)
    if not kept:
        try:
            keep_factors(folder, key, factors)
        except OSError as error:
            console.warn(f"{folder}: the factors are not kept ({error}); the next run makes them again")
    return Reduced(factors.train[train.rows], factors.validation[validation.rows], factors, key, rank, kept is not None)


def lift_kernel(store: FeatureStore, split: Split, factors: Factors, kernel: Array) -> Array:
    """Leads a kernel on reduced inputs back to the features' own inputs.

    W = V A; where V is not kept it is Xᵀ Z diag(1 / λ), and the product runs over the shards.

    Args:
        store: where the features are.
        split: the split that was reduced.
        factors: its factors.
        kernel: A, (r, units).

    Returns:
        W, (inputs, units) float32.
    """
    if len(factors.directions):
        return np.asarray(factors.directions @ kernel, np.float32)
    contents = list_contents(split.train)
    order, examples = _order_by_place(contents.examples)
    coefficients = np.asarray((factors.train / factors.eigenvalues) @ kernel, np.float32)
    return FeatureRows(store, examples).multiply_transposed(coefficients[order])


def _make_factors(store: FeatureStore, train: Contents, validation: Contents, rank: int, console: Console) -> Factors:
    order, examples = _order_by_place(train.examples)
    rows = FeatureRows(store, examples)
    if rows.num_rows <= MAX_EXACT_ROWS:
        basis = decompose_exactly(rows, rank)
    else:
        with console.progress("reduce", 2 * rows.num_rows, "rows") as progress:
            basis = sketch(rows, rank, SKETCH_SEED, progress.advance)
    eigenvalues = basis.eigenvalues.astype(np.float32)
    directions = basis.directions
    if directions is None:
        directions = rows.multiply_transposed(basis.train / eigenvalues)
    del rows
    validation_order, validation_examples = _order_by_place(validation.examples)
    projected = FeatureRows(store, validation_examples).multiply(directions)
    return Factors(
        _unsort(basis.train, order),
        _unsort(projected, validation_order),
        eigenvalues,
        directions[:0] if basis.directions is None else directions,
    )


def _order_by_place(examples: Sequence[Example]) -> tuple[list[int], list[Example]]:
    """Orders examples as the store holds them, so that each shard is opened once."""
    order = sorted(range(len(examples)), key=lambda number: (examples[number].shard, examples[number].row))
    return order, [examples[number] for number in order]


def _unsort(rows: Array, order: Sequence[int]) -> Array:
    result = np.empty_like(rows)
    result[order] = rows
    return result
