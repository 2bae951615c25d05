"""Reduce the features of a split to a few hundred inputs, or load the result of an earlier run from the cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from base.cluster import LOCAL
from base.errors import UsageError
from base.terminal import Console
from features.schema import FeatureKey
from features.store import Example, FeatureStore
from train_head.data.batches import Array, Indices
from train_head.reduction.cache import Directions, Factors, get, make_key, name_rows, put, remove_abandoned
from train_head.reduction.decompose import MAX_EXACT_ROWS, Basis, SketchMeans, decompose_exactly, sketch_rows
from train_head.reduction.distribute import open_products
from train_head.reduction.matrix import FeatureMatrix, open_workers
from train_head.reduction.record import Expansion, make_expansion
from train_head.reduction.row_file import Matrix, create_matrix

DEFAULT_RANK = 512
"""Number of reduced inputs; fewer if there are fewer training rows or inputs."""
SKETCH_SEED = 0
"""Seed of every sketch, independent of the seed of the fit."""


@dataclass(frozen=True)
class UniqueRows:
    """Distinct features among examples: one for each content hash and view."""

    examples: list[Example]
    """One example for each, in ascending order of content hash and view: the rows of `Factors`."""
    rows: Indices
    """(given examples,) row of each given example in `examples`, like `return_inverse` of `numpy.unique`."""


@dataclass(frozen=True)
class TrainValidation:
    """Examples of a split: for training with all their views, for validation with view 0."""

    train: Sequence[Example]
    validation: Sequence[Example]


@dataclass(frozen=True)
class Reduced:
    """Reduced features of a split, with the basis that reduced them."""

    factors: Factors
    directions: Directions | None
    """Basis of a sketch; None after an exact decomposition, where it follows from the training features."""
    train: UniqueRows
    validation: UniqueRows
    key: str
    """Digest of everything that the reduction was computed from."""
    rank: int
    """Requested number of inputs; r is smaller if the training features span fewer dimensions."""
    from_cache: bool
    """Whether an earlier run computed the reduction."""

    def make_expansion(self, store: FeatureStore, kernel: Array) -> Expansion:
        """Return the map from a reduced kernel A (r, units) to all inputs."""
        if self.directions:
            return make_expansion(store, self.train.examples, None, self.directions.directions)
        return make_expansion(store, self.train.examples, self.factors.compute_coefficients(kernel), None)


def list_unique(examples: Iterable[Example]) -> UniqueRows:
    """List the distinct features of examples; the order, labels and shards of the examples do not change the result."""
    asked = list(examples)
    by_key = {FeatureKey(example.content_hash, example.view): example for example in asked}
    keys = sorted(by_key)
    row_of = {key: row for row, key in enumerate(keys)}
    rows = np.array([row_of[FeatureKey(example.content_hash, example.view)] for example in asked], np.int64)
    return UniqueRows([by_key[key] for key in keys], rows)


def choose_rank(requested: int | None, num_rows: int, num_inputs: int) -> int:
    """Return the number of reduced inputs; raise UsageError if more are requested than the features have dimensions."""
    if requested is None:
        return min(DEFAULT_RANK, num_rows, num_inputs)
    for largest, what in ((num_rows, "distinct training rows"), (num_inputs, "inputs")):
        if requested > largest:
            raise UsageError("--rank", f"at most {largest:,}, the number of {what}", f"{requested:,}", "Lower the rank")
    return requested


def reduce_features(
    store: FeatureStore, split: TrainValidation, rank: int | None, console: Console, distribute: str = LOCAL
) -> Reduced:
    """Reduce the features of a split, or load them from the cache in the store's derived/.

    A reduction that cannot be written to the cache causes a warning.

    Args:
        store: the store of the features.
        split: the training and validation examples.
        rank: number of reduced inputs; None chooses at most `DEFAULT_RANK`.
        console: prints progress and warnings.
        distribute: where to compute a sketch: `local`, or an address of Ray.

    Raises:
        UsageError: the rank exceeds the number of distinct training rows or of inputs.
        HeadstartError: all training features are zero.
    """
    train, validation = list_unique(split.train), list_unique(split.validation)
    num_inputs = int(np.prod(store.feature_shape))
    rank = choose_rank(rank, len(train.examples), num_inputs)
    # If the rank is the number of inputs, a sketch is exact too, and cheaper: its Gram matrix has a row for each input.
    is_exact = len(train.examples) <= MAX_EXACT_ROWS and rank < num_inputs
    key = make_key(store, [train.examples, validation.examples], rank)
    folder = store.derived_folder
    factors = get(folder, key, Factors, console)
    directions = None if is_exact or factors is None else get(folder, key, Directions, console)
    if factors and (is_exact or directions):
        return Reduced(factors, directions, train, validation, key, rank, from_cache=True)
    # Their space may be needed before `put` would remove them.
    remove_abandoned(folder)
    job = _Job(store, train.examples, validation.examples, rank, key, is_exact, distribute)
    factors, found = _reduce(job, console)
    directions = None if is_exact else found
    try:
        # The directions are written first, because factors without directions are useless.
        if directions:
            put(folder, key, directions)
        put(folder, key, factors)
    except OSError as error:
        console.warning(f"{folder}: the reduction was not cached ({error}). The next run computes it again")
    return Reduced(factors, directions, train, validation, key, rank, from_cache=False)


@dataclass(frozen=True)
class _Job:
    """Reduction to compute."""

    store: FeatureStore
    train: Sequence[Example]
    """Distinct rows."""
    validation: Sequence[Example]
    """Distinct rows."""
    rank: int
    key: str
    is_exact: bool
    distribute: str
    """Where to compute a sketch: `local`, or an address of Ray."""

    def create(self, name: str, shape: tuple[int, int]) -> Matrix:
        """Create a matrix of the factors, or a temporary one with the name ""."""
        return create_matrix(shape, self.store.derived_folder, name and name_rows(self.key, name))


def _reduce(job: _Job, console: Console) -> tuple[Factors, Directions | None]:
    """Compute the reduction, and its directions V if they project the validation features.

    If an exact reduction keeps all rows, V is as large as the training features. X_val V = X_val Xᵀ Z diag(1 / λ) is
    then computed from the products of the rows.
    """
    with open_workers() as workers:
        rows = FeatureMatrix(job.store, job.train, workers)
        basis: Basis[Any]
        if job.is_exact:
            basis = decompose_exactly(rows, job.rank)
        else:
            if rows.is_large:
                with console.progress("sort", rows.num_rows, "rows") as progress:
                    rows.sort(progress.advance)
            with console.progress("reduce", 2 * rows.num_rows, "rows") as progress:

                def create(shape: tuple[int, int], is_kept: bool) -> Matrix:
                    return job.create("train" if is_kept else "", shape)

                with open_products(job.distribute, workers) as products:
                    means = SketchMeans(products, create, progress.advance)
                    basis = sketch_rows(rows, job.rank, SKETCH_SEED, means)
        eigenvalues = basis.eigenvalues.astype(np.float32)
        others, directions = FeatureMatrix(job.store, job.validation, workers), basis.directions
        if job.is_exact and job.rank == rows.num_rows:
            coefficients = basis.train[:] / basis.eigenvalues
            projected = np.asarray(others.multiply_rows(rows) @ coefficients, np.float32)
            return Factors(basis.train, projected, eigenvalues), None
        if directions is None:
            directions = rows.multiply_transposed(basis.train[:] / eigenvalues)
        del rows
        validation = job.create("validation", (others.num_rows, directions.shape[1]))
        others.multiply_into(directions, validation)
        return Factors(basis.train, validation, eigenvalues), Directions(directions)
