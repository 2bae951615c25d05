"""A fine-tuned InceptionV3. The other tests of this folder use a small backbone."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from base.terminal import Console
from extract.backbone import build_backbone, cut_backbone
from extract.config import ExtractConfig
from extract.decoding.decode import decode_image
from extract.run import extract_features
from tests.train_head.finetuning.conftest import RANDOM, configure
from tests.train_head.finetuning.layers import LAST_BLOCK, list_changed
from tests.train_head.synthetic import run_export
from train_head.export.__main__ import export
from train_head.export.config import ExportConfig
from train_head.runs.read import Run
from train_head.train import train_head


@pytest.fixture(autouse=True)
def _inception(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("extract.cut_backbone", "train_head.export.load", "train_head.finetuning.backbone"):
        monkeypatch.setattr(f"{module}.build_backbone", functools.cache(build_backbone))


def test_train_and_export_fine_tune_the_last_block_of_inception(
    shared_pictures: Path, tmp_path: Path, quiet: Console
) -> None:
    store, run, out = tmp_path / "store", tmp_path / "run", tmp_path / "out"
    extract_features(ExtractConfig(shared_pictures, store, weights="random", image_size=75, cut="mixed6"), quiet)
    metrics = train_head(configure(store, run, epochs=2, fine_tune_epochs=1), quiet)
    weights = Run(run).read_head()
    assert weights.input_kernel.shape == (3 * 3 * 768, 8)
    result = export(ExportConfig(run, out), quiet)
    assert result["max_difference"] <= 1e-5
    assert result["accuracy"] == metrics["val_accuracy"]
    import keras

    model = keras.saving.load_model(out / "model.keras", compile=False)
    (backbone,) = [layer for layer in model.layers if layer.name.startswith("inception")]
    assert list_changed(backbone, cut_backbone(build_backbone(75, RANDOM), "mixed7")) == LAST_BLOCK
    predictions = Run(run).read_predictions()[:4]
    images = [decode_image((shared_pictures / found.path).read_bytes()) for found in predictions]
    outputs = run_export(out / "model.keras", images)[:, 0]
    np.testing.assert_allclose(outputs, [found.probabilities["dogs"] for found in predictions], atol=2e-3)
