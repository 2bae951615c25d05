"""The feature matrix: blocks and panels, and products with it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from features.store import FeatureStore
from tests.train_head.reduction.matrices import Float64Array, make_matrix_store, use_small_blocks
from train_head.reduction.matrix import FeatureMatrix, add_transposed, multiply_block, open_workers, sum_in_order

pytestmark = pytest.mark.unit

NUM_ROWS, NUM_COLUMNS = 23, 60


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, Float64Array]:
    """Store of 23 features with 60 inputs, whose mean is not zero, and the same matrix."""
    values = np.random.default_rng(1).normal(0.5, 1, (NUM_ROWS, NUM_COLUMNS))
    return make_matrix_store(tmp_path_factory.mktemp("matrix") / "store", values, (3, 4, 5))


@pytest.fixture(scope="module")
def store(stored: tuple[FeatureStore, Float64Array]) -> FeatureStore:
    return stored[0]


@pytest.fixture(scope="module")
def dense(stored: tuple[FeatureStore, Float64Array]) -> Float64Array:
    return stored[1]


@pytest.fixture
def workers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


@pytest.mark.parametrize("num_blocks", [1, 5])
def test_feature_matrix_products_equal_numpy_on_the_dense_matrix(
    store: FeatureStore,
    dense: Float64Array,
    workers: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    num_blocks: int,
) -> None:
    if num_blocks > 1:
        use_small_blocks(monkeypatch, NUM_COLUMNS)
    matrix = FeatureMatrix(store, store.examples, workers)
    assert matrix.num_blocks == num_blocks
    assert (matrix.num_rows, matrix.num_columns) == (NUM_ROWS, NUM_COLUMNS)
    gram = matrix.compute_gram()
    assert gram.dtype == np.float64
    np.testing.assert_allclose(gram, dense @ dense.T, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(gram, gram.T)
    rng = np.random.default_rng(2)
    right = rng.normal(size=(NUM_COLUMNS, 4)).astype(np.float32)
    left = rng.normal(size=(NUM_ROWS, 4)).astype(np.float32)
    product, transposed = matrix.multiply(right), matrix.multiply_transposed(left)
    assert product.dtype == transposed.dtype == np.float32
    np.testing.assert_allclose(product, dense @ right, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(transposed, dense.T @ left, rtol=1e-5, atol=1e-5)


def test_feature_matrix_has_the_rows_in_the_order_of_the_examples(
    store: FeatureStore, dense: Float64Array, workers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blocks(monkeypatch, NUM_COLUMNS)
    chosen = [20, 3, 3, 11, 0, 22, 7]
    matrix = FeatureMatrix(store, [store.examples[number] for number in chosen], workers)
    np.testing.assert_allclose(matrix.compute_gram(), dense[chosen] @ dense[chosen].T, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(matrix.multiply(np.eye(NUM_COLUMNS, dtype=np.float32)), dense[chosen])


def test_feature_matrix_blocks_and_panels_cover_each_number_once(
    store: FeatureStore, dense: Float64Array, workers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blocks(monkeypatch, NUM_COLUMNS)
    found = np.zeros_like(dense)
    matrix = FeatureMatrix(store, store.examples, workers)
    for block in matrix.list_blocks():
        panels = block.list_panels()
        assert [panel.start for panel in panels] == list(range(0, NUM_COLUMNS, 7))
        for columns in panels:
            panel = block.widen(columns)
            assert panel.dtype == np.float32
            found[block.rows, columns] += panel
    np.testing.assert_array_equal(found, dense)
    assert [block.rows for block in matrix.list_blocks()] == [slice(n, min(n + 5, 23)) for n in range(0, 23, 5)]


@pytest.mark.parametrize("missing_bytes", [0, 1])
def test_feature_matrix_stays_in_memory_up_to_the_limit(
    store: FeatureStore, workers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, missing_bytes: int
) -> None:
    use_small_blocks(monkeypatch, NUM_COLUMNS)
    monkeypatch.setattr("train_head.reduction.matrix.HELD_BYTES", NUM_ROWS * NUM_COLUMNS * 2 - missing_bytes)
    matrix = FeatureMatrix(store, store.examples, workers)
    assert (matrix.read_block(4) is matrix.read_block(4)) == (missing_bytes == 0)


def test_feature_matrix_reads_at_least_one_row_a_block(
    store: FeatureStore, workers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_head.reduction.matrix.BLOCK_BYTES", 1)
    assert FeatureMatrix(store, store.examples, workers).num_blocks == NUM_ROWS


def test_multiply_block_and_add_transposed_equal_numpy(
    store: FeatureStore, dense: Float64Array, workers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blocks(monkeypatch, NUM_COLUMNS)
    block = FeatureMatrix(store, store.examples, workers).read_block(1)
    factor = np.random.default_rng(3).normal(size=(NUM_COLUMNS, 3)).astype(np.float32)
    product = multiply_block(block, factor, workers)
    np.testing.assert_allclose(product, dense[5:10] @ factor, rtol=1e-5, atol=1e-5)
    result = np.ones((NUM_COLUMNS, 3), np.float32)
    add_transposed(block, product, result, workers)
    np.testing.assert_allclose(result, 1 + dense[5:10].T @ product, rtol=1e-5, atol=1e-4)


def test_sum_in_order_adds_in_the_order_of_the_pieces(workers: ThreadPoolExecutor) -> None:
    # Float32 sums depend on the order: adding 1 to 2**24 has no effect, unless -2**24 comes first.
    pieces = [2.0**24, -(2.0**24), 1.0]
    sums = [
        float(sum_in_order(workers, lambda piece: np.full(1, piece, np.float32), order, np.zeros(1, np.float32))[0])
        for order in (pieces, [pieces[0], pieces[2], pieces[1]])
    ]
    assert sums == [1.0, 0.0]


def test_open_workers_limits_blas_to_one_thread() -> None:
    with open_workers() as workers:
        inside = [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]
        assert list(workers.map(abs, [-1, -2])) == [1, 2]
    assert set(inside) == {1}
