"""Stores of two cuts of the shared pictures, and a run whose last block was trained again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from base.terminal import Console
from extract.backbone import build_backbone
from extract.config import ExtractConfig
from extract.run import extract_features
from extract.weights.find import Weights, WeightsName
from features.schema import Pool
from features.store import FeatureStore
from tests.train_head.training import make_config
from train_head.config import TrainConfig
from train_head.finetuning.tail import Tail, open_tail
from train_head.train import train_head

CUTS = ("mixed5", "mixed6")


@pytest.fixture(scope="session")
def backbone() -> Any:
    """The whole InceptionV3 at 75 px with the weights of `--weights random`; not to be changed."""
    return build_backbone(75, Weights(WeightsName.RANDOM))


@pytest.fixture(scope="session")
def stores(shared_pictures: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """A folder with the stores of mixed5 and mixed6, random weights, 75 px; not to be changed."""
    folder = tmp_path_factory.mktemp("tuning") / "stores"
    extract_features(ExtractConfig(shared_pictures, folder, weights="random", image_size=75, cut=",".join(CUTS)), quiet)
    return folder


@pytest.fixture
def tail(stores: Path, quiet: Console) -> Tail:
    """The last block, to be trained again, behind the store of mixed6."""
    return open_tail(FeatureStore(stores / "mixed6"), "mixed6", Pool.NONE, "", quiet)


def configure(stores: Path, run: Path, **options: Any) -> TrainConfig:
    defaults: dict[str, Any] = {
        "unfreeze_from": "mixed6",
        "epochs": 4,
        "fine_tune_epochs": 3,
        "fine_tune_learning_rate": 1e-4,
        "units": 8,
    }
    return make_config(stores, run, **(defaults | options))


@pytest.fixture(scope="session")
def _tuned(stores: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    run = tmp_path_factory.mktemp("tuned") / "run"
    train_head(configure(stores, run), quiet)
    return run


@pytest.fixture
def tuned(_tuned: Path, tmp_path: Path) -> Path:
    """A copy of that run of the test's own."""
    return shutil.copytree(_tuned, tmp_path / "tuned")
