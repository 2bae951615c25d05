"""Trainings and exports on several cut layers that are joined to one feature."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from base.errors import HeadstartError, UsageError
from base.terminal import Console
from extract.backbone import cut_backbone, hash_weights
from features.cuts import open_store
from features.options import Pool
from tests.errors import raises
from tests.train_head.synthetic import FINGERPRINT, TINY_SIZE, draw_features, list_paths, make_store
from tests.train_head.tiny import draw_tiny_pictures, store_tiny_pictures
from tests.train_head.training import make_config
from train_head.config import HeadConfig, SolverName, SplitName
from train_head.data.split import split_examples
from train_head.evaluation.outliers import fit_detector
from train_head.export.config import ExportConfig
from train_head.export.write import export_run
from train_head.finetuning.backbone import rebuild_backbone
from train_head.prepare import prepare_training
from train_head.runs.card import read_card
from train_head.runs.expand import compute_store_logits, expand_head
from train_head.runs.read import Run
from train_head.solvers.network import compute_probabilities
from train_head.sweep.config import SweepConfig
from train_head.sweep.plan import plan_sweep
from train_head.train import train_head

PATHS = list_paths({"train/cats": 6, "train/dogs": 5, "validation/cats": 3, "validation/dogs": 3})
BOTH = "mixed5,mixed7"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with flat features of two cut layers, the second of which are a thousand times larger; not changed."""
    folder = tmp_path_factory.mktemp("joined") / "both"
    for cut, shape, factor in (("mixed5", (3, 3, 3), 1), ("mixed7", (2, 2, 4), 1000)):
        features = factor * draw_features(PATHS, shape)
        rows = 8 if cut == "mixed5" else 5
        make_store(
            folder / cut, PATHS, features=features, rows_per_shard=rows, fingerprint=replace(FINGERPRINT, cut=cut)
        )
    return folder


@pytest.mark.parametrize("solver", [SolverName.REDUCED, SolverName.FULL])
def test_train_on_two_cuts_gives_a_run_that_opens_its_own_scaled_features(
    both: Path, tmp_path: Path, quiet: Console, solver: SolverName
) -> None:
    config = make_config(both, tmp_path / "run", cut="mixed5+mixed7", pool=Pool.AVG, solver=solver, epochs=15)
    metrics = train_head(config, quiet)
    assert (metrics["cut"], metrics["val_accuracy"]) == (BOTH, 1.0)
    run = Run(config.run)
    assert run.record.feature_shape == [7]
    assert run.options["cut"] == BOTH
    store = run.open_store()
    assert store.scales == tuple(run.record.scales)
    split = run.find_split(store)
    features = store.read(split.train).astype(np.float64)
    for part in (features[:, :3], features[:, 3:]):
        assert np.square(part).mean() == pytest.approx(1, rel=1e-3)
    head = expand_head(run, store, split.validation, quiet)
    found = compute_probabilities(compute_store_logits(head, store, split.validation))
    rows = {prediction.path: prediction.row for prediction in run.read_predictions()}
    np.testing.assert_allclose(found, [rows[example.path] for example in split.validation], atol=1e-5)
    np.testing.assert_allclose(run.predict_proba(store.read(split.validation)), found, atol=1e-5)
    assert train_head(replace(config, cut=BOTH), quiet) == metrics


@pytest.mark.unit
def test_run_on_two_cuts_keeps_its_scales_after_the_store_has_other_pictures(
    both: Path, tmp_path: Path, quiet: Console
) -> None:
    folder = shutil.copytree(both, tmp_path / "stores")
    config = make_config(folder, tmp_path / "run", cut=BOTH, pool=Pool.AVG)
    train_head(config, quiet)
    before = Run(config.run).open_store()
    for cut, shape in (("mixed5", (3, 3, 3)), ("mixed7", (2, 2, 4))):
        new = [*PATHS, "train/dogs/new.jpg"]
        features = np.concatenate([draw_features(PATHS, shape), 50 * draw_features(new[-1:], shape)])
        make_store(folder / cut, new, features=features, fingerprint=replace(FINGERPRINT, cut=cut))
    after = Run(config.run).open_store()
    assert len(after) == len(before) + 1
    np.testing.assert_array_equal(after.read(after.examples[:3]), before.read(before.examples[:3]))
    training = prepare_training(config)
    assert training.store.scales != before.scales
    assert training.list_differences() != []


@pytest.mark.unit
def test_scales_of_a_training_are_those_of_its_training_pictures(both: Path, tmp_path: Path) -> None:
    config = make_config(both, tmp_path / "run", cut=BOTH, pool=Pool.AVG)
    store = prepare_training(config).store
    single = open_store(both, "mixed7", Pool.AVG)
    trained = [example for example in single.examples if example.split == "train"]
    mean_square = np.square(single.read(trained), dtype=np.float64).mean()
    assert store.scales[1] == pytest.approx(mean_square**-0.5, rel=1e-6)
    assert prepare_training(replace(config, cut="mixed7,mixed5")).store.scales == store.scales[::-1]


@pytest.mark.unit
def test_train_on_two_cuts_without_pooling_or_with_fine_tuning_is_usage_error(
    both: Path, tmp_path: Path, quiet: Console
) -> None:
    for options in ({}, {"pool": Pool.AVG, "unfreeze_from": "mixed6"}):
        with raises(UsageError, where="--cut"):
            train_head(make_config(both, tmp_path / "run", cut=BOTH, **options), quiet)
    assert not (tmp_path / "run").exists()


@pytest.mark.unit
def test_split_by_group_is_the_same_for_one_cut_and_for_several(tmp_path: Path) -> None:
    folder, paths = tmp_path / "stores", list_paths({"cats": 12, "dogs": 12})
    for cut, shape in (("mixed5", (3,)), ("mixed7", (4,))):
        fingerprint = replace(FINGERPRINT, cut=cut, pool="avg")
        make_store(folder / cut, paths, features=draw_features(paths, shape), fingerprint=fingerprint)
    splits = [
        prepare_training(make_config(folder, tmp_path / "run", cut=cut, split=SplitName.GROUP)).split
        for cut in ("mixed7", BOTH)
    ]
    assert [e.path for e in splits[0].validation] == [e.path for e in splits[1].validation]
    assert splits[0].group_of == splits[1].group_of


def build_two_cuts() -> Any:
    """Build a backbone with two layers to cut at: means of 4 x 4 pixels, and their positive parts."""
    import keras

    pixels = keras.Input((TINY_SIZE, TINY_SIZE, 3))
    means = keras.layers.AveragePooling2D(4)(pixels)
    return keras.Model(pixels, keras.layers.Activation("relu")(means), name="tiny")


@pytest.mark.parametrize("units", [0, 8])
@pytest.mark.parametrize("stored", [Pool.AVG, Pool.NONE])
def test_export_of_run_on_two_cuts_agrees_with_training(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, stored: Pool, units: int
) -> None:
    monkeypatch.setattr("train_head.finetuning.backbone.build_backbone", lambda size, weights: build_two_cuts())
    pictures, folder = draw_tiny_pictures(tmp_path / "pictures"), tmp_path / "stores"
    cuts = ["average_pooling2d", "activation"]
    for cut in cuts:
        store_tiny_pictures(folder / cut, pictures, cut_backbone(build_two_cuts(), cut, stored), stored)
    pool = Pool.AVG if stored is Pool.NONE else Pool.NONE
    config = make_config(folder, tmp_path / "run", cut=",".join(cuts), pool=pool, epochs=20, units=units)
    metrics = train_head(config, quiet)
    result = export_run(ExportConfig(config.run, tmp_path / "out"), quiet)
    assert (result.parity.num_pictures, result.parity.num_flipped) == (6, 0)
    assert result.parity.max_difference <= 1e-5
    card = read_card(tmp_path / "out/model.keras")
    assert (card.cut, card.pool, card.scales) == (",".join(cuts), "avg", Run(config.run).record.scales)
    # Loaded by Keras, because `load_export` rebuilds InceptionV3, and this backbone is a substitute.
    outputs = result.load()(pictures.pixels)[:, 0]
    rows = {prediction.path: prediction.row[1] for prediction in Run(config.run).read_predictions()}
    found = dict(zip(pictures.paths, np.asarray(outputs).tolist(), strict=True))
    assert metrics["val_accuracy"] == 1.0
    assert rows == pytest.approx({path: found[path] for path in rows}, abs=1e-3)


def test_export_with_other_weights_up_to_one_cut_is_refused(both: Path, quiet: Console) -> None:
    digest = hash_weights(build_two_cuts())
    store = open_store(both, BOTH, Pool.AVG)
    for number, part in enumerate(store.parts):
        part.contents = replace(part.contents, fingerprint=replace(part.fingerprint, cut="activation"))
        if not number:
            part.contents = replace(part.contents, fingerprint=replace(part.fingerprint, weights_sha256=digest))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_head.finetuning.backbone.build_backbone", lambda size, weights: build_two_cuts())
        with raises(HeadstartError, got=f"{digest[:12]}…") as caught:
            rebuild_backbone(store, "", quiet)
    assert str(both / "mixed7") in caught.value.expected


@pytest.mark.unit
def test_sweep_tries_several_cuts_as_one_value(both: Path, tmp_path: Path) -> None:
    tries = ["cut=mixed5+mixed7,mixed7"]
    plan = plan_sweep(SweepConfig(both, tmp_path / "sweep", tries=tries, pool=Pool.AVG))
    assert [candidate.name for candidate in plan.candidates] == ["cut-mixed5+mixed7", "cut-mixed7"]
    assert [dataset.store.feature_shape for dataset in plan.datasets] == [(7,), (4,)]
    assert prepare_training(plan.candidates[0].config).store.fingerprint == plan.datasets[0].store.fingerprint


def test_train_from_python_on_a_joined_store_uses_its_cuts(both: Path, tmp_path: Path) -> None:
    options: Any = {"epochs": 2, "units": 4, "no_report": True}
    run = hs.train(hs.open_store(both, ["mixed5", "mixed7"], pool="avg"), tmp_path / "run", **options)
    again = hs.train(both, tmp_path / "again", cut=BOTH, pool="avg", **options)
    assert run.options["cut"] == BOTH
    assert run.record.head == again.record.head


def test_detector_of_outliers_on_two_cuts_is_that_of_the_last(both: Path, quiet: Console) -> None:
    detectors = []
    for cut in (BOTH, "mixed7"):
        store = open_store(both, cut, "avg")
        detectors.append(fit_detector(store, split_examples(store.examples, 0.2), HeadConfig(), quiet))
    assert detectors[0] is not None
    assert detectors[1] is not None
    np.testing.assert_array_equal(detectors[0].held_out, detectors[1].held_out)
    np.testing.assert_array_equal(detectors[0].validation, detectors[1].validation)
