"""Trainings and exports on a folder of stores by cut layer, and on pooled features."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import StoreMissingError, UsageError
from base.terminal import Console
from extract.backbone import cut_backbone, hash_weights
from features.cuts import open_store
from features.options import Pool
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.synthetic import (
    CLASSES,
    FINGERPRINT,
    TINY_SIZE,
    build_tiny_backbone,
    draw_features,
    list_paths,
    make_store,
)
from tests.train_head.tiny import draw_tiny_pictures, store_tiny_pictures
from tests.train_head.training import make_config
from train_head.config import SolverName
from train_head.data.split import split_examples
from train_head.export.__main__ import export
from train_head.export.config import ExportConfig
from train_head.export.stitch import stitch
from train_head.finetuning.backbone import rebuild_backbone
from train_head.runs.card import read_card
from train_head.runs.expand import expand_head
from train_head.runs.read import Run
from train_head.solvers.head import HeadWeights, restore_head
from train_head.train import train_head

PATHS = list_paths({"train/cats": 6, "train/dogs": 5, "validation/cats": 3, "validation/dogs": 3})
SHAPES = {"mixed5": (2, 2, 3), "mixed7": (2, 2, 4)}
TINY_CUT = "average_pooling2d"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the stores of two cuts of the same pictures; not to be changed."""
    folder = tmp_path_factory.mktemp("cuts") / "both"
    for cut, shape in SHAPES.items():
        fingerprint = replace(FINGERPRINT, cut=cut)
        make_store(folder / cut, PATHS, features=draw_features(PATHS, shape), fingerprint=fingerprint)
    return folder


@pytest.mark.parametrize("cut", ["", "mixed6", ".."])
@pytest.mark.unit
def test_train_on_two_cuts_with_missing_or_unknown_cut_fails_and_lists_them(
    both: Path, tmp_path: Path, quiet: Console, cut: str
) -> None:
    with raises(UsageError, where="--cut", got=cut or "none") as caught:
        train_head(make_config(both, tmp_path / "run", cut=cut), quiet)
    assert "mixed5, mixed7" in caught.value.expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", ["mixed5", "mixed7"])
def test_train_on_given_cut_writes_run_of_that_store(both: Path, tmp_path: Path, quiet: Console, cut: str) -> None:
    config = make_config(both, tmp_path / "run", cut=cut)
    metrics = train_head(config, quiet)
    run = Run(config.run)
    assert metrics["cut"] == run.record.config["cut"] == cut
    assert run.open_store().path == both / cut
    assert run.record.feature_shape == list(SHAPES[cut])
    store = FeatureStore(both / cut)
    assert run.record.fingerprint == store.fingerprint.digest
    expanded = expand_head(run, store, split_examples(store.examples, 0.2).validation, quiet)
    assert expanded.input_kernel.shape == (np.prod(SHAPES[cut]), 8)
    assert train_head(config, quiet) == metrics
    other = "mixed7" if cut == "mixed5" else "mixed5"
    assert train_head(replace(config, cut=other), quiet)["cut"] == other
    (kept,) = (path for path in tmp_path.iterdir() if path.name.startswith("run-"))
    assert Run(kept).read_metrics() == metrics


@pytest.mark.unit
def test_train_on_single_store_accepts_only_its_own_cut(both: Path, tmp_path: Path, quiet: Console) -> None:
    store = both / "mixed5"
    with raises(UsageError, where="--cut", got="mixed7") as caught:
        train_head(make_config(store, tmp_path / "run", cut="mixed7"), quiet)
    assert "mixed5" in caught.value.expected
    assert not (tmp_path / "run").exists()
    assert train_head(make_config(store, tmp_path / "run", cut="mixed5"), quiet)["cut"] == "mixed5"


@pytest.mark.unit
def test_open_store_in_folder_of_one_cut_needs_no_cut(tmp_path: Path) -> None:
    made = make_store(tmp_path / "folder/mixed0", PATHS)
    for cut in ("", "mixed0"):
        assert open_store(tmp_path / "folder", cut).path == made.path
    # A store must be in the folder of its own cut.
    made.path.rename(tmp_path / "folder/mixed5")
    with raises(StoreMissingError, where=tmp_path / "folder"):
        open_store(tmp_path / "folder", "mixed5")


@pytest.mark.unit
def test_train_in_folder_of_one_cut_gives_same_run_with_and_without_cut(
    both: Path, tmp_path: Path, quiet: Console
) -> None:
    shutil.copytree(both / "mixed7", tmp_path / "stores/mixed7")
    plain = make_config(tmp_path / "stores", tmp_path / "run")
    metrics = train_head(plain, quiet)
    written = (plain.run / "run.json").read_bytes()
    for config in (replace(plain, cut="mixed7"), replace(plain, store=tmp_path / "stores/mixed7"), plain):
        assert train_head(config, quiet) == metrics
    assert (plain.run / "run.json").read_bytes() == written


@pytest.mark.parametrize("solver", [SolverName.REDUCED, SolverName.FULL])
def test_train_on_pooled_features_learns_and_writes_its_head(
    tmp_path: Path, quiet: Console, solver: SolverName
) -> None:
    features = np.random.default_rng(3).normal(0.4, 0.3, (len(PATHS), 768))
    for feature, path in zip(features, PATHS, strict=True):
        feature[CLASSES.index(path.split("/")[1]) :: 3] += 0.5
    store = make_store(tmp_path / "store", PATHS, features=features, fingerprint=replace(FINGERPRINT, pool="avg"))
    assert store.feature_shape == (768,)
    config = make_config(store, tmp_path / "run", solver=solver, epochs=15)
    assert train_head(config, quiet)["val_accuracy"] == 1.0
    run, split = Run(config.run), split_examples(store.examples, 0.2)
    expanded = expand_head(run, store, split.validation, quiet)
    assert expanded.input_kernel.shape == (768, 8)
    head = restore_head(expanded, (768,), 2, 0.3)
    outputs = head.predict_on_batch(store.read(split.validation).astype(np.float32))[:, 0]
    rows = [line.split(",") for line in (config.run / "predictions.csv").read_text().splitlines()[1:]]
    np.testing.assert_allclose(outputs, [float(row[-1]) for row in rows], atol=1e-5)


def average_pixels(pixels: Any) -> Any:
    """Compute the pooled features of the tiny backbone from their definition: the mean of each scaled channel."""
    return (pixels / 127.5 - 1).mean(axis=(0, 1))


def test_stitch_with_pooled_backbone_computes_means_then_head() -> None:
    backbone = cut_backbone(build_tiny_backbone(), TINY_CUT, Pool.AVG)
    rng = np.random.default_rng(1)
    shapes = ((3, 4), (4,), (4, 1), (1,))
    weights = HeadWeights(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))
    model = stitch(backbone, restore_head(weights, (3,), 2, 0.2), TINY_SIZE)
    pixels = rng.integers(0, 256, (5, TINY_SIZE, TINY_SIZE, 3), np.uint8)
    means = np.array([average_pixels(picture.astype(np.float64)) for picture in pixels])
    hidden = np.maximum(means @ weights.input_kernel + weights.input_bias, 0)
    expected = 1 / (1 + np.exp(-(hidden @ weights.output_kernel + weights.output_bias)))
    assert backbone.output_shape == (None, 3)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(model.predict_on_batch(pixels), expected, atol=1e-6)


@pytest.fixture
def _tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.finetuning.backbone.build_backbone", lambda size, weights: build_tiny_backbone())


@pytest.mark.usefixtures("_tiny_backbone")
@pytest.mark.parametrize("stored", [Pool.AVG, Pool.NONE])
def test_export_of_run_on_means_of_one_cut_agrees_with_training(
    both: Path, tmp_path: Path, quiet: Console, stored: Pool
) -> None:
    pictures, folder, backbone = draw_tiny_pictures(tmp_path / "pictures"), tmp_path / "stores", build_tiny_backbone()
    means = np.stack([average_pixels(picture.astype(np.float64)) for picture in pictures.pixels])
    features = means if stored is Pool.AVG else None
    store = store_tiny_pictures(folder / TINY_CUT, pictures, backbone, stored, features)
    (folder / "mixed5").symlink_to(both / "mixed5")
    pool = Pool.AVG if stored is Pool.NONE else Pool.NONE
    assert rebuild_backbone(open_store(store.path, "", pool), "", quiet).output_shape == (None, 3)
    config = make_config(folder, tmp_path / "run", cut=TINY_CUT, epochs=20, pool=pool)
    metrics = train_head(config, quiet)
    assert Run(config.run).record.feature_shape == [3]
    assert train_head(config, quiet) == metrics
    moved = folder.rename(tmp_path / "moved")
    result = export(ExportConfig(config.run, tmp_path / "out", store=str(moved)), quiet)
    assert result["max_difference"] <= 1e-5
    assert (result["num_pictures"], result["num_flipped"]) == (6, 0)
    assert result["accuracy"] == metrics["val_accuracy"] == 1.0
    assert read_card(tmp_path / "out/model.keras").cut == TINY_CUT
    rows = [line.split(",") for line in (config.run / "predictions.csv").read_text().splitlines()[1:]]
    expected = {row[0]: float(row[-1]) for row in rows}
    images = dict(zip(pictures.paths, pictures.pixels, strict=True))
    # Loaded by Keras, because `load_export` rebuilds InceptionV3, and this backbone is a substitute.
    import keras

    model = keras.saving.load_model(tmp_path / "out/model.keras")
    outputs = [float(model(images[path][None])[0, 0]) for path in expected]
    np.testing.assert_allclose(outputs, list(expected.values()), atol=1e-3)


@pytest.mark.usefixtures("_tiny_backbone")
@pytest.mark.parametrize(("pool", "shape"), [("none", (None, 4, 4, 3)), ("avg", (None, 3))])
def test_rebuild_backbone_pools_as_the_store_does(
    tmp_path: Path, quiet: Console, pool: str, shape: tuple[int | None, ...]
) -> None:
    digest = hash_weights(build_tiny_backbone())
    fingerprint = replace(FINGERPRINT, cut=TINY_CUT, image_size=TINY_SIZE, pool=pool, weights_sha256=digest)
    store = make_store(tmp_path / "store", PATHS[:1], fingerprint=fingerprint)
    assert rebuild_backbone(store, "", quiet).output_shape == shape
