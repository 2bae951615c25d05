"""The cache of derived data: exact arrays or none, damaged files, the cap, and keys."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.files import hash_file
from base.terminal import Console
from features.store import FeatureStore
from tests.errors import count_warnings
from tests.train_head.synthetic import FINGERPRINT, draw_features, hash_text, list_paths, make_store
from train_head.reduction.cache import Directions, Factors, Neighbours, get, make_key, name_rows, put
from train_head.reduction.row_file import RowFile, create_matrix

pytestmark = pytest.mark.unit

KEY, OTHER_KEY, THIRD_KEY = (hash_text(name).hex() for name in ("key", "other", "third"))


Derived = Factors | Directions | Neighbours


def draw_factors(seed: int = 0) -> Factors:
    rng = np.random.default_rng(seed)
    return Factors(*(rng.normal(size=shape).astype(np.float32) for shape in ((7, 3), (4, 3), (3,))))


def draw_directions() -> Directions:
    return Directions(np.random.default_rng(9).normal(size=(48, 3)).astype(np.float32))


def draw_neighbours() -> Neighbours:
    rng = np.random.default_rng(7)
    rows = rng.integers(0, 7, (7, 2), np.int32)
    return Neighbours(np.arange(7, dtype=np.int32), rows, rng.random((7, 2), np.float32))


def assert_same(mine: Derived | None, theirs: Derived) -> None:
    assert type(mine) is type(theirs)
    for field in fields(theirs):
        found, expected = getattr(mine, field.name), getattr(theirs, field.name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected, err_msg=field.name)


def find_file(folder: Path, key: str = KEY) -> Path:
    """Return the only file with a key."""
    (path,) = folder.glob(f"*{key[:32]}*")
    return path


@pytest.mark.parametrize(
    ("data", "name"),
    [
        pytest.param(draw_factors(), "factors", id="factors"),
        pytest.param(draw_directions(), "directions", id="directions"),
        pytest.param(draw_neighbours(), "neighbours", id="neighbours"),
    ],
)
def test_get_after_put_returns_equal_arrays(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str], data: Derived, name: str
) -> None:
    folder = tmp_path / "derived"
    put(folder, KEY, data)
    assert [path.name for path in folder.iterdir()] == [f"{name}-{KEY[:32]}-{hash_file(find_file(folder))}.npz"]
    assert_same(get(folder, KEY, type(data), quiet), data)  # type: ignore[type-var]
    assert capsys.readouterr().err == ""


def test_get_returns_only_data_of_the_requested_kind(tmp_path: Path, quiet: Console) -> None:
    put(tmp_path, KEY, draw_directions())
    assert get(tmp_path, KEY, Factors, quiet) is None
    put(tmp_path, KEY, draw_factors())
    assert_same(get(tmp_path, KEY, Factors, quiet), draw_factors())
    assert_same(get(tmp_path, KEY, Directions, quiet), draw_directions())


def test_put_of_equal_data_leaves_one_file(tmp_path: Path, quiet: Console) -> None:
    for _ in range(2):
        put(tmp_path, KEY, draw_factors())
    assert len(list(tmp_path.iterdir())) == 1
    assert_same(get(tmp_path, KEY, Factors, quiet), draw_factors())


def test_get_of_another_key_returns_none(tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, KEY, draw_factors())
    assert get(tmp_path, OTHER_KEY, Factors, quiet) is None
    assert get(tmp_path / "missing", KEY, Factors, quiet) is None
    assert find_file(tmp_path).is_file()
    assert capsys.readouterr().err == ""


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_get_of_a_damaged_file_warns_with_both_digests_and_removes_it(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    put(tmp_path, KEY, draw_factors())
    path = find_file(tmp_path)
    expected = hash_file(path)
    damage(path)
    found = hash_file(path)
    assert get(tmp_path, KEY, Factors, quiet) is None
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {path}: ")
    assert all(f"SHA-256 {digest[:12]}…" in warning for digest in (expected, found))
    assert list(tmp_path.iterdir()) == []


def test_get_with_a_damaged_and_an_intact_file_returns_the_intact_one(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, KEY, draw_factors())
    intact = find_file(tmp_path)
    damaged = tmp_path / f"factors-{KEY[:32]}-{'0' * 64}.npz"
    damaged.write_bytes(intact.read_bytes())
    assert_same(get(tmp_path, KEY, Factors, quiet), draw_factors())
    assert [path.name for path in tmp_path.iterdir()] == [intact.name]
    assert count_warnings(damaged, capsys) == 1


def rename_to_match(path: Path, key: str) -> Path:
    """Rename a file to the name that its bytes have under a key."""
    return path.rename(path.with_name(f"factors-{key[:32]}-{hash_file(path)}.npz"))


def test_get_of_a_file_with_another_key_inside_warns_and_removes_it(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, OTHER_KEY, draw_factors())
    path = rename_to_match(find_file(tmp_path, OTHER_KEY), KEY)
    assert get(tmp_path, KEY, Factors, quiet) is None
    assert count_warnings(path, capsys) == 1
    assert list(tmp_path.iterdir()) == []


def test_get_of_damaged_directions_keeps_the_factors(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, KEY, draw_directions())
    path = find_file(tmp_path)
    truncate(path)
    put(tmp_path, KEY, draw_factors())
    assert get(tmp_path, KEY, Directions, quiet) is None
    assert count_warnings(path, capsys) == 1
    assert find_file(tmp_path).name.startswith("factors-")


def test_get_of_a_file_without_arrays_warns_and_removes_it(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain.npz"
    np.savez(plain, key=np.frombuffer(bytes.fromhex(KEY), np.uint8))
    path = rename_to_match(plain, KEY)
    assert get(tmp_path, KEY, Factors, quiet) is None
    assert count_warnings(path, capsys) == 1
    assert list(tmp_path.iterdir()) == []


def set_age(path: Path, seconds: int) -> None:
    os.utime(path, (seconds, seconds))


@pytest.mark.parametrize("has_used_older", [False, True])
def test_put_beyond_the_cap_removes_the_least_recently_used(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, has_used_older: bool
) -> None:
    put(tmp_path, KEY, draw_factors())
    num_bytes = find_file(tmp_path).stat().st_size
    # Exactly two files fit.
    monkeypatch.setattr("train_head.reduction.cache.MAX_CACHE_BYTES", 2 * num_bytes)
    put(tmp_path, OTHER_KEY, draw_factors(1))
    set_age(find_file(tmp_path), 1_000_000)
    set_age(find_file(tmp_path, OTHER_KEY), 2_000_000)
    if has_used_older:
        get(tmp_path, KEY, Factors, quiet)
    put(tmp_path, THIRD_KEY, draw_factors(2))
    kept, removed = (KEY, OTHER_KEY) if has_used_older else (OTHER_KEY, KEY)
    assert get(tmp_path, removed, Factors, quiet) is None
    assert_same(get(tmp_path, kept, Factors, quiet), draw_factors(0 if has_used_older else 1))
    assert_same(get(tmp_path, THIRD_KEY, Factors, quiet), draw_factors(2))


def test_put_one_byte_beyond_the_cap_removes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, KEY, draw_factors())
    monkeypatch.setattr("train_head.reduction.cache.MAX_CACHE_BYTES", 2 * find_file(tmp_path).stat().st_size - 1)
    put(tmp_path, OTHER_KEY, draw_factors(1))
    assert list(tmp_path.iterdir()) == [find_file(tmp_path, OTHER_KEY)]


def test_put_beyond_the_cap_keeps_foreign_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.reduction.cache.MAX_CACHE_BYTES", 0)
    (tmp_path / "notes.txt").write_text("foreign")
    put(tmp_path, KEY, draw_factors())
    put(tmp_path, OTHER_KEY, draw_factors())
    assert sorted(path.name for path in tmp_path.iterdir()) == [find_file(tmp_path, OTHER_KEY).name, "notes.txt"]


def test_put_into_a_file_fails_and_keeps_it(tmp_path: Path, quiet: Console) -> None:
    folder = tmp_path / "derived"
    folder.write_text("a file")
    with pytest.raises(FileExistsError):
        put(folder, KEY, draw_factors())
    assert get(folder, KEY, Factors, quiet) is None
    assert folder.read_text() == "a file"


def test_make_key_covers_fingerprint_groups_views_and_rank(tmp_path: Path) -> None:
    paths = list_paths({"train/cats": 4, "train/dogs": 4})
    store = make_store(tmp_path / "store", paths)
    a, b, c, *_ = store.examples
    key = make_key(store, [[a, b], [c]], 2)
    assert make_key(FeatureStore(store.path), [[a, b], [c]], 2) == key
    other = make_store(tmp_path / "other", paths, fingerprint=replace(FINGERPRINT, cut="mixed7"))
    others = [
        make_key(other, [[a, b], [c]], 2),
        make_key(store, [[a], [b, c]], 2),
        make_key(store, [[a, b, c], []], 2),
        make_key(store, [[a, c], [b]], 2),
        make_key(store, [[a, b], []], 2),
        make_key(store, [[a, b], [c._replace(view=1)]], 2),
        make_key(store, [[a, b], [c]], 1),
    ]
    assert len({key, *others}) == 8
    assert all(len(each) == 64 and bytes.fromhex(each) for each in others)


def test_make_key_covers_the_features(tmp_path: Path) -> None:
    paths = list_paths({"train/cats": 4, "train/dogs": 4})
    features = draw_features(paths)
    first = make_store(tmp_path / "first", paths, features=features)
    same = make_store(tmp_path / "same", paths, features=features)
    # Such features come from another extraction under the same fingerprint.
    other = make_store(tmp_path / "other", paths, features=features * np.float16(1.001))
    keys = [make_key(store, [store.examples, []], 0) for store in (first, same, other)]
    assert keys[0] == keys[1] != keys[2]


def test_put_beyond_the_cap_removes_only_regular_files_with_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_head.reduction.cache.MAX_CACHE_BYTES", 0)
    own = f"factors-{'0' * 32}-{'1' * 64}.npz"
    foreign = ["holiday-2019.npz", f"factors-{'0' * 32}-{'1' * 63}.npz", f"photos-{'0' * 32}-{'1' * 64}.npz"]
    elsewhere = tmp_path / "elsewhere.npz"
    folder = tmp_path / "derived"
    folder.mkdir()
    for path in (elsewhere, folder / own, *(folder / name for name in foreign)):
        path.write_bytes(b"x" * 1000)
    link = folder / f"means-{'0' * 32}-{'1' * 64}.npz"
    link.symlink_to(elsewhere)
    put(folder, KEY, draw_factors())
    left = {path.name for path in folder.iterdir()} - {find_file(folder).name}
    assert left == {*foreign, link.name}
    assert elsewhere.read_bytes() == b"x" * 1000


def test_put_into_a_linked_folder_removes_nothing(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_head.reduction.cache.MAX_CACHE_BYTES", 0)
    target = tmp_path / "target"
    target.mkdir()
    names = ["holiday-2019.npz", f"factors-{KEY[:32]}-{'1' * 64}.npz", f".partial-factors-{KEY[:32]}-999999999"]
    for name in names:
        (target / name).write_bytes(b"x")
        set_age(target / name, 1)
    (tmp_path / "derived").symlink_to(target)
    assert get(tmp_path / "derived", KEY, Factors, quiet) is None
    put(tmp_path / "derived", OTHER_KEY, draw_factors())
    assert {path.name for path in target.iterdir()} >= set(names)


def test_put_removes_partial_files_of_killed_processes(tmp_path: Path) -> None:
    name = f".partial-factors-{KEY[:32]}"
    # The parent of this process is running, and may still write.
    old, running, foreign = tmp_path / f"{name}-999999999", tmp_path / f"{name}-{os.getppid()}", tmp_path / ".partial-a"
    same_number = tmp_path / f"{name}-{os.getpid()}"
    for path in (old, same_number, running, foreign):
        path.write_bytes(b"x")
        set_age(path, 1)
    young = tmp_path / f"{name}-999999998"
    young.write_bytes(b"x")
    put(tmp_path, KEY, draw_factors())
    partial = {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert partial == {running.name, foreign.name, young.name}


def test_make_key_covers_the_blas_library_and_its_processor(
    two_classes: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_key(*libraries: dict[str, str]) -> str:
        monkeypatch.setattr("train_head.reduction.cache.threadpool_info", lambda: list(libraries))
        return make_key(two_classes, [two_classes.examples], 2)

    openmp = {"user_api": "openmp", "version": "1"}
    folder = Path(np.__file__).resolve().parents[1]
    blas = {"user_api": "blas", "version": "0.3.30", "architecture": "Haswell", "filepath": f"{folder}/numpy.libs/a.so"}
    scipy = {**blas, "version": "0.3.21", "filepath": f"{folder}/scipy.libs/a.so"}
    key = find_key(openmp, blas)
    assert find_key(blas) == find_key({**openmp, "version": "2"}, blas) == key
    assert find_key(blas, scipy) == find_key(scipy, blas) == key
    others = [find_key({**blas, "version": "0.3.31"}), find_key({**blas, "architecture": "Zen"}), find_key()]
    assert len({key, *others}) == 4


def test_get_of_pickled_objects_warns_without_running_them(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "sprung"), "w")

    plain, trapped = tmp_path / "plain.npz", np.array([Trap()], dtype=object)
    np.savez(plain, key=np.frombuffer(bytes.fromhex(KEY), np.uint8), train=trapped)
    path = rename_to_match(plain, KEY)
    assert get(tmp_path, KEY, Factors, quiet) is None
    assert count_warnings(path, capsys) == 1
    assert list(tmp_path.iterdir()) == []


def test_compute_coefficients_divides_by_the_eigenvalues() -> None:
    factors = Factors(
        np.array([[2, 6], [4, 3]], np.float32), np.zeros((1, 2), np.float32), np.array([2, 3], np.float32)
    )
    coefficients = factors.compute_coefficients(np.array([[1, 0], [10, 1]], np.float32))
    assert coefficients.dtype == np.float32
    assert coefficients.tolist() == [[21, 2], [12, 1]]


def draw_file_factors(folder: Path) -> tuple[Factors, Factors]:
    """Return factors with matrices in files, and the same factors in memory."""
    held = draw_factors()
    matrices: dict[str, Any] = {}
    for name in ("train", "validation"):
        values = getattr(held, name)
        made = create_matrix(values.shape, folder, name_rows(KEY, name))
        for start in range(0, len(values), 3):
            made[start : start + 3] = values[start : start + 3]
        matrices[name] = made
    return replace(held, **matrices), held


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.reduction.row_file.HELD_BYTES", 0)


@pytest.mark.usefixtures("on_disk")
def test_get_of_large_matrices_returns_files_with_equal_rows(tmp_path: Path, quiet: Console) -> None:
    factors, held = draw_file_factors(tmp_path)
    put(tmp_path, KEY, factors)
    found = get(tmp_path, KEY, Factors, quiet)
    assert found
    rows = np.array([6, 0, 3, 3])
    for mine in (factors, found):
        assert isinstance(mine.train, RowFile)
        assert mine.train.shape == (7, 3)
        np.testing.assert_array_equal(mine.train[:], held.train)
        np.testing.assert_array_equal(mine.train[2:4], held.train[2:4])
        np.testing.assert_array_equal(mine.train[rows], held.train[rows])
        np.testing.assert_array_equal(mine.validation[:], held.validation)
    (path,) = tmp_path.glob(f"{name_rows(KEY, 'train')}-*.npy")
    np.testing.assert_array_equal(np.load(path), held.train)


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, Path.unlink])
def test_get_with_a_damaged_or_missing_matrix_returns_none(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    put(tmp_path, KEY, draw_file_factors(tmp_path)[0])
    (path,) = tmp_path.glob(f"{name_rows(KEY, 'train')}-*.npy")
    damage(path)
    assert get(tmp_path, KEY, Factors, quiet) is None
    assert count_warnings(path, capsys) == (damage is not Path.unlink)


@pytest.mark.usefixtures("on_disk")
def test_put_keeps_the_files_of_large_matrices_beyond_the_cap(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, KEY, draw_directions())
    monkeypatch.setattr("train_head.reduction.cache.MAX_CACHE_BYTES", 0)
    monkeypatch.setattr("train_head.reduction.cache.NUM_LARGE", 40)
    put(tmp_path, KEY, draw_file_factors(tmp_path)[0])
    assert get(tmp_path, KEY, Factors, quiet)
    assert get(tmp_path, KEY, Directions, quiet)


@pytest.mark.usefixtures("on_disk")
def test_matrix_that_is_not_put_leaves_no_file(tmp_path: Path) -> None:
    factors = draw_file_factors(tmp_path)[0]
    assert len(list(tmp_path.iterdir())) == 2
    del factors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("block_rows", [2, 100])
def test_sort_of_a_large_matrix_gives_the_rows_in_order(tmp_path: Path, block_rows: int) -> None:
    factors, held = draw_file_factors(tmp_path)
    assert isinstance(factors.train, RowFile)
    rows = np.array([6, 0, 3, 3, 1])
    blocks = factors.train.sort(rows, block_rows, tmp_path)
    found = np.concatenate([blocks.read(number) for number in range(blocks.num_blocks)])
    np.testing.assert_array_equal(found, held.train[rows])
