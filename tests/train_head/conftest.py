"""Fixtures of stage two: synthetic stores, a run on the shared store, and tiny exported models."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from base.terminal import Console
from extract.backbone import build_backbone
from features.store import FeatureStore
from tests.train_head.synthetic import CLASSES, OPTIONS, SHAPE, list_paths, make_store, save_tiny_model
from train_head.config import TrainConfig
from train_head.train import train_head


@pytest.fixture(scope="session", autouse=True)
def _shared_export_backbone() -> Iterator[None]:
    """Build the backbone of exported models once per image size. Tests load one export at a time, so they share it."""
    with mock.patch("train_head.export.load.build_backbone", functools.cache(build_backbone)):
        yield


@pytest.fixture(scope="session")
def shared_pictures(_pictures: Path) -> Path:
    """Pictures of the shared store, not to be changed."""
    return _pictures


@pytest.fixture(scope="session")
def shared_store(_store: Path) -> Path:
    """Store of the shared run, not to be changed."""
    return _store


@pytest.fixture(scope="session")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Synthetic store with separable classes: 23 training and 8 validation pictures."""
    counts = {"train/cats": 12, "train/dogs": 11, "validation/cats": 4, "validation/dogs": 4}
    return make_store(tmp_path_factory.mktemp("synthetic") / "two", list_paths(counts))


@pytest.fixture(scope="session")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Synthetic store with three separable classes: 30 training and 12 validation pictures."""
    counts = {f"train/{label}": 10 for label in ("cats", "dogs", "owls")}
    counts |= {f"validation/{label}": 4 for label in ("cats", "dogs", "owls")}
    return make_store(tmp_path_factory.mktemp("synthetic") / "three", list_paths(counts))


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Synthetic store with overlapping classes, on which fits differ: 36 training and 16 validation pictures."""
    counts = {"train/cats": 20, "train/dogs": 16, "validation/cats": 9, "validation/dogs": 7}
    paths = list_paths(counts)
    features = np.random.default_rng(5).normal(0.3, 0.5, (len(paths), *SHAPE))
    for feature, path in zip(features, paths, strict=True):
        feature[..., CLASSES.index(path.split("/")[1])] += 0.2
    return make_store(tmp_path_factory.mktemp("synthetic") / "noisy", paths, features=features)


@pytest.fixture
def own_store(two_classes: FeatureStore, tmp_path: Path) -> Path:
    """Copy of the store of two classes."""
    return shutil.copytree(two_classes.path, tmp_path / "store")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a checkpoint after each epoch."""
    monkeypatch.setattr("train_head.solvers.checkpoint.MIN_INTERVAL_S", 0.0)
    monkeypatch.setattr("train_head.solvers.checkpoint.MAX_COST_SHARE", 1e9)


@pytest.fixture(scope="session")
def trained(shared_store: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Run on the shared store, not to be changed."""
    run = tmp_path_factory.mktemp("trained") / "run"
    train_head(TrainConfig(shared_store, run, **OPTIONS), quiet)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Copy of the shared run."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="session")
def tiny_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported model that separates red cats from blue dogs, with a sigmoid output."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model.keras", 2)


@pytest.fixture(scope="session")
def tiny_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported model that separates red cats, blue dogs and green owls, with a softmax output."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model.keras", 3)
