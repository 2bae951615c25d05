"""Sweeps that tests share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.sweeps import FOUR, Swept, make_cuts, make_sweep, without_ridge
from tests.train_head.synthetic import make_store
from train_head.sweep.__main__ import sweep


@pytest.fixture(autouse=True)
def _ridge(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the ridge heads out of the baselines, except in the module that tests them."""
    with nullcontext() if request.module.__name__.endswith(".test_baselines") else without_ridge():
        yield


@pytest.fixture(scope="session")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the stores of two cuts of the same pictures, not to be changed."""
    return make_cuts(tmp_path_factory.mktemp("sweeps") / "cuts")


@pytest.fixture(scope="session")
def swept(noisy: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Swept:
    """Sweep of four heads, not to be changed."""
    config = make_sweep(noisy, tmp_path_factory.mktemp("sweeps") / "out", *FOUR)
    with without_ridge():
        return Swept(config, sweep(config, quiet))


@pytest.fixture(scope="session")
def reported(noisy: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Swept:
    """Sweep of two heads on two stores with the same pictures, with a plot and a report, not to be changed."""
    folder = tmp_path_factory.mktemp("sweeps")
    other = make_store(folder / "other", [example.path for example in noisy.examples])
    tries = f"store={noisy.path},{other.path}"
    config = make_sweep(noisy, folder / "out", tries, epochs=1, no_report=False)
    with without_ridge():
        return Swept(config, sweep(config, quiet))


@pytest.fixture
def copy_sweep(tmp_path: Path) -> Callable[[Swept], Swept]:
    """Function that copies a sweep to `out`."""

    def copy(original: Swept) -> Swept:
        out = shutil.copytree(original.config.out, tmp_path / "out")
        return replace(original, config=replace(original.config, out=out))

    return copy
