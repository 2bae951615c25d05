"""Fixtures of fine-tuning: a small backbone, stores of two cuts, and a run with a fine-tuned last block."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from base.terminal import Console
from extract.backbone import cut_backbone
from extract.config import ExtractConfig
from extract.run import extract_features
from extract.weights.find import Weights, WeightsName
from features.options import Pool
from features.store import FeatureStore
from tests.backbones import build_small_backbone
from tests.train_head.training import make_config
from train_head.config import TrainConfig
from train_head.finetuning.tail import Tail, open_tail
from train_head.train import train_head

CUTS = ("mixed5", "mixed6")
RANDOM = Weights(WeightsName.RANDOM)


@pytest.fixture(scope="package")
def small() -> Any:
    """Small backbone at 75 px with the weights of `--weights random`; not to be changed."""
    return build_small_backbone(75, RANDOM)


@pytest.fixture(scope="package")
def loaded(small: Any) -> Any:
    """Small backbone up to mixed7 with its initial weights; not to be changed."""
    return cut_backbone(small, "mixed7")


@pytest.fixture(scope="package", autouse=True)
def _small_backbones() -> Iterator[None]:
    """Replace InceptionV3. Give each fit the same small model with its initial weights, so that it is traced once."""
    fitted = build_small_backbone(75, RANDOM)
    initial = fitted.get_weights()

    def build(image_size: int, weights: Weights | None) -> Any:
        if (image_size, weights) != (75, RANDOM):
            return build_small_backbone(image_size, weights)
        fitted.set_weights(initial)
        fitted.trainable = False
        return fitted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.cut_backbone.build_backbone", functools.cache(build_small_backbone))
        patch.setattr("train_head.export.load.build_backbone", functools.cache(build_small_backbone))
        patch.setattr("train_head.finetuning.backbone.build_backbone", build)
        yield


@pytest.fixture(scope="package")
def stores(shared_pictures: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Folder with the stores of mixed5 and mixed6, 75 px, (3, 3, 8); not to be changed."""
    folder = tmp_path_factory.mktemp("tuning") / "stores"
    extract_features(ExtractConfig(shared_pictures, folder, weights="random", image_size=75, cut=",".join(CUTS)), quiet)
    return folder


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


@pytest.fixture(scope="package")
def _tuned(stores: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    run = tmp_path_factory.mktemp("tuned") / "run"
    train_head(configure(stores, run), quiet)
    return run


@pytest.fixture
def tuned(_tuned: Path, tmp_path: Path) -> Path:
    """Copy of a run with a fine-tuned last block."""
    return shutil.copytree(_tuned, tmp_path / "tuned")
