"""Exports and reports of fine-tuned runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from base.errors import HeadstartError, UsageError
from base.terminal import Console
from extract.decoding.decode import decode_image
from features.options import Compression, Pool
from features.packed.write import pack_store
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.finetuning.conftest import configure
from tests.train_head.finetuning.layers import SMALL_BLOCK, list_changed
from tests.train_head.report.pages import read_page
from tests.train_head.synthetic import run_export
from tests.train_head.training import rewrite_manifest
from train_head.config import ReportConfig
from train_head.export.__main__ import export
from train_head.export.config import ExportConfig
from train_head.finetuning.tail import Tail, open_tail
from train_head.report.page import report_fitted_run
from train_head.report.sources import load_sources
from train_head.runs.card import read_card
from train_head.runs.read import Run
from train_head.solvers.head import HeadWeights
from train_head.train import train_head

if TYPE_CHECKING:
    import keras


def test_export_of_fine_tuned_run_keeps_frozen_layers_and_agrees_with_training(
    tuned: Path, tmp_path: Path, quiet: Console, loaded: keras.Model, shared_pictures: Path
) -> None:
    result = export(ExportConfig(tuned, tmp_path / "out"), quiet)
    assert result["max_difference"] <= 1e-5
    assert result["num_flipped"] == 0
    assert result["accuracy"] == Run(tuned).read_metrics()["val_accuracy"]
    card = read_card(tmp_path / "out/model.keras")
    assert (card.cut, card.unfreeze_from) == ("mixed7", "mixed6")
    import keras

    model = keras.saving.load_model(tmp_path / "out/model.keras", compile=False)
    (backbone,) = [layer for layer in model.layers if layer.name.startswith("inception")]
    assert list_changed(backbone, loaded) == SMALL_BLOCK
    predictions = Run(tuned).read_predictions()
    images = [decode_image((shared_pictures / found.path).read_bytes()) for found in predictions]
    outputs = run_export(tmp_path / "out/model.keras", images)[:, 0]
    np.testing.assert_allclose(outputs, [found.probabilities["dogs"] for found in predictions], atol=2e-3)


def test_export_of_run_without_its_fine_tuned_layers_fails(tuned: Path, tmp_path: Path, quiet: Console) -> None:
    weights = Run(tuned).read_head().to_arrays()
    HeadWeights.from_arrays({name: weights[name] for name in weights if "tail" not in name}).save(tuned / "head.npz")
    rewrite_manifest(tuned)
    with raises(HeadstartError, where=tuned):
        export(ExportConfig(tuned, tmp_path / "out"), quiet)


def test_train_with_pool_averages_fine_tuned_outputs(stores: Path, tmp_path: Path, quiet: Console) -> None:
    config = configure(stores, tmp_path / "run", pool=Pool.AVG)
    metrics = train_head(config, quiet)
    weights = Run(config.run).read_head()
    assert weights.input_kernel.shape == (8, 8)
    result = export(ExportConfig(config.run, tmp_path / "out"), quiet)
    assert result["accuracy"] == metrics["val_accuracy"]


def test_train_on_packed_store_fine_tunes_on_the_same_features(
    stores: Path, shared_pictures: Path, tail: Tail, tmp_path: Path, quiet: Console
) -> None:
    pack_store(FeatureStore(stores / "mixed6"), tmp_path / "pack.h5", Compression.GZIP, lambda _: None)
    packed = FeatureStore(tmp_path / "pack.h5")
    rows = [sorted(store.examples, key=lambda example: example.path) for store in (packed, tail.store)]
    top = open_tail(packed, "mixed6", Pool.NONE, "", quiet).open_head_inputs()
    np.testing.assert_array_equal(top.read(rows[0]), tail.open_head_inputs().read(rows[1]))
    metrics = train_head(configure(tmp_path / "pack.h5", tmp_path / "run"), quiet)
    assert metrics["before_tuning"]["epoch"] == 4
    with pytest.raises(UsageError):
        export(ExportConfig(tmp_path / "run", tmp_path / "out"), quiet)
    config = ExportConfig(tmp_path / "run", tmp_path / "out", images=str(shared_pictures))
    assert export(config, quiet)["accuracy"] == metrics["val_accuracy"]


def test_load_sources_of_fine_tuned_run_opens_its_store(tuned: Path, stores: Path) -> None:
    sources = load_sources(ReportConfig(tuned))
    assert sources.store.path == stores / "mixed6"
    assert sources.store.feature_shape == (3, 3, 8)


def test_report_of_fine_tuned_run_shows_both_stages(tuned: Path, stores: Path, quiet: Console) -> None:
    report_fitted_run(configure(stores, tuned, no_report=False), quiet)
    page = read_page(tuned)
    cells = [cell for table in page.tables for row in table for cell in row]
    assert any("mixed7" in cell and "mixed6" in cell for cell in cells)
    assert any("7 epochs" in cell for cell in cells)
