"""Whole sweeps: every head a run, a table, baselines, and the best kept, which can be exported."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from base.command_line import CommandFailed
from base.terminal import Console
from extract.backbone import hash_weights
from features.store import FeatureStore
from tests.pictures import draw_picture, fill_folder
from tests.train_head.sweeps import FOUR, FOUR_NAMES, make_cuts, make_sweep, read_table
from tests.train_head.synthetic import FINGERPRINT, TINY_SIZE, build_tiny_backbone, make_store, read_folder
from tests.train_head.training import UNSTABLE, make_config
from train_head.config import ExportConfig, OptimizerName
from train_head.export.__main__ import export
from train_head.runs.read import Run
from train_head.runs.record import LOGS_FOLDER, describe_config
from train_head.sweep.__main__ import sweep
from train_head.sweep.config import MetricName
from train_head.sweep.table import Sweep
from train_head.train import train_head


def test_sweep_makes_the_runs_that_training_makes(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(noisy, tmp_path / "out", *FOUR)
    result = sweep(config, quiet)
    assert sorted(path.name for path in config.out.iterdir()) == ["best", "sweep.csv", "trials"]
    assert sorted(path.name for path in (config.out / "trials").iterdir()) == sorted(FOUR_NAMES)
    for row in result["trials"]:
        single = make_config(noisy, tmp_path / "single" / row["name"], epochs=3, **row["values"])
        metrics = train_head(single, quiet)
        assert (single.run / "head.npz").read_bytes() == (Path(row["run"]) / "head.npz").read_bytes()
        assert (row["metric"], row["status"], row["epochs"]) == (metrics["val_accuracy"], "done", 3)
        assert row["val_loss"] == pytest.approx(metrics["val_loss"], rel=1e-5)


def test_sweep_table_is_sorted_and_has_the_baselines(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(noisy, tmp_path / "out", *FOUR)
    result = sweep(config, quiet)
    assert [row["name"] for row in result["baselines"]] == ["logistic regression, mixed0", "largest class"]
    assert result["baselines"][1]["metric"] == 9 / 16
    table = read_table(config.out)
    assert sorted(row["name"] for row in table) == sorted([*FOUR_NAMES, "logistic regression, mixed0", "largest class"])
    keys = [(-float(row["metric"]), float(row["val_loss"])) for row in table]
    assert keys == sorted(keys)
    heads = [row["name"] for row in table if row["status"] == "done"]
    assert [row["name"] for row in result["trials"]] == heads
    assert result["best"]["name"] == heads[0]
    assert (result["num_heads"], result["metric"]) == (4, "val_accuracy")
    read = Sweep(config.out)
    assert [(row["name"], row["metric"], row["num_fits"]) for row in read.rows if row["status"] == "done"] == [
        (row["name"], row["metric"], row["num_fits"]) for row in result["trials"]
    ]
    assert read.best.folder == config.out / "best"


def test_sweep_keeps_the_whole_run_of_the_best(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(noisy, tmp_path / "out", *FOUR)
    best = sweep(config, quiet)["best"]
    assert best["run"] == str(config.out / "best")
    assert best["trial"] == str(config.out / "trials" / best["name"])
    kept, trial = read_folder(config.out / "best"), read_folder(Path(best["trial"]))
    assert {name for name in kept if kept[name] != trial.get(name)} == {"metrics.json", "run.json"}
    Run(config.out / "best").check_files()
    metrics, before = Run(config.out / "best").read_metrics(), Run(Path(best["trial"])).read_metrics()
    assert metrics["selection"] == {"num_heads": 4, "num_epochs": 1, "metric": "val_accuracy", "num_possible": 0}
    assert metrics["val_accuracy_interval"] == [best["low"], best["high"]]
    changed = {"selection", "val_accuracy_interval"}
    assert {name for name in metrics if metrics[name] != before[name]} == changed


def test_sweep_that_goes_on_with_more_heads_says_so_of_the_same_best(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    first = make_sweep(noisy, tmp_path / "out", "seed=3,4", epochs=1, no_report=False)
    sweep(first, quiet)
    second = sweep(replace(first, tries=["seed=3,4,5"]), quiet)
    metrics = Run(first.out / "best").read_metrics()
    assert metrics["selection"]["num_heads"] == 3
    assert "the best of 3 heads" in (first.out / "best/report.html").read_text()
    assert metrics["val_accuracy_interval"] == [second["best"]["low"], second["best"]["high"]]


def test_sweep_files_hold_no_path_of_the_machine(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    other = make_store(tmp_path / "other", [example.path for example in noisy.examples])
    config = make_sweep(noisy, tmp_path / "out", f"store={noisy.path},{other.path}", no_report=False)
    sweep(config, quiet)
    for path in (config.out / "sweep.csv", config.out / "best/report.html"):
        text = path.read_text()
        assert str(tmp_path) not in text
        assert str(noisy.path) not in text
        assert str(noisy.path.parent) not in text
    assert not [path for path in config.out.rglob("*") if tmp_path.name in path.name]


def test_sweep_of_two_cuts_compares_them_on_the_same_pictures(tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(make_cuts(tmp_path / "cuts"), tmp_path / "out", "pool=none,avg")
    result = sweep(config, quiet)
    assert sorted(row["name"] for row in result["trials"]) == sorted(
        f"cut-{cut}_pool-{pool}" for cut in ("mixed5", "mixed7") for pool in ("none", "avg")
    )
    names = {row["name"] for row in result["baselines"]}
    assert names == {"logistic regression, mixed5", "logistic regression, mixed7", "largest class"}
    shapes = {row["name"]: Run(Path(row["run"])).record.feature_shape for row in result["trials"]}
    assert shapes == {
        "cut-mixed5_pool-none": [2, 2, 3],
        "cut-mixed5_pool-avg": [3],
        "cut-mixed7_pool-none": [2, 2, 4],
        "cut-mixed7_pool-avg": [4],
    }


def test_sweep_over_stores_warns_where_they_validate_with_other_pictures(
    two_classes: FeatureStore, noisy: FeatureStore, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    result = sweep(make_sweep(noisy, tmp_path / "out", f"store={two_classes.path},{noisy.path}"), quiet)
    assert "1 of 2 stores and cuts have other validation pictures than the first" in capsys.readouterr().err
    assert {row["values"]["store"] for row in result["trials"]} == {str(two_classes.path), str(noisy.path)}
    assert len({row["name"] for row in result["baselines"]}) == 4


@pytest.mark.parametrize(("options", "num_fits"), [({"repeats": 3}, 3), ({"folds": 4}, 4)], ids=["repeats", "folds"])
def test_sweep_with_repeats_or_folds_sorts_by_their_mean(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, options: dict[str, int], num_fits: int
) -> None:
    result = sweep(make_sweep(noisy, tmp_path / "out", "units=4,8", **options), quiet)
    (kind,) = options
    for row in result["trials"]:
        summary = Run(Path(row["run"])).read_metrics()[kind]
        assert row["metric"] == pytest.approx(summary["mean"])
        assert row["std"] == pytest.approx(summary["std"])
        assert row["low"] < row["metric"] < row["high"]
        assert row["num_fits"] == num_fits
    logistic = next(row for row in result["baselines"] if row["name"].startswith("logistic"))
    assert logistic["num_fits"] == (num_fits if kind == "folds" else 1)


def test_sweep_by_loss_leaves_the_l2_term_out(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(noisy, tmp_path / "out", "l2=0,0.5", metric=MetricName.VAL_LOSS)
    result = sweep(config, quiet)
    by_l2 = {row["values"]["l2"]: row for row in result["trials"]}
    run = Run(Path(by_l2[0.5]["run"]))
    penalty = 0.5 * run.read_head().sum_squares()
    assert penalty > 1
    assert by_l2[0.5]["metric"] == pytest.approx(run.read_metrics()["val_loss"] - penalty, rel=1e-3)
    assert [row["metric"] for row in result["trials"]] == sorted(row["metric"] for row in result["trials"])


def test_sweep_with_a_head_that_diverges_goes_on_and_ranks_it_last(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    options = {name: value for name, value in UNSTABLE.items() if name != "l2"}
    config = make_sweep(noisy, tmp_path / "out", "l2=5,0.01", "units=4", **options)
    result = sweep(config, quiet)
    statuses = [(row["values"]["l2"], row["status"]) for row in result["trials"]]
    assert statuses == [(0.01, "done"), (5.0, "diverged")]
    assert result["trials"][1]["metric"] is None
    # The run keeps the last good epoch.
    assert (Path(result["trials"][1]["run"]) / "head.npz").is_file()
    assert result["best"]["values"]["l2"] == 0.01
    again = sweep(config, quiet)
    assert again["trials"] == result["trials"]


def test_sweep_in_which_every_head_diverges_fails_with_its_table(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "learning-rate=1e38", optimizer=OptimizerName.SGD)
    with pytest.raises(CommandFailed, match=r"expected a head that was fitted to its end, got none\. ") as caught:
        sweep(config, quiet)
    (row,) = caught.value.result["trials"]
    assert (row["status"], row["run"], row["epochs"]) == ("diverged", "", 1)
    assert caught.value.result["best"] is None
    assert [row["status"] for row in read_table(config.out)] == ["baseline", "baseline", "diverged"]
    assert not (config.out / "best").exists()


def test_sweep_with_tensorboard_logs_every_trial(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(noisy, tmp_path / "out", *FOUR, tensorboard=True)
    sweep(config, quiet)
    logged = sorted(
        str(path.parent.relative_to(config.out / "trials")) for path in config.out.rglob("trials/**/*tfevents*")
    )
    assert logged == sorted(f"{name}/{LOGS_FOLDER}/{side}" for name in FOUR_NAMES for side in ("train", "validation"))


def test_sweep_draws_its_picture_and_the_report_of_the_best(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_sweep(noisy, tmp_path / "out", *FOUR, no_report=False)
    result = sweep(config, quiet)
    assert result["plot"] == str(config.out / "sweep.png")
    with Image.open(config.out / "sweep.png") as image:
        assert image.format == "PNG"
    assert result["report"] == str(config.out / "best" / "report.html")
    assert Path(result["report"]).is_file()
    assert not [*(config.out / "trials").rglob("*.png"), *(config.out / "trials").rglob("*.html")]


def test_sweep_best_is_exported_and_says_what_training_said(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_head.finetuning.backbone.build_backbone", lambda size, weights: build_tiny_backbone())
    pictures, backbone = tmp_path / "pictures", build_tiny_backbone()
    fill_folder(pictures, {"train/cats": 5, "train/dogs": 5})
    fill_folder(pictures, {"validation/cats": 3, "validation/dogs": 3}, start=50)
    files = sorted(pictures.rglob("*.jpg"))
    for file in files:
        # Drawn at the size that the backbone sees, so that what is expected needs no resizing.
        draw_picture(file.parent.name, int(file.stem), (TINY_SIZE, TINY_SIZE)).save(file, quality=95)
    pixels = np.stack([np.asarray(Image.open(file), np.float32) for file in files]) / 127.5 - 1
    tiny: dict[str, Any] = {
        "cut": "average_pooling2d",
        "image_size": TINY_SIZE,
        "weights_sha256": hash_weights(backbone),
    }
    store = make_store(
        tmp_path / "store",
        [str(file.relative_to(pictures)) for file in files],
        features=backbone.predict_on_batch(pixels),
        contents=[hashlib.sha256(file.read_bytes()).digest() for file in files],
        fingerprint=replace(FINGERPRINT, **tiny),
        images_folder=str(pictures),
    )
    config = make_sweep(store, tmp_path / "out", "units=4,8", epochs=15)
    best = sweep(config, quiet)["best"]
    shutil.rmtree(config.out / "trials")
    result = export(ExportConfig(config.out / "best", tmp_path / "model"), quiet)
    assert (result["num_pictures"], result["num_flipped"]) == (6, 0)
    assert result["accuracy"] == best["metric"]


def test_sweep_run_has_the_options_that_training_stores(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4")
    sweep(config, quiet)
    stored: dict[str, Any] = Run(config.out / "trials" / "units-4").record.config
    assert list(stored) == list(describe_config(make_config(noisy, tmp_path / "run")))
    assert stored["units"] == 4
