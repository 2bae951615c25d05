"""Rows that are sorted into blocks on disk."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError
from features.options import Compression
from features.packed.write import pack_store
from features.store import FeatureStore
from tests.train_head.synthetic import list_paths, make_store
from train_head.data import blocks as module
from train_head.data.blocks import Blocks, BlockShape, sort_features

pytestmark = pytest.mark.unit


def draw_rows(num_rows: int, *, are_sparse: bool) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((num_rows, 3, 5)).astype(np.float32)
    return np.maximum(rows - 1, 0) if are_sparse else rows


def fill(rows: NDArray[Any], block_rows: int, folder: Path, batch: int = 7) -> Blocks:
    """Add the rows in a random order, a few at a time."""
    made = Blocks(BlockShape(len(rows), block_rows, rows.shape[1:], rows.dtype), folder)
    order = np.random.default_rng(1).permutation(len(rows))
    for start in range(0, len(rows), batch):
        made.add(order[start : start + batch], rows[order[start : start + batch]])
    made.flush()
    return made


@pytest.mark.parametrize("are_sparse", [False, True])
@pytest.mark.parametrize("buffer_bytes", [0, 500, 2**20])
@pytest.mark.parametrize("block_rows", [1, 8, 50, 64])
def test_blocks_have_the_rows_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, are_sparse: bool, buffer_bytes: int, block_rows: int
) -> None:
    monkeypatch.setattr(module, "BUFFER_BYTES", buffer_bytes)
    rows = draw_rows(50, are_sparse=are_sparse)
    made = fill(rows, block_rows, tmp_path)
    parts = [made.read(number) for number in range(made.num_blocks)]
    assert [len(part) for part in parts[:-1]] == [block_rows] * (made.num_blocks - 1)
    np.testing.assert_array_equal(np.concatenate(parts), rows)


def test_blocks_leave_no_file(tmp_path: Path) -> None:
    made = fill(draw_rows(20, are_sparse=False), 4, tmp_path / "derived")
    assert made.num_blocks == 5
    assert list((tmp_path / "derived").iterdir()) == []


def test_blocks_in_a_folder_that_cannot_be_written_use_another(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    rows = draw_rows(20, are_sparse=False)
    np.testing.assert_array_equal(fill(rows, 20, tmp_path / "file").read(0), rows)


def test_blocks_on_a_full_disk_raise_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_unnamed", lambda _: io.FileIO("/dev/full", "r+"))
    with pytest.raises(HeadstartError):
        fill(draw_rows(20, are_sparse=False), 4, tmp_path)


def test_blocks_need_memory_for_the_buffer_and_one_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUFFER_BYTES", 2**18)
    rows = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    tracemalloc.start()
    try:
        made = fill(rows, 64, tmp_path, batch=32)
        for number in range(made.num_blocks):
            made.read(number)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < rows.nbytes / 2


@pytest.mark.parametrize("packed", [False, True])
def test_sort_features_gives_the_order_of_the_examples(tmp_path: Path, packed: bool) -> None:
    store = make_store(tmp_path / "store", list_paths({"cats": 21, "dogs": 20}))
    if packed:
        pack_store(store, tmp_path / "pack.h5", Compression.GZIP, lambda _: None)
        store = FeatureStore(tmp_path / "pack.h5")
    examples = [store.examples[number] for number in np.random.default_rng(3).permutation(41)] + store.examples[:4]
    made = sort_features(store, examples, 10)
    found = np.concatenate([made.read(number) for number in range(made.num_blocks)])
    np.testing.assert_array_equal(found, store.read(examples))
