"""The reduction by the workers of Ray: the same bits as in this process, and failures of workers."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.cluster import OWN, open_ray
from base.errors import HeadstartError
from base.terminal import Console
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.reduction.matrices import make_matrix_store
from train_head.reduction import distribute
from train_head.reduction.distribute import RayProducts
from train_head.reduction.matrix import FeatureMatrix, Products, open_workers
from train_head.reduction.reduce import Reduced, TrainValidation, reduce_features

FACTOR = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with open_ray("--distribute", OWN, 2) as module:
        yield module


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, NDArray[np.float64]]:
    rows = np.random.default_rng(0).normal(0.2, 1, (70, 50))
    return make_matrix_store(tmp_path_factory.mktemp("matrix") / "store", rows)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.reduction.matrix.BLOCK_BYTES", 12 * 50 * 2)
    monkeypatch.setattr("train_head.reduction.reduce.MAX_EXACT_ROWS", 0)


def reduce(store: FeatureStore, console: Console, where: str) -> Reduced:
    parts = TrainValidation(store.examples[:60], store.examples[60:])
    for path in store.derived_folder.glob("*"):
        path.unlink()
    return reduce_features(store, parts, 9, console, where)


@pytest.mark.usefixtures("ray")
def test_reduction_by_workers_has_the_same_bits(
    stored: tuple[FeatureStore, NDArray[np.float64]], quiet: Console
) -> None:
    local, by_workers = (reduce(stored[0], quiet, where) for where in ("local", OWN))
    assert not by_workers.from_cache
    np.testing.assert_array_equal(by_workers.factors.train, local.factors.train)
    np.testing.assert_array_equal(by_workers.factors.validation, local.factors.validation)
    assert by_workers.key == local.key


def test_block_whose_worker_is_lost_is_computed_again(
    ray: Any, stored: tuple[FeatureStore, NDArray[np.float64]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    compute_original = distribute.compute_product

    def compute(features: Any, factor: Any) -> tuple[str, Any]:
        """End the worker at the first call."""
        if not marker.exists():
            marker.touch()
            os._exit(1)
        return compute_original(features, factor)

    monkeypatch.setattr(distribute, "compute_product", compute)
    store = stored[0]
    with open_workers() as workers:
        rows = FeatureMatrix(store, store.examples, workers)
        found = list(RayProducts(ray, OWN, workers).multiply(rows.list_blocks(), FACTOR))
        expected = list(Products(workers).multiply(rows.list_blocks(), FACTOR))
    assert marker.exists()
    assert [rows for rows, _ in found] == [rows for rows, _ in expected]
    for (_, mine), (_, theirs) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("is_other", [False, True], ids=["fails", "other-rounding"])
def test_worker_that_fails_or_rounds_differently_is_an_error(
    ray: Any,
    stored: tuple[FeatureStore, NDArray[np.float64]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_other: bool,
) -> None:
    compute = (lambda features, _: ("another BLAS", features)) if is_other else (lambda *_: 1 / 0)
    monkeypatch.setattr(distribute, "compute_product", compute)
    store = stored[0]
    with open_workers() as workers:
        rows = FeatureMatrix(store, store.examples, workers)
        with raises(HeadstartError, where="--distribute ray") as caught:
            list(RayProducts(ray, OWN, workers).multiply(rows.list_blocks(), FACTOR))
    # The traceback holds the results of the other blocks. Once it is freed, Ray prints their errors by default.
    del caught
    gc.collect()
    assert not caplog.records
