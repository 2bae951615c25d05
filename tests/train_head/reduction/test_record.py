"""The expansion that a run saves: exact restoration, invalid files, and missing training rows."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.synthetic import SHAPE, add_views, list_paths, make_store
from train_head.reduction.record import Expansion, make_expansion, parse_logits

pytestmark = pytest.mark.unit

NUM_INPUTS = int(np.prod(SHAPE))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Store of ten pictures in three shards, and a second view of one in a fourth."""
    paths = list_paths({"train/cats": 5, "train/dogs": 5})
    folder = tmp_path_factory.mktemp("record") / "store"
    return add_views(make_store(folder, paths, rows_per_shard=4), {paths[2]: [1]})


def draw(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def list_rows(store: FeatureStore) -> list[Any]:
    """List six training rows of all shards, with a second view."""
    chosen = [store.examples[number] for number in (9, 0, 2, 5, 7)]
    return [*chosen, *store.list_views(store.examples[2], 2)[1:]]


def make_exact(store: FeatureStore) -> Expansion:
    return make_expansion(store, list_rows(store), draw(6, 3), None)


def make_sketched(store: FeatureStore) -> Expansion:
    return make_expansion(store, list_rows(store), None, draw(NUM_INPUTS, 3))


def save(expansion: Expansion, folder: Path, **changes: Any) -> bytes:
    """Save an expansion with some arrays replaced, added or, if None, removed; return the bytes of the file."""
    expansion.save(folder / "expansion.npz")
    with np.load(folder / "expansion.npz") as saved:
        arrays = {**saved, **changes}
    np.savez(folder / "changed.npz", **{name: array for name, array in arrays.items() if array is not None})
    return (folder / "changed.npz").read_bytes()


def test_make_expansion_records_hash_view_and_file_of_each_row(store: FeatureStore) -> None:
    rows, expansion = list_rows(store), make_exact(store)
    assert [bytes(each) for each in expansion.row_hashes] == [row.content_hash for row in rows]
    assert expansion.row_views.tolist() == [0, 0, 0, 0, 0, 1]
    names = [Path(store.describe_source(row)).name for row in rows]
    assert [expansion.files[place].decode() for place in expansion.row_files] == names
    assert len(expansion.files) == len(set(names)) == 4


@pytest.mark.parametrize("make", [make_exact, make_sketched], ids=["exact", "sketch"])
def test_expansion_parse_restores_every_array(store: FeatureStore, tmp_path: Path, make: Any) -> None:
    expansion: Expansion = make(store)
    expansion.save(tmp_path / "expansion.npz")
    parsed = Expansion.parse((tmp_path / "expansion.npz").read_bytes())
    for field in fields(Expansion):
        found, expected = getattr(parsed, field.name), getattr(expansion, field.name)
        assert (found is None) == (expected is None), field.name
        if expected is not None:
            assert found.dtype == expected.dtype, field.name
            np.testing.assert_array_equal(found, expected, err_msg=field.name)


def test_expand_kernel_multiplies_rows_or_directions(store: FeatureStore) -> None:
    exact, sketched = make_exact(store), make_sketched(store)
    assert exact.coefficients is not None
    assert sketched.directions is not None
    kernel = draw(3, 4)
    dense = store.read(list_rows(store)).reshape(6, -1).astype(np.float32)
    np.testing.assert_allclose(exact.expand_kernel(store, kernel), dense.T @ exact.coefficients, atol=1e-5)
    np.testing.assert_allclose(sketched.expand_kernel(store, kernel), sketched.directions @ kernel, atol=1e-5)
    with pytest.raises(ValueError, match="neither"):
        replace(exact, coefficients=None).expand_kernel(store, kernel)


def test_expand_kernel_without_a_training_row_raises_with_its_file_and_hash(store: FeatureStore) -> None:
    exact = make_exact(store)
    hashes = exact.row_hashes.copy()
    hashes[[1, 3]] ^= 255
    file = exact.files[exact.row_files[1]].decode()
    with raises(HeadstartError, where=f"{store.path}, {file}") as caught:
        replace(exact, row_hashes=hashes).expand_kernel(store, draw(3, 4))
    assert "6" in caught.value.expected
    assert caught.value.got.startswith("4 ")
    assert bytes(hashes[1]).hex()[:12] in caught.value.got


@pytest.mark.parametrize(
    ("name", "array"),
    [
        pytest.param("row_hashes", np.zeros((5, 32), np.uint8), id="fewer-hashes"),
        pytest.param("row_hashes", np.zeros((6, 31), np.uint8), id="short-hashes"),
        pytest.param("row_hashes", np.zeros((6, 32), np.int8), id="signed-hashes"),
        pytest.param("row_views", np.zeros(6, np.int64), id="wide-views"),
        pytest.param("row_views", np.zeros(5, np.int32), id="fewer-views"),
        pytest.param("row_files", np.zeros(6, np.int64), id="wide-files"),
        pytest.param("row_files", np.array([0, 1, 2, 3, 4, 0], np.int32), id="file-beyond-the-list"),
        pytest.param("row_files", np.array([0, 1, 2, 3, -1, 0], np.int32), id="negative-file"),
        pytest.param("files", np.array([b"a", b"b", b"c"]), id="fewer-files"),
        pytest.param("files", np.array([["a", "b", "c", "d"]]).astype("S1"), id="files-2-d"),
        pytest.param("files", np.array(["a", "b", "c", "d"]), id="files-unicode"),
        pytest.param("coefficients", np.zeros((5, 3), np.float32), id="fewer-coefficients"),
        pytest.param("coefficients", np.zeros((6, 3)), id="float64-coefficients"),
        pytest.param("coefficients", np.zeros(6, np.float32), id="coefficients-1-d"),
        pytest.param("coefficients", np.full((6, 3), np.nan, np.float32), id="nan"),
        pytest.param("coefficients", None, id="no-factor"),
        pytest.param("directions", np.zeros((12, 3), np.float32), id="two-factors"),
    ],
)
def test_expansion_parse_of_invalid_arrays_fails(
    store: FeatureStore, tmp_path: Path, name: str, array: NDArray[Any] | None
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Expansion.parse(save(make_exact(store), tmp_path, **{name: array}))


def test_expansion_parse_without_rows_fails(store: FeatureStore, tmp_path: Path) -> None:
    exact = make_exact(store)
    empty = {name: getattr(exact, name)[:0] for name in ("row_hashes", "row_views", "row_files", "coefficients")}
    with pytest.raises(ValueError):  # noqa: PT011
        Expansion.parse(save(exact, tmp_path, **empty))


@pytest.mark.parametrize("name", ["row_hashes", "row_views", "row_files", "files"])
def test_expansion_parse_without_an_array_names_it(store: FeatureStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyError, match=name):
        Expansion.parse(save(make_exact(store), tmp_path, **{name: None}))


class Trap:
    """Object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_parse_of_pickled_objects_fails_without_running_them(store: FeatureStore, tmp_path: Path) -> None:
    trapped = np.array([Trap(tmp_path / "sprung")], dtype=object)
    with pytest.raises(ValueError, match="allow_pickle"):
        Expansion.parse(save(make_exact(store), tmp_path, files=trapped))
    np.save(tmp_path / "logits.npy", trapped)
    with pytest.raises(ValueError, match="allow_pickle"):
        parse_logits((tmp_path / "logits.npy").read_bytes())
    assert not (tmp_path / "sprung").exists()


def test_parse_logits_restores_finite_rows(tmp_path: Path) -> None:
    logits = draw(4, 3)
    np.save(tmp_path / "logits.npy", logits)
    parsed = parse_logits((tmp_path / "logits.npy").read_bytes())
    assert parsed.dtype == np.float32
    np.testing.assert_array_equal(parsed, logits)


@pytest.mark.parametrize(
    "logits",
    [
        pytest.param(np.zeros(4, np.float32), id="1-d"),
        pytest.param(np.zeros((4, 1, 1), np.float32), id="3-d"),
        pytest.param(np.array([[1.0], [np.inf]], np.float32), id="infinite"),
    ],
)
def test_parse_logits_of_other_arrays_fails(tmp_path: Path, logits: NDArray[np.float32]) -> None:
    np.save(tmp_path / "logits.npy", logits)
    with pytest.raises(ValueError):  # noqa: PT011
        parse_logits((tmp_path / "logits.npy").read_bytes())
