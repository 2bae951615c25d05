"""Leading singular vectors of the training features: exactly, and by a sketch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError
from features.store import Example, FeatureStore
from tests.errors import raises
from tests.train_head.reduction.matrices import Float64Array, make_matrix_store, use_small_blocks
from train_head.data.batches import Array
from train_head.reduction.decompose import (
    OVERSAMPLING,
    Basis,
    SketchMeans,
    decompose_exactly,
    find_signs,
    reduce_gram,
    sketch,
    sketch_rows,
)
from train_head.reduction.matrix import FeatureMatrix, Products, open_workers

pytestmark = pytest.mark.unit

NUM_COLUMNS = 60


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, Float64Array]:
    """Store of 23 features with 60 inputs, whose mean is not zero, and the same matrix."""
    values = np.random.default_rng(1).normal(0.5, 1, (23, NUM_COLUMNS))
    return make_matrix_store(tmp_path_factory.mktemp("rows") / "store", values)


def draw_decaying(num_rows: int, num_columns: int, spectrum: NDArray[Any]) -> Float64Array:
    """Draw a matrix with these singular values and random singular vectors."""
    rng = np.random.default_rng(5)
    left, _ = np.linalg.qr(rng.normal(size=(num_rows, len(spectrum))))
    right, _ = np.linalg.qr(rng.normal(size=(num_columns, len(spectrum))))
    return np.asarray(left * spectrum @ right.T)


@pytest.fixture(scope="module")
def decaying(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, Float64Array]:
    """Store of 80 rows and 100 inputs whose singular values fall like 1 / number, and the same matrix."""
    values = draw_decaying(80, 100, 100 / np.arange(1, 81))
    return make_matrix_store(tmp_path_factory.mktemp("decaying") / "store", values)


@pytest.fixture
def open_matrix() -> Iterator[Any]:
    """Function that opens the feature matrix of a store, or of some of its examples."""
    with open_workers() as workers:

        def open_one(store: FeatureStore, examples: Sequence[Example] | None = None) -> FeatureMatrix:
            return FeatureMatrix(store, store.examples if examples is None else examples, workers)

        yield open_one


def compute_directions(dense: Float64Array, basis: Basis[Array]) -> Float64Array:
    """Return V, from the basis or from its definition."""
    if basis.directions is not None:
        return basis.directions.astype(np.float64)
    return np.asarray(dense.T @ basis.train / basis.eigenvalues)


def measure_error(dense: Float64Array, basis: Basis[Array]) -> float:
    """Return the Frobenius norm of X - X V Vᵀ."""
    return float(np.linalg.norm(dense - basis.train @ compute_directions(dense, basis).T))


@pytest.mark.parametrize("small_blocks", [False, True])
def test_decompose_exactly_at_full_rank_keeps_all_scalar_products(
    stored: tuple[FeatureStore, Float64Array], open_matrix: Any, monkeypatch: pytest.MonkeyPatch, small_blocks: bool
) -> None:
    store, dense = stored
    if small_blocks:
        use_small_blocks(monkeypatch, NUM_COLUMNS)
    basis = decompose_exactly(open_matrix(store), 23)
    assert basis.train.shape == (23, 23)
    assert basis.train.dtype == np.float32
    assert basis.directions is None
    np.testing.assert_allclose(basis.eigenvalues, np.linalg.svd(dense, compute_uv=False) ** 2, rtol=1e-5)
    np.testing.assert_allclose(basis.train @ basis.train.T, dense @ dense.T, atol=1e-4)
    np.testing.assert_allclose((basis.train.astype(np.float64) ** 2).sum(axis=0), basis.eigenvalues, rtol=1e-5)
    directions = compute_directions(dense, basis)
    np.testing.assert_allclose(directions.T @ directions, np.eye(23), atol=1e-5)
    np.testing.assert_allclose(dense @ directions, basis.train, atol=1e-4)
    assert measure_error(dense, basis) < 1e-4


@pytest.mark.parametrize("rank", [1, 5, 22])
def test_decompose_exactly_below_full_rank_is_the_best_approximation(
    stored: tuple[FeatureStore, Float64Array], open_matrix: Any, rank: int
) -> None:
    store, dense = stored
    basis = decompose_exactly(open_matrix(store), rank)
    values = np.linalg.svd(dense, compute_uv=False)
    assert basis.train.shape == (23, rank)
    np.testing.assert_allclose(basis.eigenvalues, values[:rank] ** 2, rtol=1e-5)
    # Eckart and Young 1936: no matrix of this rank is nearer.
    assert measure_error(dense, basis) == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-5)


def test_decompose_exactly_of_repeated_rows_finds_fewer_directions(
    stored: tuple[FeatureStore, Float64Array], open_matrix: Any
) -> None:
    store, dense = stored
    repeated = [*range(23), *range(10)]
    basis = decompose_exactly(open_matrix(store, [store.examples[number] for number in repeated]), len(repeated))
    assert basis.train.shape == (33, 23)
    assert np.isfinite(basis.train).all()
    np.testing.assert_allclose(basis.train[23:], basis.train[:10], atol=1e-4)
    np.testing.assert_allclose(basis.train @ basis.train.T, dense[repeated] @ dense[repeated].T, atol=1e-3)


def test_decompose_exactly_of_more_rows_than_inputs_finds_a_direction_per_input(
    tmp_path: Path, open_matrix: Any
) -> None:
    store, dense = make_matrix_store(tmp_path / "store", np.random.default_rng(4).normal(2, 1, (30, 8)))
    basis = decompose_exactly(open_matrix(store), 30)
    assert basis.train.shape == (30, 8)
    np.testing.assert_allclose(basis.eigenvalues, np.linalg.svd(dense, compute_uv=False) ** 2, rtol=1e-4)
    assert measure_error(dense, basis) < 1e-3


@pytest.mark.parametrize(("length", "num_directions"), [(0.0083, 1), (0.0086, 2)])
def test_decompose_exactly_omits_directions_within_the_rounding_errors(
    tmp_path: Path, open_matrix: Any, length: float, num_directions: int
) -> None:
    # 15 rows of length 4 in one direction and a short one in another: λ = 240 and length². The threshold is
    # 10 ε √16 · (240 / 16) = 7.15e-5 = 0.00846².
    values = np.zeros((16, 2))
    values[:15, 0], values[15, 1] = 4, length
    store, _ = make_matrix_store(tmp_path / "store", values)
    assert decompose_exactly(open_matrix(store), 2).train.shape == (16, num_directions)


@pytest.mark.parametrize("is_exact", [True, False], ids=["exact", "sketch"])
def test_decomposition_of_zeros_raises(tmp_path: Path, open_matrix: Any, is_exact: bool) -> None:
    store, _ = make_matrix_store(tmp_path / "store", np.zeros((40, 12)))
    with raises(HeadstartError, where="the training features"):
        decompose_exactly(open_matrix(store), 5) if is_exact else sketch(open_matrix(store), 5, seed=0)


@pytest.mark.parametrize(("rank", "small_blocks"), [(1, False), (10, True), (30, False)])
def test_sketch_of_a_decaying_spectrum_is_nearly_the_best_approximation(
    decaying: tuple[FeatureStore, Float64Array],
    open_matrix: Any,
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    small_blocks: bool,
) -> None:
    store, dense = decaying
    if small_blocks:
        use_small_blocks(monkeypatch, 100, 11)
    basis = sketch(open_matrix(store), rank, seed=0)
    assert basis.directions is not None
    assert basis.directions.shape == (100, rank)
    assert basis.directions.dtype == basis.train.dtype == np.float32
    directions = basis.directions.astype(np.float64)
    np.testing.assert_allclose(directions.T @ directions, np.eye(rank), atol=1e-5)
    np.testing.assert_allclose(basis.train, dense @ directions, atol=1e-4)
    best = np.linalg.svd(dense, compute_uv=False)[:rank] ** 2
    found = (basis.train.astype(np.float64) ** 2).sum(axis=0)
    assert 0.99 * best.sum() <= found.sum() <= best.sum() * (1 + 1e-5)
    np.testing.assert_allclose(basis.eigenvalues, found, rtol=1e-4)
    assert np.all(np.diff(basis.eigenvalues) <= 0)
    # The last directions are accurate too, because of the oversampling.
    np.testing.assert_allclose(found, best, rtol=0.1)


def test_sketch_of_a_steep_spectrum_is_orthonormal_and_accurate(tmp_path: Path, open_matrix: Any) -> None:
    store, dense = make_matrix_store(tmp_path / "store", draw_decaying(80, 200, np.logspace(3, -6, 80)))
    basis = sketch(open_matrix(store), 60, seed=0)
    assert basis.directions is not None
    num_directions = basis.directions.shape[1]
    np.testing.assert_allclose(basis.directions.T @ basis.directions, np.eye(num_directions), atol=1e-5)
    np.testing.assert_allclose(basis.train, dense @ basis.directions, atol=1e-3)
    best = np.linalg.svd(dense, compute_uv=False) ** 2
    # Directions weaker than a hundredth of the strongest are within its rounding errors, and may be left out.
    num_strong = int(np.sum(best > 1e-4 * best[0]))
    assert 10 < num_strong <= num_directions <= 60
    np.testing.assert_allclose(basis.eigenvalues[:num_strong], best[:num_strong], rtol=0.01)


def test_sketch_of_few_dimensions_finds_no_more(tmp_path: Path, open_matrix: Any) -> None:
    rng = np.random.default_rng(6)
    # Integers below 2,048 are exact in float16, so that the rank is exact too.
    values = rng.integers(-3, 4, (70, 6)) @ rng.integers(-3, 4, (6, 80))
    store, dense = make_matrix_store(tmp_path / "store", values)
    assert np.linalg.matrix_rank(dense) == 6
    basis = sketch(open_matrix(store), 20, seed=0)
    assert basis.directions is not None
    assert basis.directions.shape == (80, 6)
    assert np.isfinite(basis.train).all()
    np.testing.assert_allclose(basis.train @ basis.directions.T, dense, atol=1e-3)


def test_sketch_of_fewer_inputs_than_directions_is_exact(tmp_path: Path, open_matrix: Any) -> None:
    store, dense = make_matrix_store(tmp_path / "store", np.random.default_rng(7).normal(1, 1, (70, OVERSAMPLING // 2)))
    basis = sketch(open_matrix(store), 70, seed=0)
    assert basis.directions is not None
    assert basis.directions.shape == (16, 16)
    np.testing.assert_allclose(basis.eigenvalues, np.linalg.svd(dense, compute_uv=False) ** 2, rtol=1e-5)
    np.testing.assert_allclose(basis.train @ basis.directions.T, dense, atol=1e-4)


def test_sketch_depends_on_the_seed_alone(
    decaying: tuple[FeatureStore, Float64Array], open_matrix: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(seed: int) -> list[NDArray[Any]]:
        basis = sketch(open_matrix(decaying[0]), 8, seed)
        assert basis.directions is not None
        return [basis.train, basis.eigenvalues, basis.directions]

    first, other = run(3), run(4)
    for mine, again in zip(run(3), first, strict=True):
        np.testing.assert_array_equal(mine, again)
    assert not np.array_equal(first[2], other[2])
    np.testing.assert_allclose(other[1], first[1], rtol=0.01)
    # Rotations in small chunks give the same values.
    monkeypatch.setattr("train_head.reduction.decompose.CHUNK_ROWS", 7)
    for mine, again in zip(run(3), first, strict=True):
        np.testing.assert_allclose(mine, again, rtol=1e-4, atol=1e-4)


def test_sketch_reports_each_row_twice(
    decaying: tuple[FeatureStore, Float64Array], open_matrix: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blocks(monkeypatch, 100, 30)
    reported: list[int] = []
    rows = open_matrix(decaying[0])
    sketch_rows(rows, 8, 0, SketchMeans(Products(rows.workers), advance=reported.append))
    assert reported == [30, 30, 20] * 2


@pytest.mark.parametrize("is_exact", [True, False], ids=["exact", "sketch"])
def test_directions_have_a_positive_largest_component(tmp_path: Path, open_matrix: Any, is_exact: bool) -> None:
    # LAPACK may return an eigenvector or its opposite.
    store, dense = make_matrix_store(tmp_path / "store", np.random.default_rng(8).normal(0.2, 1, (30, 50)))
    basis = decompose_exactly(open_matrix(store), 12) if is_exact else sketch(open_matrix(store), 12, 0)
    assert (basis.directions is None) == is_exact
    columns = basis.train if basis.directions is None else basis.directions
    largest = np.abs(columns).argmax(axis=0)
    assert (columns[largest, np.arange(12)] > 0).all()
    np.testing.assert_allclose(dense @ compute_directions(dense, basis), basis.train, atol=1e-4)


def test_find_signs_makes_the_first_of_equal_largest_components_positive() -> None:
    vectors = np.array([[1.0, -2.0, 0.5, -3.0], [-2.0, 2.0, -0.4, -1.0], [1.5, 1.0, 0.0, 2.0]])
    assert find_signs(vectors).tolist() == [-1, -1, 1, -1]


def test_reduce_gram_keeps_the_inner_products_of_the_centred_rows() -> None:
    wide = np.random.default_rng(0).normal(size=(12, 40))
    reduced = reduce_gram(wide @ wide.T).astype(np.float64)
    centred = wide - wide.mean(axis=0)
    assert reduced.shape == (12, 11)
    assert reduced @ reduced.T == pytest.approx(centred @ centred.T, abs=1e-4)
