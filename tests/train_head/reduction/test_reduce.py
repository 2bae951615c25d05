"""Reduced features: the same scalar products as all features have, made once, and mapped to all inputs."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError, UsageError
from base.files import hash_file
from base.terminal import Console
from features.packed.write import pack_store
from features.shards.compression import Compression
from features.shards.shard import SHARD_FOLDER
from features.store import Example, FeatureStore
from tests.train_head.synthetic import FINGERPRINT, hash_text, list_paths, make_example, make_store
from train_head.data.split import split_examples
from train_head.reduction.reduce import (
    DEFAULT_RANK,
    Reduced,
    TrainValidation,
    choose_rank,
    list_unique,
    reduce_features,
)

Wide = NDArray[np.float64]
SHAPE = (4, 4, 3)
PATHS = list_paths({"train/cats": 12, "train/dogs": 11, "validation/cats": 4, "validation/dogs": 5})
NUM_TRAIN, NUM_VALIDATION = 23, 9
VALUES = np.random.default_rng(1).normal(0.5, 1, (len(PATHS), *SHAPE))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """A store of its own: 23 training and 9 validation pictures of 48 inputs, five a shard."""
    return make_store(tmp_path / "store", PATHS, features=VALUES, rows_per_shard=5)


def split(store: FeatureStore) -> TrainValidation:
    found = split_examples(store.examples, 0.2)
    return TrainValidation(found.train, found.validation)


def read_dense(store: FeatureStore, examples: Sequence[Example]) -> Wide:
    return store.read(examples).reshape(len(examples), -1).astype(np.float64)


def expand(reduced: Reduced) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Training and validation features on reduced inputs, in the order of the examples asked for."""
    return reduced.factors.train[reduced.train.rows], reduced.factors.validation[reduced.validation.rows]


def expand_kernel(store: FeatureStore, reduced: Reduced, kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """The kernel on all inputs, by what a run keeps."""
    return reduced.make_expansion(store, kernel).expand_kernel(store, kernel)


def solve_directions(store: FeatureStore, reduced: Reduced) -> Wide:
    """V, kept or from its definition: X V = Z with Z in the span of X."""
    if reduced.directions:
        return reduced.directions.directions.astype(np.float64)
    dense, factors = read_dense(store, reduced.train.examples), reduced.factors
    return np.asarray(dense.T @ factors.train / factors.eigenvalues)


def list_kept(store: FeatureStore) -> list[Path]:
    return sorted(store.derived_folder.iterdir())


def force_sketch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.reduction.reduce.MAX_EXACT_ROWS", 8)
    monkeypatch.setattr("train_head.reduction.decompose.MAX_EXACT_ROWS", 8)


def force_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.reduction.matrix.BLOCK_BYTES", 4 * 48 * 2)
    monkeypatch.setattr("train_head.reduction.matrix.HELD_BYTES", 0)
    monkeypatch.setattr("train_head.reduction.matrix.PANEL_COLUMNS", 7)


def assert_same_reduction(mine: Reduced, theirs: Reduced) -> None:
    for side, other in zip(expand(mine), expand(theirs), strict=True):
        np.testing.assert_array_equal(side, other)
    assert (mine.key, mine.rank) == (theirs.key, theirs.rank)


@pytest.mark.parametrize("way", ["exact", "sketch"])
@pytest.mark.parametrize("blocks", ["one", "several"])
def test_reduce_features_at_full_rank_keeps_all_scalar_products_in_the_examples_order(
    store: FeatureStore, quiet: Console, monkeypatch: pytest.MonkeyPatch, way: str, blocks: str
) -> None:
    if way == "sketch":
        force_sketch(monkeypatch)
    if blocks == "several":
        force_blocks(monkeypatch)
    sides = split(store)
    # An order that neither the hashes nor the shards have.
    sides = replace(sides, train=sides.train[::-1], validation=[*sides.validation[3:], *sides.validation[:3]])
    reduced = reduce_features(store, sides, None, quiet)
    assert (reduced.rank, reduced.from_cache) == (NUM_TRAIN, False)
    mine, other = expand(reduced)
    assert mine.shape == (NUM_TRAIN, NUM_TRAIN)
    assert other.shape == (NUM_VALIDATION, NUM_TRAIN)
    assert mine.dtype == other.dtype == np.float32
    train, validation = read_dense(store, sides.train), read_dense(store, sides.validation)
    np.testing.assert_allclose(mine @ mine.T, train @ train.T, atol=2e-4)
    np.testing.assert_allclose(other @ mine.T, validation @ train.T, atol=2e-4)
    kinds = ["factors"] if way == "exact" else ["directions", "factors"]
    assert [path.name.split("-")[:2] for path in list_kept(store)] == [[kind, reduced.key[:32]] for kind in kinds]


@pytest.mark.parametrize("way", ["exact", "sketch"])
@pytest.mark.parametrize("rank", [1, 10, None])
def test_reduce_features_projects_both_sides_on_the_same_directions(
    store: FeatureStore, quiet: Console, monkeypatch: pytest.MonkeyPatch, way: str, rank: int | None
) -> None:
    if way == "sketch":
        force_sketch(monkeypatch)
    sides = split(store)
    reduced = reduce_features(store, sides, rank, quiet)
    directions = solve_directions(store, reduced)
    num_kept = rank or NUM_TRAIN
    np.testing.assert_allclose(directions.T @ directions, np.eye(num_kept), atol=1e-5)
    train, validation = expand(reduced)
    np.testing.assert_allclose(train, read_dense(store, sides.train) @ directions, atol=1e-4)
    np.testing.assert_allclose(validation, read_dense(store, sides.validation) @ directions, atol=1e-4)
    best = np.linalg.svd(read_dense(store, sides.train), compute_uv=False)[:num_kept] ** 2
    np.testing.assert_allclose(reduced.factors.eigenvalues, best, rtol=1e-4)


@pytest.mark.parametrize("way", ["exact", "sketch"])
@pytest.mark.parametrize("rank", [10, None])
@pytest.mark.parametrize("blocks", ["one", "several"])
def test_expand_kernel_gives_on_all_inputs_what_the_kernel_gives_on_the_reduced(
    store: FeatureStore, quiet: Console, monkeypatch: pytest.MonkeyPatch, way: str, rank: int | None, blocks: str
) -> None:
    if way == "sketch":
        force_sketch(monkeypatch)
    if blocks == "several":
        force_blocks(monkeypatch)
    sides = split(store)
    reduced = reduce_features(store, sides, rank, quiet)
    kernel = np.random.default_rng(2).normal(size=(len(reduced.factors.eigenvalues), 6)).astype(np.float32)
    expanded = expand_kernel(store, reduced, kernel)
    assert expanded.dtype == np.float32
    np.testing.assert_allclose(expanded, solve_directions(store, reduced) @ kernel, atol=1e-4)
    for examples, inputs in zip((sides.train, sides.validation), expand(reduced), strict=True):
        expected = inputs @ kernel
        difference = np.abs(read_dense(store, examples) @ expanded - expected).max()
        assert difference < 1e-4 * np.abs(expected).max()
    shutil.rmtree(store.derived_folder)
    again = reduce_features(store, sides, rank, quiet)
    assert_same_reduction(again, reduced)
    np.testing.assert_array_equal(expand_kernel(store, again, kernel), expanded)


def test_reduce_features_again_reads_no_shard(
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
    directions = solve_directions(store, reduced)
    kernel = np.random.default_rng(2).normal(size=(10, 6)).astype(np.float32)
    expansion = reduced.make_expansion(store, kernel)
    shutil.rmtree(store.path / SHARD_FOLDER)
    np.testing.assert_allclose(expansion.expand_kernel(store, kernel), directions @ kernel, atol=1e-5)


@pytest.mark.parametrize("harm", ["gone", "damaged"])
@pytest.mark.parametrize("kind", ["factors", "directions"])
def test_reduce_features_by_a_sketch_that_was_lost_in_part_makes_it_again(
    store: FeatureStore,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    harm: str,
) -> None:
    force_sketch(monkeypatch)
    first = reduce_features(store, split(store), 10, quiet)
    kept = {path: path.read_bytes() for path in list_kept(store)}
    (path,) = store.derived_folder.glob(f"{kind}-*")
    if harm == "gone":
        path.unlink()
    else:
        flip_a_bit(path, path)
    again = reduce_features(store, split(store), 10, quiet)
    assert not again.from_cache
    assert_same_reduction(again, first)
    assert (f"warning: {path}: expected {kind} with" in capsys.readouterr().err) == (harm == "damaged")
    assert {path: path.read_bytes() for path in list_kept(store)} == kept
    assert reduce_features(store, split(store), 10, quiet).from_cache


def truncate(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path, _: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1000] ^= 16
    path.write_bytes(data)


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def put_another_in_its_place(path: Path, other: Path) -> None:
    """Sound factors under the name that they would have if they were of this key."""
    key = path.name.split("-")[1]
    path.unlink()
    shutil.copy(other, path.with_name(f"factors-{key}-{hash_file(other)}.npz"))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, put_another_in_its_place])
def test_reduce_features_with_damaged_factors_says_so_and_makes_them_again(
    store: FeatureStore,
    quiet: Console,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path, Path], None],
) -> None:
    first = reduce_features(store, split(store), 10, quiet)
    (path,) = list_kept(store)
    sound = path.read_bytes()
    reduce_features(store, split(store), 9, quiet)
    (other,) = set(list_kept(store)) - {path}
    damage(path, other)
    again = reduce_features(store, split(store), 10, quiet)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {path.parent}/factors-{first.key[:32]}-")
    assert said.endswith("They are made again\n")
    assert said.count("\n") == 1
    assert not again.from_cache
    assert_same_reduction(again, first)
    assert list_kept(store) == sorted([path, other])
    assert path.read_bytes() == sound
    assert reduce_features(store, split(store), 10, quiet).from_cache


def test_reduce_features_with_a_file_in_the_place_of_the_folder_goes_on_and_says_so(
    store: FeatureStore, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    first = reduce_features(store, split(store), 10, quiet)
    shutil.rmtree(store.derived_folder)
    store.derived_folder.write_text("a file")
    for _ in range(2):
        again = reduce_features(store, split(store), 10, quiet)
        assert_same_reduction(again, first)
        assert not again.from_cache
        said = capsys.readouterr().err
        assert said.startswith(f"warning: {store.derived_folder}: the factors are not kept (")
        assert said.endswith("); the next run makes them again\n")
    assert store.derived_folder.read_text() == "a file"


@contextmanager
def limit_files(num_bytes: int) -> Iterator[None]:
    """A disk that refuses files beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_reduce_features_on_a_disk_that_refuses_goes_on_and_leaves_nothing_behind(
    store: FeatureStore, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    with limit_files(1500):
        reduced = reduce_features(store, split(store), 10, quiet)
    assert capsys.readouterr().err.startswith(f"warning: {store.derived_folder}: the factors are not kept (")
    assert list_kept(store) == []
    assert_same_reduction(reduce_features(store, split(store), 10, quiet), reduced)
    assert len(list_kept(store)) == 1


def test_reduce_features_beyond_the_cap_keeps_the_newest(
    store: FeatureStore, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_head.reduction.cache.MAX_CACHE_BYTES", 0)
    for rank in (10, 9):
        assert not reduce_features(store, split(store), rank, quiet).from_cache
    assert reduce_features(store, split(store), 9, quiet).from_cache
    assert len(list_kept(store)) == 1
    assert not reduce_features(store, split(store), 10, quiet).from_cache


def rearrange(folder: Path) -> FeatureStore:
    """The same contents on the same sides, under other names and labels, in another order and other shards."""
    order = np.random.default_rng(3).permutation(len(PATHS))
    other_label = {"cats": "dogs", "dogs": "cats"}
    paths = [
        f"{PATHS[n].split('/')[0]}/{other_label[PATHS[n].split('/')[1]]}/renamed {place}.jpg"
        for place, n in enumerate(order)
    ]
    contents = [hash_text(PATHS[n]) for n in order]
    return make_store(folder, paths, features=VALUES[order], contents=contents, rows_per_shard=7)


@pytest.mark.parametrize("way", ["exact", "sketch"])
@pytest.mark.parametrize("blocks", ["one", "several"])
def test_reduce_features_of_the_same_contents_elsewhere_gives_the_same_bits(
    store: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, way: str, blocks: str
) -> None:
    if way == "sketch":
        force_sketch(monkeypatch)
    if blocks == "several":
        force_blocks(monkeypatch)
    first = reduce_features(store, split(store), 10, quiet)
    other = rearrange(tmp_path / "other")
    reduced = reduce_features(other, split(other), 10, quiet)
    for side in ("train", "validation", "eigenvalues"):
        np.testing.assert_array_equal(getattr(reduced.factors, side), getattr(first.factors, side))
    kernel = np.random.default_rng(2).normal(size=(10, 6)).astype(np.float32)
    np.testing.assert_array_equal(expand_kernel(other, reduced, kernel), expand_kernel(store, first, kernel))


def test_reduce_features_of_other_features_of_the_same_contents_makes_them_anew(
    store: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    reduce_features(store, split(store), None, quiet)
    again = make_store(tmp_path / "again", PATHS, features=VALUES * 1.001, rows_per_shard=5)
    shutil.copytree(store.derived_folder, again.derived_folder)
    reduced = reduce_features(again, split(again), None, quiet)
    assert not reduced.from_cache
    train = read_dense(again, split(again).train)
    np.testing.assert_allclose(expand(reduced)[0] @ expand(reduced)[0].T, train @ train.T, atol=2e-4)


def test_reduce_features_with_as_many_inputs_as_are_kept_turns_them_exactly(
    store: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    few = make_store(tmp_path / "few", PATHS, features=VALUES[:, :2, :2, :])
    reduced = reduce_features(few, split(few), None, quiet)
    assert (reduced.rank, len(reduced.factors.eigenvalues)) == (12, 12)
    train, dense = expand(reduced)[0], read_dense(few, split(few).train)
    np.testing.assert_allclose(train @ train.T, dense @ dense.T, atol=2e-4)


def test_reduce_features_key_depends_on_contents_sides_rank_and_fingerprint(
    store: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    sides = split(store)

    def find_key(store: FeatureStore, sides: TrainValidation, rank: int | None = 10) -> str:
        return reduce_features(store, sides, rank, quiet).key

    key = find_key(store, sides)
    assert find_key(store, replace(sides, train=sides.train[::-1])) == key
    contents = [hash_text(path) for path in PATHS]
    contents[0] = hash_text("another picture")
    changed = make_store(tmp_path / "changed", PATHS, features=VALUES, contents=contents)
    foreign = make_store(
        tmp_path / "foreign", PATHS, features=VALUES, fingerprint=replace(FINGERPRINT, resize="bicubic")
    )
    moved = replace(sides, train=sides.train[1:], validation=[*sides.validation, sides.train[0]])
    others = [
        find_key(changed, split(changed)),
        find_key(foreign, split(foreign)),
        find_key(store, moved),
        find_key(store, replace(sides, validation=sides.validation[1:])),
        find_key(store, sides, 11),
    ]
    assert len({key, *others}) == 6
    assert not reduce_features(store, moved, None, quiet).from_cache


def test_reduce_features_of_duplicates_gives_each_of_them_the_same_row(tmp_path: Path, quiet: Console) -> None:
    contents = [hash_text(path) for path in PATHS]
    contents[5], contents[14] = contents[2], contents[2]
    contents[27] = contents[8]
    store = make_store(tmp_path / "store", PATHS, features=VALUES, contents=contents)
    sides = split(store)
    reduced = reduce_features(store, sides, None, quiet)
    assert reduced.rank == 21
    assert reduced.factors.train.shape == (21, 21)
    by_path = {example.path: row for example, row in zip(sides.train, expand(reduced)[0], strict=True)}
    np.testing.assert_array_equal(by_path[PATHS[5]], by_path[PATHS[2]])
    np.testing.assert_array_equal(by_path[PATHS[14]], by_path[PATHS[2]])
    held_out = {example.path: row for example, row in zip(sides.validation, expand(reduced)[1], strict=True)}
    np.testing.assert_allclose(held_out[PATHS[27]], by_path[PATHS[8]], atol=1e-4)
    train, dense = expand(reduced)[0], read_dense(store, sides.train)
    np.testing.assert_allclose(train @ train.T, dense @ dense.T, atol=2e-4)


def test_reduce_features_with_a_rank_above_the_number_of_contents_names_it(tmp_path: Path, quiet: Console) -> None:
    contents = [hash_text(path) for path in PATHS]
    contents[5] = contents[2]
    store = make_store(tmp_path / "store", PATHS, features=VALUES, contents=contents)
    with pytest.raises(
        UsageError, match=r"^--rank: expected at most 22, the number of different training rows, got 23\. "
    ):
        reduce_features(store, split(store), 23, quiet)
    assert not store.derived_folder.exists()
    assert reduce_features(store, split(store), 22, quiet).factors.train.shape == (22, 22)


def test_choose_rank_takes_what_is_asked_for_or_the_default() -> None:
    assert choose_rank(7, 7, 9) == 7
    assert choose_rank(None, 7, 9) == 7
    assert choose_rank(None, 9, 5) == 5
    assert choose_rank(None, DEFAULT_RANK + 1, 9999) == DEFAULT_RANK
    assert choose_rank(DEFAULT_RANK + 1, DEFAULT_RANK + 1, 9999) == DEFAULT_RANK + 1


def test_reduce_features_of_nothing_but_zeros_says_so_and_keeps_nothing(tmp_path: Path, quiet: Console) -> None:
    store = make_store(tmp_path / "store", PATHS, features=np.zeros((len(PATHS), *SHAPE)))
    with pytest.raises(HeadstartError, match="nothing but zeros"):
        reduce_features(store, split(store), None, quiet)
    assert not store.derived_folder.exists()


def test_reduce_features_of_a_packed_store_keeps_factors_beside_the_file(
    store: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    (tmp_path / "packed").mkdir()
    path = tmp_path / "packed/store.h5"
    pack_store(store, path, Compression.GZIP, lambda _: None)
    packed = FeatureStore(path)
    sides = split(packed)
    reduced = reduce_features(packed, sides, None, quiet)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["store.h5", "store.h5.derived"]
    assert [entry.name.split("-")[1] for entry in list_kept(packed)] == [reduced.key[:32]]
    assert_same_values = np.testing.assert_array_equal
    assert_same_values(expand(reduced)[0], expand(reduce_features(store, split(store), None, quiet))[0])
    assert reduce_features(FeatureStore(path), sides, None, quiet).from_cache
    kernel = np.random.default_rng(2).normal(size=(NUM_TRAIN, 6)).astype(np.float32)
    expanded = expand_kernel(packed, reduced, kernel)
    validation = expand(reduced)[1]
    np.testing.assert_allclose(read_dense(packed, sides.validation) @ expanded, validation @ kernel, atol=1e-3)


def test_reduce_features_by_sketching_shows_its_progress(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    force_sketch(monkeypatch)
    reduce_features(store, split(store), 10, Console())
    assert capsys.readouterr().err.startswith("reduce: 46/46 rows")


def test_list_unique_orders_by_hash_and_view_and_finds_each_examples_row() -> None:
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
