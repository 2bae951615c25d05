"""Fixtures of fine-tuning: a backbone, stores of two cuts, and a run with a fine-tuned last block."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from base.terminal import Console
from extract.backbone import build_backbone, cut_backbone
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
RANDOM = Weights(WeightsName.RANDOM)


@pytest.fixture(scope="session")
def backbone() -> Any:
    """Full InceptionV3 at 75 px with the weights of `--weights random`; not to be changed."""
    return build_backbone(75, RANDOM)


@pytest.fixture(scope="session")
def loaded(backbone: Any) -> Any:
    """Backbone up to mixed7 with its initial weights; not to be changed."""
    return cut_backbone(backbone, "mixed7")


@pytest.fixture(scope="session")
def stores(shared_pictures: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Folder with the stores of mixed5 and mixed6, random weights, 75 px; not to be changed."""
    folder = tmp_path_factory.mktemp("tuning") / "stores"
    extract_features(ExtractConfig(shared_pictures, folder, weights="random", image_size=75, cut=",".join(CUTS)), quiet)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _shared_random_backbone() -> Iterator[None]:
    """Build the backbone with random weights once; give each caller the same model with its initial weights."""
    built: list[Any] = []

    def build(image_size: int, weights: Weights | None) -> Any:
        if (image_size, weights) != (75, RANDOM):
            return build_backbone(image_size, weights)
        if not built:
            model = build_backbone(image_size, weights)
            built.extend((model, model.get_weights()))
        model, initial = built
        model.set_weights(initial)
        model.trainable = False
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_head.finetuning.backbone.build_backbone", build)
        yield


@pytest.fixture
def tail(stores: Path, quiet: Console) -> Tail:
    """Tail that fine-tunes the last block on the store of mixed6."""
    return open_tail(FeatureStore(stores / "mixed6"), "mixed6", Pool.NONE, "", quiet)


def configure(stores: Path, run: Path, **options: Any) -> TrainConfig:
    """Return options that fine-tune the last block."""
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
    """Copy of a run with a fine-tuned last block."""
    return shutil.copytree(_tuned, tmp_path / "tuned")
