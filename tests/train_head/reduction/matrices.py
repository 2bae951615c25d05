"""Stores of small feature matrices, and small blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from features.store import FeatureStore
from tests.train_head.synthetic import make_store

Float64Array = NDArray[np.float64]


def make_matrix_store(
    folder: Path, values: NDArray[Any], shape: tuple[int, ...] | None = None
) -> tuple[FeatureStore, Float64Array]:
    """Make a store with a feature for each row, and return the matrix as it is stored: rounded to float16."""
    paths = [f"train/cats/{number:03}.jpg" for number in range(len(values))]
    rounded = values.astype(np.float16)
    features = rounded.reshape(len(values), *(shape or (1, 1, values.shape[1])))
    return make_store(folder, paths, features=features, rows_per_shard=32), rounded.astype(np.float64)


def use_small_blocks(monkeypatch: pytest.MonkeyPatch, num_columns: int, num_rows: int = 5) -> None:
    """Read few rows a block, keep none in memory, and convert 7 columns at a time."""
    monkeypatch.setattr("train_head.reduction.matrix.BLOCK_BYTES", num_rows * num_columns * 2)
    monkeypatch.setattr("train_head.reduction.matrix.HELD_BYTES", 0)
    monkeypatch.setattr("train_head.reduction.matrix.PANEL_COLUMNS", 7)
