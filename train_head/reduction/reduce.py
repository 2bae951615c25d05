"""Reduces a split's features, or takes the factors that were kept, and leads a fitted kernel back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from features.console import Console
from features.errors import HeadstartError, UsageError
from features.store import Example, FeatureStore
from train_head.head import Array
from train_head.reduction.decompose import MAX_EXACT_ROWS, decompose_exactly, sketch
from train_head.reduction.factors import Directions, Factors, keep, load, make_key
from train_head.reduction.rows import FeatureRows

DEFAULT_RANK = 512
SKETCH_SEED = 0


@dataclass(frozen=True)
class Contents:
    """The distinct contents, and views of contents, among some examples."""

    hashes: list[bytes]
    """In ascending order, with the number of a view behind that is not the first: the rows of factors."""
    examples: list[Example]
    """One for each hash."""
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    """For each of the examples asked for, its row."""


@dataclass(frozen=True)
class Sides:
    """What is reduced."""

    train: Sequence[Example]
    """With all views that are trained on."""
    validation: Sequence[Example]


@dataclass(frozen=True)
class Reduced:
    """Features with a few hundred inputs."""

    train: Array
    """(training examples, r)."""
    validation: Array
    """(validation examples, r)."""
    key: str
    """Of what the reduction was made from."""
    rank: int
    """How many inputs were asked for; r is less where the training features span less."""
    was_kept: bool


def list_contents(examples: Iterable[Example]) -> Contents:
    """Lists distinct contents; pure, and the same for any order and any names."""
    asked = list(examples)
    by_hash = {_name_content(example): example for example in asked}
    hashes = sorted(by_hash)
    row_of = {name: row for row, name in enumerate(hashes)}
    rows = np.array([row_of[_name_content(example)] for example in asked], np.int64)
    return Contents(hashes, [by_hash[name] for name in hashes], rows)


def _name_content(example: Example) -> bytes:
    return example.content_hash + (example.view.to_bytes(4, "big") if example.view else b"")


def choose_rank(asked: int | None, num_contents: int, num_inputs: int) -> int:
    """Chooses how many inputs to keep.

    Args:
        asked: what the user wants; None for the default.
        num_contents: how many different training rows there are: views of pictures that differ.
        num_inputs: how many numbers a feature has.

    Raises:
        UsageError: more were asked for than the training features can span.
    """
    if asked is None:
        return min(DEFAULT_RANK, num_contents, num_inputs)
    for largest, what in ((num_contents, "the number of different training rows"), (num_inputs, "all inputs")):
        if asked > largest:
            raise UsageError("--rank", f"at most {largest:,}, {what}", f"{asked:,}", "Lower it")
    return asked


def reduce_features(store: FeatureStore, sides: Sides, rank: int | None, console: Console) -> Reduced:
    """Reduces features, from kept factors where there are some.

    Args:
        store: where the features are; its derived/ keeps the factors.
        sides: what to train on, whose span counts, and what to validate with.
        rank: how many inputs to keep; None for the default.
        console: where progress goes.

    Raises:
        UsageError: the rank is above the number of training pictures.
        HeadstartError: there is nothing to train on in the features.
    """
    task = _Task(store, list_contents(sides.train), list_contents(sides.validation), rank)
    kept = load(store.derived_folder, task.key, Factors, console)
    factors = kept or task.make(console)[0]
    return Reduced(
        factors.train[task.train.rows],
        factors.validation[task.validation.rows],
        task.key,
        task.rank,
        kept is not None,
    )


def lift_kernel(store: FeatureStore, sides: Sides, rank: int | None, kernel: Array, console: Console) -> Array:
    """Leads a kernel on reduced inputs back to the features' own inputs.

    W = V A; where V is not kept it is Xᵀ Z diag(1 / λ), and the product runs over the shards.

    Args:
        store: where the features are.
        sides: what was reduced.
        rank: how many inputs were asked for.
        kernel: A, (r, units).
        console: where progress goes, if the reduction has to be made again.

    Returns:
        W, (inputs, units) float32.

    Raises:
        HeadstartError: the reduction has another number of inputs.
    """
    task = _Task(store, list_contents(sides.train), list_contents(sides.validation), rank)
    factors = load(store.derived_folder, task.key, Factors, console)
    basis = load(store.derived_folder, task.key, Directions, console)
    if factors is None or (basis is None and not task.is_exact):
        factors, basis = task.make(console)
    if len(factors.eigenvalues) != len(kernel):
        raise HeadstartError(
            store.derived_folder,
            f"a reduction to the {len(kernel):,} inputs of the fitted head",
            f"{len(factors.eigenvalues):,}",
            "Train again with --overwrite (OVERWRITE=1), which takes seconds",
        )
    if basis:
        return np.asarray(basis.directions @ kernel, np.float32)
    order, examples = _order_by_place(task.train.examples)
    coefficients = np.asarray((factors.train / factors.eigenvalues) @ kernel, np.float32)
    return FeatureRows(store, examples).multiply_transposed(coefficients[order])


class _Task:
    """A reduction to be made, or found."""

    def __init__(self, store: FeatureStore, train: Contents, validation: Contents, rank: int | None) -> None:
        self.store, self.train, self.validation = store, train, validation
        self.rank = choose_rank(rank, len(train.hashes), int(np.prod(store.feature_shape)))
        self.key = make_key(store.fingerprint, train.hashes, validation.hashes, self.rank)
        self.is_exact = len(train.hashes) <= MAX_EXACT_ROWS

    def make(self, console: Console) -> tuple[Factors, Directions | None]:
        """Makes the factors, and the directions unless they follow from them, and keeps both if it can."""
        order, examples = _order_by_place(self.train.examples)
        rows = FeatureRows(self.store, examples)
        if self.is_exact:
            basis = decompose_exactly(rows, self.rank)
        else:
            with console.progress("reduce", 2 * rows.num_rows, "rows") as progress:
                basis = sketch(rows, self.rank, SKETCH_SEED, progress.advance)
        eigenvalues = basis.eigenvalues.astype(np.float32)
        directions = basis.directions
        if directions is None:
            directions = rows.multiply_transposed(basis.train / eigenvalues)
        del rows
        validation_order, validation_examples = _order_by_place(self.validation.examples)
        projected = FeatureRows(self.store, validation_examples).multiply(directions)
        factors = Factors(_unsort(basis.train, order), _unsort(projected, validation_order), eigenvalues)
        kept = None if self.is_exact else Directions(directions)
        folder = self.store.derived_folder
        try:
            # The directions first: factors without them would have to be made again.
            if kept:
                keep(folder, self.key, kept)
            keep(folder, self.key, factors)
        except OSError as error:
            console.warn(f"{folder}: the factors are not kept ({error}); the next run makes them again")
        return factors, kept


def _order_by_place(examples: Sequence[Example]) -> tuple[list[int], list[Example]]:
    """Orders examples as the store holds them, so that each shard is opened once."""
    order = sorted(range(len(examples)), key=lambda number: (examples[number].shard, examples[number].row))
    return order, [examples[number] for number in order]


def _unsort(rows: Array, order: Sequence[int]) -> Array:
    result = np.empty_like(rows)
    result[order] = rows
    return result
