"""Shared fixtures: a run on features of an early cut layer, and its export, each made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.terminal import Console
from extract.backbone import build_backbone
from extract.config import ExtractConfig
from extract.run import extract_features
from extract.weights.find import Weights, WeightsName
from tests.backbones import build_backbone_once
from tests.pictures import draw_picture
from tests.train_head.export.tiny import CONVERTED, export_tiny
from tests.train_head.synthetic import OPTIONS
from train_head.config import TrainConfig
from train_head.data.batches import Array
from train_head.export.config import ExportConfig, Format
from train_head.export.description import ModelDescription
from train_head.export.formats import keras
from train_head.export.outputs import Outputs
from train_head.export.result import ExportResult
from train_head.export.write import export_run
from train_head.train import train_head

CUT = "mixed0"
"""Early layer: an export up to it takes a fifth of the time of one up to `mixed7`."""


@dataclass(frozen=True)
class Exported:
    """Export that the tests share, and its result."""

    out: Path
    result: ExportResult

    @property
    def model(self) -> Path:
        return self.out / "model.keras"


@pytest.fixture(autouse=True)
def _built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one backbone for all exports; none of these tests changes its weights."""
    monkeypatch.setattr("train_head.finetuning.backbone.build_backbone", build_backbone_once)


@pytest.fixture(scope="session")
def whole() -> Any:
    """InceptionV3 at 75 px in which no two arrays of a layer are alike, not to be changed."""
    model = build_backbone(75, Weights(WeightsName.RANDOM))
    rng = np.random.default_rng(1)
    for layer in model.layers:
        arrays = layer.get_weights()
        layer.set_weights([rng.uniform(0.5, 1.5, array.shape) if array.ndim == 1 else array for array in arrays])
    return model


@pytest.fixture(scope="session")
def early_store(_pictures: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Store with features of `mixed0`, (7, 7, 256), not to be changed."""
    store = tmp_path_factory.mktemp("early") / "store"
    extract_features(ExtractConfig(_pictures, store, weights="random", image_size=75, cut=CUT), quiet)
    return store


@pytest.fixture(scope="session")
def early_run(early_store: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Run on `early_store`, not to be changed."""
    run = tmp_path_factory.mktemp("early") / "run"
    train_head(TrainConfig(early_store, run, **OPTIONS, no_report=True), quiet)
    return run


@pytest.fixture
def run(early_run: Path, tmp_path: Path) -> Path:
    """Copy of `early_run`."""
    return shutil.copytree(early_run, tmp_path / "run")


@pytest.fixture(scope="session")
def exported(early_run: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Exported:
    """Export of `early_run`, not to be changed."""
    out = tmp_path_factory.mktemp("exported") / "out"
    return Exported(out, export_run(ExportConfig(early_run, out), quiet))


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelDescription]:
    """Export of a tiny model with odd class names in all formats, with a picture; not to be changed."""
    folder = tmp_path_factory.mktemp("odd")
    description = export_tiny(folder, [Format.KERAS, *CONVERTED])
    draw_picture("owls", 1, (61, 83)).save(folder / "picture.jpg", quality=95)
    return folder, description


@pytest.fixture(scope="session")
def run_keras(exported: Exported) -> Callable[[Array], Outputs]:
    """Function from pixels to the outputs of the exported Keras model."""
    return keras.load(exported.model)


@pytest.fixture(scope="session")
def web_result(early_run: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> ExportResult:
    """Export of `early_run` in the format web, not to be changed; the runtime is fetched from npm."""
    out = tmp_path_factory.mktemp("web") / "out"
    return export_run(ExportConfig(early_run, out, formats="web"), quiet)


@pytest.fixture(scope="session")
def web_folder(web_result: ExportResult) -> Path:
    """Folder of the page, not to be changed."""
    return web_result.files[0]
