"""Reduce a split's features to a few hundred inputs, or take the factors of an earlier run from the cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from base.errors import UsageError
from base.terminal import Console
from features.schema import FeatureKey
from features.store import Example, FeatureStore
from train_head.data.batches import Array, Indices
from train_head.reduction.cache import Directions, Factors, get, make_key, put
from train_head.reduction.decompose import MAX_EXACT_ROWS, decompose_exactly, sketch
from train_head.reduction.matrix import FeatureMatrix, open_workers
from train_head.reduction.record import Expansion, make_expansion

DEFAULT_RANK = 512
SKETCH_SEED = 0


@dataclass(frozen=True)
class UniqueRows:
    """The distinct views of contents among some examples."""

    examples: list[Example]
    """One for each, in ascending order of content hash and view: the rows of factors."""
    rows: Indices
    """For each of the examples asked for, its row."""


@dataclass(frozen=True)
class TrainValidation:
    """Training examples, with all views that are trained on, and validation examples."""

    train: Sequence[Example]
    validation: Sequence[Example]


@dataclass(frozen=True)
class Reduced:
    """Features with a few hundred inputs."""

    factors: Factors
    directions: Directions | None
    """Of a sketch; None where they follow from the training features."""
    train: UniqueRows
    validation: UniqueRows
    key: str
    """Digest of what the reduction was made from."""
    rank: int
    """Inputs that were asked for; r is less where the training features span less."""
    from_cache: bool

    def make_expansion(self, store: FeatureStore, kernel: Array) -> Expansion:
        """Make what expands a kernel A, (r, units), to all inputs."""
        if self.directions:
            return make_expansion(store, self.train.examples, None, self.directions.directions)
        return make_expansion(store, self.train.examples, self.factors.compute_coefficients(kernel), None)


def list_unique(examples: Iterable[Example]) -> UniqueRows:
    """List distinct contents and views: the same for any order, labels and places of the examples."""
    asked = list(examples)
    by_key = {FeatureKey(example.content_hash, example.view): example for example in asked}
    keys = sorted(by_key)
    row_of = {key: row for row, key in enumerate(keys)}
    rows = np.array([row_of[FeatureKey(example.content_hash, example.view)] for example in asked], np.int64)
    return UniqueRows([by_key[key] for key in keys], rows)


def choose_rank(asked: int | None, num_rows: int, num_inputs: int) -> int:
    """Choose the number of inputs to keep; raise UsageError where more are asked for than the features can span."""
    if asked is None:
        return min(DEFAULT_RANK, num_rows, num_inputs)
    for largest, what in ((num_rows, "the number of different training rows"), (num_inputs, "all inputs")):
        if asked > largest:
            raise UsageError("--rank", f"at most {largest:,}, {what}", f"{asked:,}", "Lower it")
    return asked


def reduce_features(store: FeatureStore, sides: TrainValidation, rank: int | None, console: Console) -> Reduced:
    """Reduce features, from cached factors in the store's derived/ where there are some.

    Raises:
        UsageError: the rank is above the number of training pictures.
        HeadstartError: the features are all zero.
    """
    train, validation = list_unique(sides.train), list_unique(sides.validation)
    num_inputs = int(np.prod(store.feature_shape))
    rank = choose_rank(rank, len(train.examples), num_inputs)
    # Where nothing is left out, the inputs' own second moments are the smaller problem, and the sketch is exact.
    is_exact = len(train.examples) <= MAX_EXACT_ROWS and rank < num_inputs
    key = make_key(store, [train.examples, validation.examples], rank)
    folder = store.derived_folder
    factors = get(folder, key, Factors, console)
    directions = None if is_exact or factors is None else get(folder, key, Directions, console)
    if factors and (is_exact or directions):
        return Reduced(factors, directions, train, validation, key, rank, from_cache=True)
    factors, found = _reduce(store, train, validation, rank, console, is_exact=is_exact)
    directions = None if is_exact else found
    try:
        # The directions first: factors without them would have to be made again.
        if directions:
            put(folder, key, directions)
        put(folder, key, factors)
    except OSError as error:
        console.warning(f"{folder}: the factors are not kept ({error}); the next run makes them again")
    return Reduced(factors, directions, train, validation, key, rank, from_cache=False)


def _reduce(
    store: FeatureStore, train: UniqueRows, validation: UniqueRows, rank: int, console: Console, *, is_exact: bool
) -> tuple[Factors, Directions]:
    with open_workers() as workers:
        rows = FeatureMatrix(store, train.examples, workers)
        if is_exact:
            basis = decompose_exactly(rows, rank)
        else:
            with console.progress("reduce", 2 * rows.num_rows, "rows") as progress:
                basis = sketch(rows, rank, SKETCH_SEED, progress.advance)
        eigenvalues = basis.eigenvalues.astype(np.float32)
        directions = basis.directions
        if directions is None:
            directions = rows.multiply_transposed(basis.train / eigenvalues)
        del rows
        projected = FeatureMatrix(store, validation.examples, workers).multiply(directions)
    return Factors(basis.train, projected, eigenvalues), Directions(directions)
