"""Products with features block by block, and the directions that are found from them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError
from features.store import Example, FeatureStore
from tests.train_head.synthetic import make_store
from train_head.data.batches import Array
from train_head.reduction.decompose import OVERSAMPLING, Basis, decompose_exactly, find_signs, sketch
from train_head.reduction.matrix import FeatureMatrix, add_transposed, multiply_block

Wide = NDArray[np.float64]
SHAPE = (3, 4, 5)
NUM_COLUMNS = 60
WORKERS = ThreadPoolExecutor(3)


def open_rows(store: FeatureStore, examples: Sequence[Example]) -> FeatureMatrix:
    return FeatureMatrix(store, examples, WORKERS)


def make_rows(folder: Path, values: NDArray[Any], shape: tuple[int, ...] | None = None) -> tuple[FeatureStore, Wide]:
    """A store of these features, and the matrix as the store has it: rounded to float16."""
    paths = [f"train/cats/{number:03}.jpg" for number in range(len(values))]
    rounded = values.astype(np.float16)
    store = make_store(folder, paths, features=rounded.reshape(len(values), *(shape or (1, 1, values.shape[1]))))
    return store, rounded.astype(np.float64)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """23 features of 60 inputs: noise around a mean that is not zero, in three shards."""
    values = np.random.default_rng(1).normal(0.5, 1, (23, NUM_COLUMNS))
    return make_rows(tmp_path_factory.mktemp("rows") / "store", values, SHAPE)[0]


@pytest.fixture(scope="module")
def dense(store: FeatureStore) -> Wide:
    return store.read(store.examples).reshape(-1, NUM_COLUMNS).astype(np.float64)


def force_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows a block, nothing held, seven columns a panel: all with an odd one at the end."""
    monkeypatch.setattr("train_head.reduction.matrix.BLOCK_BYTES", 5 * NUM_COLUMNS * 2)
    monkeypatch.setattr("train_head.reduction.matrix.HELD_BYTES", 0)
    monkeypatch.setattr("train_head.reduction.matrix.PANEL_COLUMNS", 7)


def solve_directions(dense: Wide, basis: Basis) -> Wide:
    """V, kept or from its definition."""
    if basis.directions is not None:
        return basis.directions.astype(np.float64)
    return np.asarray(dense.T @ basis.train / basis.eigenvalues)


def measure_error(dense: Wide, basis: Basis) -> float:
    """How far X V Vᵀ is from X."""
    return float(np.linalg.norm(dense - basis.train @ solve_directions(dense, basis).T))


@pytest.mark.parametrize("blocks", ["one", "several"])
def test_feature_rows_products_equal_numpys_on_the_dense_matrix(
    store: FeatureStore, dense: Wide, monkeypatch: pytest.MonkeyPatch, blocks: str
) -> None:
    if blocks == "several":
        force_blocks(monkeypatch)
    rows = open_rows(store, store.examples)
    assert rows.num_blocks == (1 if blocks == "one" else 5)
    assert (rows.num_rows, rows.num_columns) == (23, NUM_COLUMNS)
    gram = rows.compute_gram()
    assert gram.dtype == np.float64
    np.testing.assert_allclose(gram, dense @ dense.T, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(gram, gram.T)
    rng = np.random.default_rng(2)
    right = rng.normal(size=(NUM_COLUMNS, 4)).astype(np.float32)
    left = rng.normal(size=(23, 4)).astype(np.float32)
    np.testing.assert_allclose(rows.multiply(right), dense @ right, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rows.multiply_transposed(left), dense.T @ left, rtol=1e-5, atol=1e-5)


def test_feature_rows_of_some_examples_in_an_order_of_their_own_follow_it(
    store: FeatureStore, dense: Wide, monkeypatch: pytest.MonkeyPatch
) -> None:
    force_blocks(monkeypatch)
    chosen = [20, 3, 3, 11, 0, 22, 7]
    rows = open_rows(store, [store.examples[number] for number in chosen])
    np.testing.assert_allclose(rows.compute_gram(), dense[chosen] @ dense[chosen].T, rtol=1e-5, atol=1e-4)
    factor = np.eye(NUM_COLUMNS, dtype=np.float32)
    np.testing.assert_array_equal(rows.multiply(factor), dense[chosen])


def test_feature_rows_blocks_hold_each_row_once_and_panels_each_column(
    store: FeatureStore, dense: Wide, monkeypatch: pytest.MonkeyPatch
) -> None:
    force_blocks(monkeypatch)
    found = np.zeros_like(dense)
    rows = open_rows(store, store.examples)
    for block in rows.list_blocks():
        for columns in block.list_panels():
            panel = block.widen(columns)
            assert panel.dtype == np.float32
            found[block.rows, columns] += panel
    np.testing.assert_array_equal(found, dense)
    assert [block.rows for block in rows.list_blocks()] == [slice(n, min(n + 5, 23)) for n in range(0, 23, 5)]


def test_feature_rows_that_fit_are_read_once_and_others_each_time(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = open_rows(store, store.examples)
    assert held.read_block(0) is held.read_block(0)
    force_blocks(monkeypatch)
    beyond = open_rows(store, store.examples)
    assert beyond.read_block(4) is not beyond.read_block(4)


def test_multiply_block_and_add_transposed_equal_numpy(
    store: FeatureStore, dense: Wide, monkeypatch: pytest.MonkeyPatch
) -> None:
    force_blocks(monkeypatch)
    block = open_rows(store, store.examples).read_block(1)
    factor = np.random.default_rng(3).normal(size=(NUM_COLUMNS, 3)).astype(np.float32)
    product = multiply_block(block, factor, WORKERS)
    np.testing.assert_allclose(product, dense[5:10] @ factor, rtol=1e-5, atol=1e-5)
    result = np.ones((NUM_COLUMNS, 3), np.float32)
    add_transposed(block, product, result, WORKERS)
    np.testing.assert_allclose(result, 1 + dense[5:10].T @ product, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("blocks", ["one", "several"])
def test_decompose_exactly_at_full_rank_reproduces_all_scalar_products(
    store: FeatureStore, dense: Wide, monkeypatch: pytest.MonkeyPatch, blocks: str
) -> None:
    if blocks == "several":
        force_blocks(monkeypatch)
    basis = decompose_exactly(open_rows(store, store.examples), 23)
    assert basis.train.shape == (23, 23)
    assert basis.train.dtype == np.float32
    assert basis.directions is None
    np.testing.assert_allclose(basis.eigenvalues, np.linalg.svd(dense, compute_uv=False) ** 2, rtol=1e-5)
    np.testing.assert_allclose(basis.train @ basis.train.T, dense @ dense.T, atol=1e-4)
    np.testing.assert_allclose((basis.train.astype(np.float64) ** 2).sum(axis=0), basis.eigenvalues, rtol=1e-5)
    directions = solve_directions(dense, basis)
    np.testing.assert_allclose(directions.T @ directions, np.eye(23), atol=1e-5)
    np.testing.assert_allclose(dense @ directions, basis.train, atol=1e-4)
    assert measure_error(dense, basis) < 1e-4


@pytest.mark.parametrize("rank", [1, 5, 22])
def test_decompose_exactly_below_full_rank_is_the_best_approximation(
    store: FeatureStore, dense: Wide, rank: int
) -> None:
    basis = decompose_exactly(open_rows(store, store.examples), rank)
    values = np.linalg.svd(dense, compute_uv=False)
    assert basis.train.shape == (23, rank)
    np.testing.assert_allclose(basis.eigenvalues, values[:rank] ** 2, rtol=1e-5)
    # Eckart and Young 1936: no matrix of that rank is nearer.
    assert measure_error(dense, basis) == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-5)


def test_decompose_exactly_of_duplicated_rows_finds_fewer_directions(store: FeatureStore, dense: Wide) -> None:
    doubled = [*range(23), *range(10)]
    basis = decompose_exactly(open_rows(store, [store.examples[number] for number in doubled]), len(doubled))
    assert basis.train.shape == (33, 23)
    assert np.isfinite(basis.train).all()
    np.testing.assert_allclose(basis.train[23:], basis.train[:10], atol=1e-4)
    np.testing.assert_allclose(basis.train @ basis.train.T, dense[doubled] @ dense[doubled].T, atol=1e-3)


def test_decompose_exactly_of_more_rows_than_inputs_finds_as_many_directions_as_inputs(tmp_path: Path) -> None:
    store, dense = make_rows(tmp_path / "store", np.random.default_rng(4).normal(2, 1, (30, 8)))
    basis = decompose_exactly(open_rows(store, store.examples), 30)
    assert basis.train.shape == (30, 8)
    np.testing.assert_allclose(basis.eigenvalues, np.linalg.svd(dense, compute_uv=False) ** 2, rtol=1e-4)
    assert measure_error(dense, basis) < 1e-3


def test_decompose_exactly_of_nothing_but_zeros_says_so(tmp_path: Path) -> None:
    store, _ = make_rows(tmp_path / "store", np.zeros((5, 12)))
    with pytest.raises(
        HeadstartError, match=r"^the training features: expected features that differ from zero, got nothing but zeros"
    ):
        decompose_exactly(open_rows(store, store.examples), 5)


def decay(num_rows: int, num_columns: int, spectrum: NDArray[Any]) -> Wide:
    """A matrix of these singular values in random directions."""
    rng = np.random.default_rng(5)
    left, _ = np.linalg.qr(rng.normal(size=(num_rows, len(spectrum))))
    right, _ = np.linalg.qr(rng.normal(size=(num_columns, len(spectrum))))
    return np.asarray(left * spectrum @ right.T)


@pytest.fixture(scope="module")
def decaying(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """120 rows of 300 inputs whose singular values fall like 1 / number."""
    values = decay(120, 300, 100 / np.arange(1, 121))
    return make_rows(tmp_path_factory.mktemp("decaying") / "store", values)[0]


@pytest.mark.parametrize("blocks", ["one", "several"])
@pytest.mark.parametrize("rank", [1, 10, 40])
def test_sketch_of_a_decaying_spectrum_captures_nearly_the_best_energy(
    decaying: FeatureStore, monkeypatch: pytest.MonkeyPatch, rank: int, blocks: str
) -> None:
    if blocks == "several":
        force_blocks(monkeypatch)
    dense = decaying.read(decaying.examples).reshape(120, 300).astype(np.float64)
    basis = sketch(open_rows(decaying, decaying.examples), rank, seed=0)
    assert basis.directions is not None
    assert basis.directions.shape == (300, rank)
    directions = basis.directions.astype(np.float64)
    np.testing.assert_allclose(directions.T @ directions, np.eye(rank), atol=1e-5)
    np.testing.assert_allclose(basis.train, dense @ directions, atol=1e-4)
    best = np.linalg.svd(dense, compute_uv=False)[:rank] ** 2
    found = (basis.train.astype(np.float64) ** 2).sum(axis=0)
    assert 0.99 * best.sum() <= found.sum() <= best.sum() * (1 + 1e-5)
    np.testing.assert_allclose(basis.eigenvalues, found, rtol=1e-4)
    assert np.all(np.diff(basis.eigenvalues) <= 0)
    # Strongest first, each nearly as strong as it could be: the last ones are what the oversampling is for.
    np.testing.assert_allclose(found, best, rtol=0.1)


def test_sketch_of_a_steep_spectrum_has_orthonormal_directions_down_to_a_hundredth(tmp_path: Path) -> None:
    store, dense = make_rows(tmp_path / "store", decay(80, 200, np.logspace(3, -6, 80)))
    basis = sketch(open_rows(store, store.examples), 60, seed=0)
    assert basis.directions is not None
    num_directions = basis.directions.shape[1]
    np.testing.assert_allclose(basis.directions.T @ basis.directions, np.eye(num_directions), atol=1e-5)
    np.testing.assert_allclose(basis.train, dense @ basis.directions, atol=1e-3)
    best = np.linalg.svd(dense, compute_uv=False) ** 2
    # Far weaker ones drown in the rounding of the strongest, and may be left out.
    num_strong = int(np.sum(best > 1e-4 * best[0]))
    assert 10 < num_strong <= num_directions <= 60
    np.testing.assert_allclose(basis.eigenvalues[:num_strong], best[:num_strong], rtol=0.01)


def test_sketch_of_few_dimensions_finds_no_more_than_there_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    # Whole numbers below 2,048 are exact in float16, so that the rank is exact too.
    values = rng.integers(-3, 4, (90, 6)) @ rng.integers(-3, 4, (6, 150))
    store, dense = make_rows(tmp_path / "store", values)
    assert np.linalg.matrix_rank(dense) == 6
    basis = sketch(open_rows(store, store.examples), 20, seed=0)
    assert basis.directions is not None
    assert basis.directions.shape == (150, 6)
    assert np.isfinite(basis.train).all()
    np.testing.assert_allclose(basis.train @ basis.directions.T, dense, atol=1e-3)


def test_sketch_with_more_directions_than_inputs_is_exact(tmp_path: Path) -> None:
    store, dense = make_rows(tmp_path / "store", np.random.default_rng(7).normal(1, 1, (90, OVERSAMPLING // 2)))
    basis = sketch(open_rows(store, store.examples), 90, seed=0)
    assert basis.directions is not None
    assert basis.directions.shape == (16, 16)
    np.testing.assert_allclose(basis.eigenvalues, np.linalg.svd(dense, compute_uv=False) ** 2, rtol=1e-5)
    np.testing.assert_allclose(basis.train @ basis.directions.T, dense, atol=1e-4)


def test_sketch_twice_with_a_seed_gives_the_same_bits_and_another_seed_nearly_the_same_space(
    decaying: FeatureStore,
) -> None:
    def run(seed: int) -> tuple[Array, Wide, Array]:
        basis = sketch(open_rows(decaying, decaying.examples), 8, seed)
        assert basis.directions is not None
        return basis.train, basis.eigenvalues, basis.directions

    for mine, again in zip(run(3), run(3), strict=True):
        np.testing.assert_array_equal(mine, again)
    assert not np.array_equal(run(3)[2], run(4)[2])
    np.testing.assert_allclose(run(4)[1], run(3)[1], rtol=0.01)


def test_sketch_advances_by_every_row_twice(decaying: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    force_blocks(monkeypatch)
    advanced: list[int] = []
    sketch(open_rows(decaying, decaying.examples), 8, 0, advanced.append)
    assert advanced == [1] * 240


def test_sketch_of_nothing_but_zeros_says_so(tmp_path: Path) -> None:
    store, _ = make_rows(tmp_path / "store", np.zeros((40, 12)))
    with pytest.raises(
        HeadstartError, match=r"^the training features: expected features that differ from zero, got nothing but zeros"
    ):
        sketch(open_rows(store, store.examples), 5, seed=0)


@pytest.mark.parametrize("way", ["exact", "sketch"])
def test_directions_have_their_largest_component_positive(tmp_path: Path, way: str) -> None:
    # An eigenvector and its opposite are both right. Which one LAPACK gives must not decide a head.
    store, dense = make_rows(tmp_path / "store", np.random.default_rng(8).normal(0.2, 1, (30, 50)))
    rows = open_rows(store, store.examples)
    basis = decompose_exactly(rows, 12) if way == "exact" else sketch(rows, 12, 0)
    columns = basis.train if basis.directions is None else basis.directions
    largest = np.abs(columns).argmax(axis=0)
    assert (columns[largest, np.arange(12)] > 0).all()
    np.testing.assert_allclose(dense @ solve_directions(dense, basis), basis.train, atol=1e-4)


def test_find_signs_makes_the_first_of_the_largest_components_positive() -> None:
    vectors = np.array([[1.0, -2.0, 0.5, -3.0], [-2.0, 2.0, -0.4, -1.0], [1.5, 1.0, 0.0, 2.0]])
    assert find_signs(vectors).tolist() == [-1, -1, 1, -1]
