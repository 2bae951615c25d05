"""Training from a store to a run: files, metrics, existing runs, targets, unusual and unusable stores."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from base.errors import HeadstartError, StoreMissingError
from base.terminal import Console
from features.catalog.catalog import Catalog
from features.schema import ImageStatus
from features.store import FeatureStore
from tests.errors import raises
from tests.files import read_files
from tests.train_head.synthetic import OPTIONS, list_paths, make_store, place_hash
from tests.train_head.training import RUN_FILES
from train_head.config import OptimizerName, TrainConfig
from train_head.data.split import split_examples
from train_head.runs.read import Run
from train_head.runs.tables import list_run_examples
from train_head.solvers.head import expand_probabilities, restore_head
from train_head.solvers.history import DivergedError
from train_head.train import train_head


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def make_config(store: FeatureStore, tmp_path: Path) -> TrainConfig:
    return TrainConfig(store.path, tmp_path / "run", epochs=2, batch_size=8, units=4, no_report=True)


def test_train_on_extracted_features_writes_complete_run(trained: Path, shared_store: Path) -> None:
    assert sorted(read_files(trained)) == ["curves.png", *RUN_FILES]
    assert [path.name for path in trained.parent.iterdir()] == ["run"]
    run = Run(trained)
    store = FeatureStore(shared_store)
    assert run.record.solver == "full"
    assert run.read_local_paths()["store"] == str(shared_store)
    assert run.open_store().path == shared_store
    assert run.record.fingerprint == store.fingerprint.digest
    assert run.record.feature_shape == [3, 3, 768]
    assert run.record.classes == ["cats", "dogs"]
    assert run.record.split_rule == "folder validation/"
    assert run.record.config["units"] == 16
    assert run.read_examples() == list_run_examples(split_examples(store.examples, 0.2))
    with Image.open(trained / "curves.png") as curves:
        assert curves.size == (1080, 456)


def test_train_metrics_agree_with_history(trained: Path) -> None:
    metrics = Run(trained).read_metrics()
    history = read_rows(trained / "history.csv")
    assert metrics["solver"] == "full"
    assert metrics["epochs"] == len(history) == OPTIONS["epochs"]
    assert isinstance(metrics["seconds"], float)
    assert metrics["classes"] == ["cats", "dogs"]
    assert metrics["kept_epoch"] == OPTIONS["epochs"]
    assert metrics["train_accuracy"] == 1.0
    assert metrics["val_loss"] == float(history[-1]["val_loss"])
    assert metrics["val_accuracy"] == pytest.approx(float(history[-1]["val_accuracy"])) == 1.0
    assert (metrics["num_train"], metrics["num_validation"]) == (24, 12)
    assert (metrics["num_leaked"], metrics["num_pending"]) == (0, 0)
    assert metrics["largest_class_share"] == 0.5


def test_train_predictions_agree_with_metrics_and_head(trained: Path, shared_store: Path) -> None:
    run, store = Run(trained), FeatureStore(shared_store)
    metrics, rows = run.read_metrics(), read_rows(trained / "predictions.csv")
    validation = split_examples(store.examples, 0.2).validation
    assert [(row["path"], row["label"]) for row in rows] == [(e.path, e.label) for e in validation]
    assert np.mean([row["label"] == row["predicted"] for row in rows]) == metrics["val_accuracy"]
    for number, label in enumerate(["cats", "dogs"]):
        predicted = [sum(r["label"] == label and r["predicted"] == p for r in rows) for p in ("cats", "dogs")]
        assert metrics["confusion"][number] == predicted
    head = restore_head(run.read_head(), store.feature_shape, 2, run.dropout)
    outputs = expand_probabilities(head.predict_on_batch(store.read(validation).astype(np.float32)))
    written = [[float(row["p(cats)"]), float(row["p(dogs)"])] for row in rows]
    np.testing.assert_allclose(written, outputs, atol=2e-7)


def test_train_again_changes_nothing_and_returns_same_metrics(
    run: Path, shared_store: Path, trained: Path, quiet: Console
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    assert train_head(TrainConfig(shared_store, run, **OPTIONS), quiet) == Run(trained).read_metrics()
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_train_with_other_options_keeps_earlier_run_unless_overwriting(
    run: Path, shared_store: Path, quiet: Console, overwrite: bool
) -> None:
    (run / "notes.txt").write_text("mine")
    before = read_files(run)
    config = replace(TrainConfig(shared_store, run, **OPTIONS), epochs=1, units=8, no_report=True, overwrite=overwrite)
    metrics = train_head(config, quiet)
    assert sorted(read_files(run)) == sorted([*RUN_FILES, "notes.txt"])
    assert (run / "notes.txt").read_text() == "mine"
    assert Run(run).read_metrics() == metrics
    assert Run(run).read_head().input_bias.shape == (8,)
    kept = [path for path in run.parent.iterdir() if path.name != "run"]
    assert len(kept) == (0 if overwrite else 1)
    for path in kept:
        assert re.fullmatch(r"run-\d{4}-\d\d-\d\d-\d{6}", path.name)
        assert read_files(path) | {"notes.txt": b"mine"} == before
        assert Run(path).read_head().input_bias.shape == (16,)


def test_train_several_times_in_a_second_keeps_each_run(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = replace(make_config(two_classes, tmp_path), epochs=1)
    for units in (4, 5, 6, 7):
        train_head(replace(config, units=units), quiet)
    sizes = sorted(Run(path).record.config["units"] for path in tmp_path.iterdir())
    assert sizes == [4, 5, 6, 7]
    assert Run(config.run).record.config["units"] == 7


@pytest.mark.unit
def test_train_twice_with_same_seed_writes_same_files(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path)
    for name in ("first", "again"):
        train_head(replace(config, run=tmp_path / name), quiet)
    first, again = (read_files(tmp_path / name) for name in ("first", "again"))
    for name in ("head.npz", "predictions.csv", "examples.csv"):
        assert first[name] == again[name], name


def test_train_that_diverges_leaves_earlier_run_unchanged(run: Path, shared_store: Path, quiet: Console) -> None:
    before = read_files(run)
    options: dict[str, Any] = {"epochs": 2, "units": 4, "learning_rate": 1e30, "optimizer": OptimizerName.SGD}
    config = TrainConfig(shared_store, run, **options, overwrite=True)
    with raises(DivergedError, where="epoch 1") as caught:
        train_head(config, quiet)
    assert "1e+30" in caught.value.got
    assert read_files(run) == before
    assert [path.name for path in run.parent.iterdir()] == ["run"]


@pytest.mark.unit
def test_train_leaves_user_folders_with_similar_names(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    for name in (".partial-run", ".partial-run-old", ".checkpoint-run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
    config = make_config(two_classes, tmp_path)
    train_head(config, quiet)
    train_head(replace(config, overwrite=True), quiet)
    for name in (".partial-run", ".partial-run-old", ".checkpoint-run"):
        assert read_files(tmp_path / name) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("name", [".", "link"])
@pytest.mark.unit
def test_train_into_current_folder_or_link_fills_that_folder(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "work" / "target"
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    run = Path() if name == "." else tmp_path / "link"
    train_head(replace(make_config(two_classes, tmp_path), run=run), quiet)
    monkeypatch.chdir(tmp_path)
    assert Run(folder).record.classes == ["cats", "dogs"]
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in folder.parent.iterdir()] == ["target"]


@pytest.mark.unit
def test_train_creates_missing_parent_folders(two_classes: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    run = tmp_path / "runs" / "of today" / "first"
    train_head(replace(make_config(two_classes, tmp_path), run=run), quiet)
    assert sorted(read_files(run)) == sorted([*RUN_FILES, "reduction.npz", "validation_logits.npy"])


def test_train_on_three_classes_writes_softmax_head(
    three_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = replace(make_config(three_classes, tmp_path), epochs=15, learning_rate=0.05, units=16)
    metrics = train_head(config, quiet)
    assert metrics["classes"] == ["cats", "dogs", "owls"]
    assert metrics["val_accuracy"] == 1.0
    assert metrics["confusion"] == [[4, 0, 0], [0, 4, 0], [0, 0, 4]]
    assert Run(config.run).read_head().output_kernel.shape == (16, 3)
    row = read_rows(config.run / "predictions.csv")[0]
    assert list(row) == ["path", "label", "predicted", "p(cats)", "p(dogs)", "p(owls)"]
    assert sum(float(row[f"p({label})"]) for label in metrics["classes"]) == pytest.approx(1, abs=1e-6)


def test_train_without_validation_folder_splits_by_content(tmp_path: Path, quiet: Console) -> None:
    store = make_store(tmp_path / "store", list_paths({"cats": 30, "dogs": 30}))
    config = replace(make_config(store, tmp_path), validation_split=0.3, epochs=1)
    metrics = train_head(config, quiet)
    split = split_examples(store.examples, 0.3)
    assert metrics["split_rule"] == "content hash, 0.3 set aside"
    assert (metrics["num_train"], metrics["num_validation"]) == (len(split.train), len(split.validation))
    assert [row["path"] for row in read_rows(config.run / "predictions.csv")] == [
        example.path for example in split.validation
    ]


def test_train_after_interrupted_extraction_warns_and_excludes_pending_pictures(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = list_paths({"train/cats": 4, "train/dogs": 4, "validation/cats": 2, "validation/dogs": 2})
    store = make_store(tmp_path / "store", paths)
    catalog = Catalog(store.path / "catalog.sqlite", writable=True)
    pending = [
        image._replace(status=ImageStatus.PENDING, content_hash=None)
        for image in catalog.read_images()
        if image.path in ("train/cats/01.jpg", "train/dogs/03.jpg", "validation/dogs/00.jpg")
    ]
    catalog.write_images(pending)
    catalog.close()
    config = replace(make_config(store, tmp_path), epochs=1)
    metrics = train_head(config, quiet)
    (warning,) = capsys.readouterr().err.splitlines()
    assert f"{store.path}: 3 of 12 " in warning
    assert (metrics["num_pending"], metrics["num_train"], metrics["num_validation"]) == (3, 6, 3)
    assert {e.path for e in Run(config.run).read_examples()} == set(paths) - {e.path for e in pending}


@pytest.mark.unit
def test_train_with_leaked_and_conflicting_pictures_warns_of_both(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = list_paths({"train/cats": 3, "train/dogs": 3, "validation/cats": 2, "validation/dogs": 2})
    contents = [place_hash(number / 20) for number in range(len(paths))]
    contents[6] = contents[0]
    contents[8] = contents[0]
    contents[9] = contents[4]
    store = make_store(tmp_path / "store", paths, contents=contents)
    metrics = train_head(replace(make_config(store, tmp_path), epochs=1), quiet)
    assert metrics["num_leaked"] == 3
    leaked, conflicting = capsys.readouterr().err.splitlines()
    assert "3" in leaked
    assert "train/cats/00.jpg = validation/dogs/00.jpg" in conflicting


def test_train_on_clean_store_logs_its_size_without_warnings(
    two_classes: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_head(replace(make_config(two_classes, tmp_path), epochs=1), Console())
    output = capsys.readouterr()
    assert output.out == ""
    assert "warning" not in output.err
    summary = output.err.splitlines()[0]
    for value in (str(two_classes.path), "23", "8", "cats", "dogs"):
        assert value in summary


@pytest.mark.unit
def test_train_on_empty_store_fails_and_leaves_no_run(tmp_path: Path, quiet: Console) -> None:
    features = np.empty((0, 2, 2, 3), np.float16)
    store = make_store(tmp_path / "store", [], features=features)
    with raises(HeadstartError, got="none"):
        train_head(make_config(store, tmp_path), quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("exists", [False, True], ids=["absent", "empty folder"])
@pytest.mark.unit
def test_train_without_store_fails_and_leaves_no_run(tmp_path: Path, quiet: Console, exists: bool) -> None:
    if exists:
        (tmp_path / "nowhere").mkdir()
    with raises(StoreMissingError, where=tmp_path / "nowhere"):
        train_head(TrainConfig(tmp_path / "nowhere", tmp_path / "run"), quiet)
    assert not (tmp_path / "run").exists()


@pytest.mark.unit
def test_train_with_missing_shard_fails_and_leaves_no_run(tmp_path: Path, quiet: Console) -> None:
    paths = list_paths({"train/cats": 4, "train/dogs": 4, "validation/cats": 2, "validation/dogs": 2})
    store = make_store(tmp_path / "store", paths)
    lost = store.path / "shards" / store.shards[1].name
    lost.unlink()
    with pytest.raises(HeadstartError) as caught:
        train_head(make_config(store, tmp_path), quiet)
    assert lost.name in str(caught.value.where)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
