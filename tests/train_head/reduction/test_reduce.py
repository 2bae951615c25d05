"""Reduced features: scalar products, the cache, reproducible bits, and the expansion of kernels."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError, UsageError
from base.files import hash_file
from base.terminal import Console
from features.options import Compression
from features.packed.write import pack_store
from features.shards.shard import SHARD_FOLDER
from features.store import Example, FeatureStore
from tests.errors import count_warnings, raises
from tests.files import limit_file_size
from tests.train_head.reduction.matrices import Float64Array, use_small_blocks
from tests.train_head.synthetic import FINGERPRINT, hash_text, list_paths, make_example, make_store
from train_head.data.split import split_examples
from train_head.reduction.reduce import (
    Reduced,
    TrainValidation,
    choose_rank,
    list_unique,
    reduce_features,
)

pytestmark = pytest.mark.unit

SHAPE = (4, 4, 3)
PATHS = list_paths({"train/cats": 12, "train/dogs": 11, "validation/cats": 4, "validation/dogs": 5})
NUM_TRAIN, NUM_VALIDATION = 23, 9
VALUES = np.random.default_rng(1).normal(0.5, 1, (len(PATHS), *SHAPE))


@pytest.fixture(scope="module")
def _stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("reduce") / "store", PATHS, features=VALUES, rows_per_shard=5).path


@pytest.fixture
def store(_stored: Path, tmp_path: Path) -> FeatureStore:
    """Copy of a store with 23 training and 9 validation pictures of 48 inputs, five a shard."""
    return FeatureStore(shutil.copytree(_stored, tmp_path / "store"))


@pytest.fixture(params=["exact", "sketch"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Method of the decomposition, which `MAX_EXACT_ROWS` selects."""
    if request.param == "sketch":
        force_sketch(monkeypatch)
    else:
        monkeypatch.setattr("train_head.reduction.reduce.MAX_EXACT_ROWS", NUM_TRAIN)
    return str(request.param)


def split(store: FeatureStore) -> TrainValidation:
    found = split_examples(store.examples, 0.2)
    return TrainValidation(found.train, found.validation)


def read_dense(store: FeatureStore, examples: Sequence[Example]) -> Float64Array:
    return store.read(examples).reshape(len(examples), -1).astype(np.float64)


def list_reduced(reduced: Reduced) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return reduced training and validation features in the order of the given examples."""
    return reduced.factors.train[reduced.train.rows], reduced.factors.validation[reduced.validation.rows]


def expand_kernel(store: FeatureStore, reduced: Reduced, kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Expand a kernel to all inputs through the expansion that a run saves."""
    return reduced.make_expansion(store, kernel).expand_kernel(store, kernel)


def compute_directions(store: FeatureStore, reduced: Reduced) -> Float64Array:
    """Return V, from the reduction or from its definition."""
    if reduced.directions:
        return reduced.directions.directions.astype(np.float64)
    dense, factors = read_dense(store, reduced.train.examples), reduced.factors
    return np.asarray(dense.T @ factors.train[:] / factors.eigenvalues)


def list_cached(store: FeatureStore) -> list[Path]:
    return sorted(store.derived_folder.iterdir())


def force_sketch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.reduction.reduce.MAX_EXACT_ROWS", NUM_TRAIN - 1)


def assert_same_reduction(mine: Reduced, theirs: Reduced) -> None:
    for found, expected in zip(list_reduced(mine), list_reduced(theirs), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (mine.key, mine.rank) == (theirs.key, theirs.rank)


@pytest.mark.parametrize("small_blocks", [False, True])
def test_reduce_features_at_full_rank_keeps_scalar_products_in_the_given_order(
    store: FeatureStore, quiet: Console, monkeypatch: pytest.MonkeyPatch, method: str, small_blocks: bool
) -> None:
    if small_blocks:
        use_small_blocks(monkeypatch, 48, 4)
    parts = split(store)
    # This is neither the order of the hashes nor that of the shards.
    parts = replace(parts, train=parts.train[::-1], validation=[*parts.validation[3:], *parts.validation[:3]])
    reduced = reduce_features(store, parts, None, quiet)
    assert (reduced.rank, reduced.from_cache) == (NUM_TRAIN, False)
    train, validation = list_reduced(reduced)
    assert train.shape == (NUM_TRAIN, NUM_TRAIN)
    assert validation.shape == (NUM_VALIDATION, NUM_TRAIN)
    assert train.dtype == validation.dtype == np.float32
    dense, val_dense = read_dense(store, parts.train), read_dense(store, parts.validation)
    np.testing.assert_allclose(train @ train.T, dense @ dense.T, atol=2e-4)
    np.testing.assert_allclose(validation @ train.T, val_dense @ dense.T, atol=2e-4)
    kinds = ["factors"] if method == "exact" else ["directions", "factors"]
    assert [path.name.split("-")[:2] for path in list_cached(store)] == [[kind, reduced.key[:32]] for kind in kinds]


@pytest.mark.parametrize("rank", [1, 10, None])
def test_reduce_features_projects_training_and_validation_on_the_same_directions(
    store: FeatureStore, quiet: Console, method: str, rank: int | None
) -> None:
    parts = split(store)
    reduced = reduce_features(store, parts, rank, quiet)
    assert (reduced.directions is None) == (method == "exact")
    directions = compute_directions(store, reduced)
    num_kept = rank or NUM_TRAIN
    np.testing.assert_allclose(directions.T @ directions, np.eye(num_kept), atol=1e-5)
    train, validation = list_reduced(reduced)
    np.testing.assert_allclose(train, read_dense(store, parts.train) @ directions, atol=1e-4)
    np.testing.assert_allclose(validation, read_dense(store, parts.validation) @ directions, atol=1e-4)
    best = np.linalg.svd(read_dense(store, parts.train), compute_uv=False)[:num_kept] ** 2
    np.testing.assert_allclose(reduced.factors.eigenvalues, best, rtol=1e-4)


@pytest.mark.parametrize(("rank", "small_blocks"), [(10, True), (None, False)])
def test_expand_kernel_gives_equal_products_on_all_inputs(
    store: FeatureStore,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    rank: int | None,
    small_blocks: bool,
) -> None:
    if small_blocks:
        use_small_blocks(monkeypatch, 48, 4)
    parts = split(store)
    reduced = reduce_features(store, parts, rank, quiet)
    kernel = np.random.default_rng(2).normal(size=(len(reduced.factors.eigenvalues), 6)).astype(np.float32)
    expanded = expand_kernel(store, reduced, kernel)
    assert expanded.dtype == np.float32
    np.testing.assert_allclose(expanded, compute_directions(store, reduced) @ kernel, atol=1e-4)
    for examples, inputs in zip((parts.train, parts.validation), list_reduced(reduced), strict=True):
        expected = inputs @ kernel
        difference = np.abs(read_dense(store, examples) @ expanded - expected).max()
        assert difference < 1e-4 * np.abs(expected).max()
    shutil.rmtree(store.derived_folder)
    again = reduce_features(store, parts, rank, quiet)
    assert_same_reduction(again, reduced)
    np.testing.assert_array_equal(expand_kernel(store, again, kernel), expanded)


def test_reduce_features_from_the_cache_reads_no_shard(
    store: FeatureStore, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    first = reduce_features(store, split(store), 10, quiet)
    shutil.rmtree(store.path / SHARD_FOLDER)
    with pytest.raises(HeadstartError):
        store.read(store.examples[:1])
    again = reduce_features(FeatureStore(store.path), split(store), 10, quiet)
    assert (first.from_cache, again.from_cache) == (False, True)
    assert again.rank == 10
    assert_same_reduction(again, first)
    assert capsys.readouterr().err == ""


def test_expand_kernel_of_a_sketch_reads_no_shard(
    store: FeatureStore, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    force_sketch(monkeypatch)
    reduced = reduce_features(store, split(store), 10, quiet)
    directions = compute_directions(store, reduced)
    kernel = np.random.default_rng(2).normal(size=(10, 6)).astype(np.float32)
    expansion = reduced.make_expansion(store, kernel)
    shutil.rmtree(store.path / SHARD_FOLDER)
    np.testing.assert_allclose(expansion.expand_kernel(store, kernel), directions @ kernel, atol=1e-5)


@pytest.mark.parametrize("problem", ["missing", "damaged"])
@pytest.mark.parametrize("kind", ["factors", "directions"])
def test_reduce_features_with_half_of_a_cached_sketch_computes_it_again(
    store: FeatureStore,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    problem: str,
) -> None:
    force_sketch(monkeypatch)
    first = reduce_features(store, split(store), 10, quiet)
    kept = {path: path.read_bytes() for path in list_cached(store)}
    (path,) = store.derived_folder.glob(f"{kind}-*")
    if problem == "missing":
        path.unlink()
    else:
        flip_a_bit(path, path)
    again = reduce_features(store, split(store), 10, quiet)
    assert not again.from_cache
    assert_same_reduction(again, first)
    assert count_warnings(path, capsys) == (problem == "damaged")
    assert {path: path.read_bytes() for path in list_cached(store)} == kept
    assert reduce_features(store, split(store), 10, quiet).from_cache


def truncate(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path, _: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1000] ^= 16
    path.write_bytes(data)


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def replace_by_other(path: Path, other: Path) -> None:
    """Replace a file by a copy of a file with another key, named as if it had the key of the replaced file."""
    key = path.name.split("-")[1]
    path.unlink()
    shutil.copy(other, path.with_name(f"factors-{key}-{hash_file(other)}.npz"))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, replace_by_other])
def test_reduce_features_with_damaged_factors_warns_and_computes_them_again(
    store: FeatureStore,
    quiet: Console,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path, Path], None],
) -> None:
    first = reduce_features(store, split(store), 10, quiet)
    (path,) = list_cached(store)
    intact = path.read_bytes()
    reduce_features(store, split(store), 9, quiet)
    (other,) = set(list_cached(store)) - {path}
    damage(path, other)
    again = reduce_features(store, split(store), 10, quiet)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {path.parent}/factors-{first.key[:32]}-")
    assert not again.from_cache
    assert_same_reduction(again, first)
    assert list_cached(store) == sorted([path, other])
    assert path.read_bytes() == intact
    assert reduce_features(store, split(store), 10, quiet).from_cache


def test_reduce_features_without_a_cache_folder_warns_and_continues(
    store: FeatureStore, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    first = reduce_features(store, split(store), 10, quiet)
    shutil.rmtree(store.derived_folder)
    store.derived_folder.write_text("a file")
    for _ in range(2):
        again = reduce_features(store, split(store), 10, quiet)
        assert_same_reduction(again, first)
        assert not again.from_cache
        assert count_warnings(store.derived_folder, capsys) == 1
    assert store.derived_folder.read_text() == "a file"


def test_reduce_features_on_a_full_disk_warns_and_leaves_no_files(
    store: FeatureStore, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    abandoned = store.derived_folder / f".partial-rows-{'0' * 32}-999999999"
    abandoned.parent.mkdir()
    abandoned.touch()
    os.utime(abandoned, (1, 1))
    with limit_file_size(1500):
        reduced = reduce_features(store, split(store), 10, quiet)
    assert count_warnings(store.derived_folder, capsys) == 1
    assert list_cached(store) == []
    assert_same_reduction(reduce_features(store, split(store), 10, quiet), reduced)
    assert len(list_cached(store)) == 1


def test_reduce_features_beyond_the_cap_keeps_the_newest_factors(
    store: FeatureStore, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_head.reduction.cache.MAX_CACHE_BYTES", 0)
    for rank in (10, 9):
        assert not reduce_features(store, split(store), rank, quiet).from_cache
    assert reduce_features(store, split(store), 9, quiet).from_cache
    assert len(list_cached(store)) == 1
    assert not reduce_features(store, split(store), 10, quiet).from_cache


def rearrange(folder: Path) -> FeatureStore:
    """Make a store with the same contents and splits, but other names, labels, order and shards."""
    order = np.random.default_rng(3).permutation(len(PATHS))
    other_label = {"cats": "dogs", "dogs": "cats"}
    paths = [
        f"{PATHS[n].split('/')[0]}/{other_label[PATHS[n].split('/')[1]]}/renamed {place}.jpg"
        for place, n in enumerate(order)
    ]
    contents = [hash_text(PATHS[n]) for n in order]
    return make_store(folder, paths, features=VALUES[order], contents=contents, rows_per_shard=7)


@pytest.mark.parametrize("small_blocks", [False, True])
def test_reduce_features_of_the_same_contents_in_another_store_gives_the_same_bits(
    store: FeatureStore,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    small_blocks: bool,
) -> None:
    if small_blocks:
        use_small_blocks(monkeypatch, 48, 4)
    first = reduce_features(store, split(store), 10, quiet)
    other = rearrange(tmp_path / "other")
    reduced = reduce_features(other, split(other), 10, quiet)
    for name in ("train", "validation", "eigenvalues"):
        np.testing.assert_array_equal(getattr(reduced.factors, name), getattr(first.factors, name))
    kernel = np.random.default_rng(2).normal(size=(10, 6)).astype(np.float32)
    np.testing.assert_array_equal(expand_kernel(other, reduced, kernel), expand_kernel(store, first, kernel))


def test_reduce_features_does_not_use_factors_of_other_features(
    store: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    reduce_features(store, split(store), None, quiet)
    again = make_store(tmp_path / "again", PATHS, features=VALUES * 1.001, rows_per_shard=5)
    shutil.copytree(store.derived_folder, again.derived_folder)
    reduced = reduce_features(again, split(again), None, quiet)
    assert not reduced.from_cache
    train = read_dense(again, split(again).train)
    np.testing.assert_allclose(list_reduced(reduced)[0] @ list_reduced(reduced)[0].T, train @ train.T, atol=2e-4)


def test_reduce_features_with_a_rank_of_all_inputs_is_an_exact_sketch(
    store: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    few = make_store(tmp_path / "few", PATHS, features=VALUES[:, :2, :2, :])
    reduced = reduce_features(few, split(few), None, quiet)
    assert (reduced.rank, len(reduced.factors.eigenvalues)) == (12, 12)
    assert reduced.directions is not None
    train, dense = list_reduced(reduced)[0], read_dense(few, split(few).train)
    np.testing.assert_allclose(train @ train.T, dense @ dense.T, atol=2e-4)


def test_reduce_features_key_covers_contents_split_rank_and_fingerprint(
    store: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    parts = split(store)

    def find_key(store: FeatureStore, parts: TrainValidation, rank: int | None = 10) -> str:
        return reduce_features(store, parts, rank, quiet).key

    key = find_key(store, parts)
    assert find_key(store, replace(parts, train=parts.train[::-1])) == key
    contents = [hash_text(path) for path in PATHS]
    contents[0] = hash_text("another picture")
    changed = make_store(tmp_path / "changed", PATHS, features=VALUES, contents=contents)
    foreign = make_store(
        tmp_path / "foreign", PATHS, features=VALUES, fingerprint=replace(FINGERPRINT, resize="bicubic")
    )
    moved = replace(parts, train=parts.train[1:], validation=[*parts.validation, parts.train[0]])
    others = [
        find_key(changed, split(changed)),
        find_key(foreign, split(foreign)),
        find_key(store, moved),
        find_key(store, replace(parts, validation=parts.validation[1:])),
        find_key(store, parts, 11),
    ]
    assert len({key, *others}) == 6
    assert not reduce_features(store, moved, None, quiet).from_cache


def test_reduce_features_gives_duplicates_the_same_row(tmp_path: Path, quiet: Console) -> None:
    contents = [hash_text(path) for path in PATHS]
    contents[5], contents[14] = contents[2], contents[2]
    contents[27] = contents[8]
    store = make_store(tmp_path / "store", PATHS, features=VALUES, contents=contents)
    parts = split(store)
    reduced = reduce_features(store, parts, None, quiet)
    assert reduced.rank == 21
    assert reduced.factors.train.shape == (21, 21)
    by_path = {example.path: row for example, row in zip(parts.train, list_reduced(reduced)[0], strict=True)}
    np.testing.assert_array_equal(by_path[PATHS[5]], by_path[PATHS[2]])
    np.testing.assert_array_equal(by_path[PATHS[14]], by_path[PATHS[2]])
    held_out = {example.path: row for example, row in zip(parts.validation, list_reduced(reduced)[1], strict=True)}
    np.testing.assert_allclose(held_out[PATHS[27]], by_path[PATHS[8]], atol=1e-4)
    train, dense = list_reduced(reduced)[0], read_dense(store, parts.train)
    np.testing.assert_allclose(train @ train.T, dense @ dense.T, atol=2e-4)


def test_reduce_features_with_a_rank_above_the_number_of_contents_raises(tmp_path: Path, quiet: Console) -> None:
    contents = [hash_text(path) for path in PATHS]
    contents[5] = contents[2]
    store = make_store(tmp_path / "store", PATHS, features=VALUES, contents=contents)
    with raises(UsageError, where="--rank", got="23") as caught:
        reduce_features(store, split(store), 23, quiet)
    assert "22" in caught.value.expected
    assert not store.derived_folder.exists()
    assert reduce_features(store, split(store), 22, quiet).factors.train.shape == (22, 22)


@pytest.mark.parametrize(
    ("requested", "num_rows", "num_inputs", "rank"),
    [
        (7, 7, 9, 7),
        (7, 9, 7, 7),
        (None, 7, 9, 7),
        (None, 9, 5, 5),
        (None, 513, 9999, 512),
        (513, 513, 9999, 513),
    ],
)
def test_choose_rank_returns_the_request_or_the_default(
    requested: int | None, num_rows: int, num_inputs: int, rank: int
) -> None:
    assert choose_rank(requested, num_rows, num_inputs) == rank


@pytest.mark.parametrize(("num_rows", "num_inputs"), [(6, 9), (9, 6)])
def test_choose_rank_above_rows_or_inputs_raises_with_the_limit(num_rows: int, num_inputs: int) -> None:
    with raises(UsageError, where="--rank", got="7") as caught:
        choose_rank(7, num_rows, num_inputs)
    assert "6" in caught.value.expected


def test_reduce_features_of_zeros_raises_and_caches_nothing(tmp_path: Path, quiet: Console) -> None:
    store = make_store(tmp_path / "store", PATHS, features=np.zeros((len(PATHS), *SHAPE)))
    with raises(HeadstartError, where="the training features"):
        reduce_features(store, split(store), None, quiet)
    assert not store.derived_folder.exists()


def test_reduce_features_of_a_packed_store_caches_beside_the_file(
    store: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    (tmp_path / "packed").mkdir()
    path = tmp_path / "packed/store.h5"
    pack_store(store, path, Compression.GZIP, lambda _: None)
    packed = FeatureStore(path)
    parts = split(packed)
    reduced = reduce_features(packed, parts, None, quiet)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["store.h5", "store.h5.derived"]
    assert [entry.name.split("-")[1] for entry in list_cached(packed)] == [reduced.key[:32]]
    unpacked = reduce_features(store, split(store), None, quiet)
    np.testing.assert_array_equal(list_reduced(reduced)[0], list_reduced(unpacked)[0])
    assert reduce_features(FeatureStore(path), parts, None, quiet).from_cache
    kernel = np.random.default_rng(2).normal(size=(NUM_TRAIN, 6)).astype(np.float32)
    expanded = expand_kernel(packed, reduced, kernel)
    validation = list_reduced(reduced)[1]
    np.testing.assert_allclose(read_dense(packed, parts.validation) @ expanded, validation @ kernel, atol=1e-3)


def test_reduce_features_by_a_sketch_reports_its_progress(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    force_sketch(monkeypatch)
    reduce_features(store, split(store), 10, Console())
    assert "46/46" in capsys.readouterr().err


def test_list_unique_sorts_by_hash_and_view_and_returns_the_row_of_each_example() -> None:
    hashes = [bytes([letter]) * 32 for letter in (3, 1, 3, 2, 1)]
    examples: list[Any] = [make_example(f"cats/{number}.jpg", content) for number, content in enumerate(hashes)]
    examples[4] = examples[4]._replace(view=2)
    unique = list_unique(examples)
    assert [(example.content_hash, example.view) for example in unique.examples] == [
        (hashes[1], 0),
        (hashes[1], 2),
        (hashes[3], 0),
        (hashes[0], 0),
    ]
    assert unique.rows.tolist() == [3, 0, 3, 2, 1]
    assert list_unique([]).rows.tolist() == []
