"""Whole sweeps: runs, table, baselines, plot, report and the best run, which can be exported."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from base.command_line import CommandFailed
from base.terminal import Console
from features.store import FeatureStore
from tests.files import read_files
from tests.train_head.multi_label import SETS, make_multi_label_store
from tests.train_head.sweeps import FOUR_NAMES, Swept, make_sweep, read_table
from tests.train_head.synthetic import build_tiny_backbone
from tests.train_head.tiny import draw_tiny_pictures, store_tiny_pictures
from tests.train_head.training import UNSTABLE, make_config
from train_head.config import OptimizerName
from train_head.evaluation.baselines import MAJORITY
from train_head.export.__main__ import export
from train_head.export.config import ExportConfig
from train_head.runs.read import Run
from train_head.runs.record import LOGS_FOLDER, describe_config
from train_head.sweep.__main__ import sweep
from train_head.sweep.config import MetricName
from train_head.sweep.table import Sweep
from train_head.train import train_head


@pytest.mark.unit
def test_sweep_fits_the_same_heads_as_training(
    swept: Swept, noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    out = swept.config.out
    assert sorted(path.name for path in out.iterdir()) == ["best", "sweep.csv", "trials"]
    assert sorted(path.name for path in (out / "trials").iterdir()) == sorted(FOUR_NAMES)
    for row in swept.result["trials"]:
        single = make_config(noisy, tmp_path / row["name"], epochs=3, **row["values"])
        metrics = train_head(single, quiet)
        assert (single.run / "head.npz").read_bytes() == (Path(row["run"]) / "head.npz").read_bytes()
        assert (row["metric"], row["status"], row["epochs"]) == (metrics["val_accuracy"], "done", 3)
        assert row["val_loss"] == pytest.approx(metrics["val_loss"], rel=1e-5)


@pytest.mark.unit
def test_sweep_records_the_options_of_training(swept: Swept, noisy: FeatureStore, tmp_path: Path) -> None:
    stored: dict[str, Any] = Run(swept.config.out / "trials" / FOUR_NAMES[0]).record.config
    assert list(stored) == list(describe_config(make_config(noisy, tmp_path / "run")))
    assert (stored["units"], stored["dropout"]) == (4, 0.0)


@pytest.mark.unit
def test_sweep_table_is_sorted_and_includes_the_baselines(swept: Swept) -> None:
    result, out = swept.result, swept.config.out
    assert [row["name"] for row in result["baselines"]] == ["largest class"]
    assert result["baselines"][0]["metric"] == 9 / 16
    table = read_table(out)
    assert sorted(row["name"] for row in table) == sorted([*FOUR_NAMES, "largest class"])
    keys = [(-float(row["metric"]), float(row["val_loss"])) for row in table]
    assert keys == sorted(keys)
    heads = [row["name"] for row in table if row["status"] == "done"]
    assert [row["name"] for row in result["trials"]] == heads
    assert result["best"]["name"] == heads[0]
    assert (result["num_heads"], result["metric"]) == (4, "val_accuracy")
    read = Sweep(out)
    assert [(row["name"], row["metric"], row["num_fits"]) for row in read.rows if row["status"] == "done"] == [
        (row["name"], row["metric"], row["num_fits"]) for row in result["trials"]
    ]
    assert read.best.folder == out / "best"


@pytest.mark.unit
def test_sweep_table_has_paths_relative_to_its_folder(swept: Swept) -> None:
    runs = [row["run"] for row in read_table(swept.config.out) if row["status"] == "done"]
    assert sorted(runs) == sorted(f"trials/{name}" for name in FOUR_NAMES)


@pytest.mark.unit
def test_sweep_copies_the_best_run_and_records_the_selection(swept: Swept) -> None:
    best, out = swept.result["best"], swept.config.out
    assert best["run"] == str(out / "best")
    assert best["trial"] == str(out / "trials" / best["name"])
    kept, trial = read_files(out / "best"), read_files(Path(best["trial"]))
    assert {name for name in kept if kept[name] != trial.get(name)} == {"metrics.json", "run.json"}
    Run(out / "best").check_files()
    metrics, before = Run(out / "best").read_metrics(), Run(Path(best["trial"])).read_metrics()
    assert metrics["selection"] == {"num_heads": 4, "num_epochs": 1, "metric": "val_accuracy", "num_possible": 0}
    assert metrics["val_accuracy_interval"] == [best["low"], best["high"]]
    changed = {"selection", "val_accuracy_interval"}
    assert {name for name in metrics if metrics[name] != before[name]} == changed


def test_sweep_writes_a_plot_and_the_report_of_the_best_run(reported: Swept) -> None:
    result, out = reported.result, reported.config.out
    assert result["plot"] == str(out / "sweep.png")
    with Image.open(out / "sweep.png") as image:
        assert image.format == "PNG"
    assert result["report"] == str(out / "best" / "report.html")
    trainings = re.findall(r"--store \S+ --run .*", Path(result["report"]).read_text())
    assert trainings
    assert all("out-best" in line and "--no-report" not in line for line in trainings)
    assert not [*(out / "trials").rglob("*.png"), *(out / "trials").rglob("*.html")]


def test_sweep_files_contain_no_local_path(reported: Swept) -> None:
    out = reported.config.out
    for path in (out / "sweep.csv", out / "best/report.html"):
        text = path.read_text()
        assert str(out.parent) not in text
        assert str(reported.config.store.parent) not in text
    assert not [path for path in out.rglob("*") if out.parent.name in path.name]


def test_sweep_with_more_heads_renews_the_report_of_the_same_best_run(
    reported: Swept, copy_sweep: Callable[[Swept], Swept], quiet: Console
) -> None:
    config = copy_sweep(reported).config
    page, head = config.out / "best/report.html", Run(config.out / "best").record.head
    before = page.read_bytes()
    # A learning rate so small that the new head is the worst one.
    result = sweep(replace(config, tries=[*(config.tries or []), "learning-rate=0.01,1e-9"]), quiet)
    run = Run(config.out / "best")
    assert run.record.head == head
    assert run.metrics["selection"]["num_heads"] == 4
    assert run.metrics["val_accuracy_interval"] == [result["best"]["low"], result["best"]["high"]]
    assert page.read_bytes() != before


def test_sweep_of_two_cuts_evaluates_them_on_the_same_pictures(cuts: Path, tmp_path: Path, quiet: Console) -> None:
    result = sweep(make_sweep(cuts, tmp_path / "out", "pool=none,avg"), quiet)
    assert [row["name"] for row in result["baselines"]] == ["largest class"]
    shapes = {row["name"]: Run(Path(row["run"])).record.feature_shape for row in result["trials"]}
    assert shapes == {
        "cut-mixed5_pool-none": [2, 2, 3],
        "cut-mixed5_pool-avg": [3],
        "cut-mixed7_pool-none": [2, 2, 4],
        "cut-mixed7_pool-avg": [4],
    }


def test_sweep_over_stores_with_different_validation_pictures_warns(
    two_classes: FeatureStore, noisy: FeatureStore, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_sweep(noisy, tmp_path / "out", f"store={two_classes.path},{noisy.path}")
    result = sweep(config, quiet)
    warnings = capsys.readouterr().err.splitlines()
    assert sum("1 of 2 stores" in warning for warning in warnings) == 1
    assert {row["values"]["store"] for row in result["trials"]} == {str(two_classes.path), str(noisy.path)}
    assert len({row["name"] for row in result["baselines"]}) == 2


@pytest.mark.parametrize(("options", "num_fits"), [({"repeats": 3}, 3), ({"folds": 2}, 2)], ids=["repeats", "folds"])
def test_sweep_with_repeats_or_folds_ranks_by_their_mean(
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
    metrics = [row["metric"] for row in result["trials"]]
    assert metrics == sorted(metrics, reverse=True)
    assert result["baselines"][0]["num_fits"] == (num_fits if kind == "folds" else 1)


@pytest.mark.unit
def test_sweep_by_loss_excludes_the_l2_term(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(noisy, tmp_path / "out", "l2=0,0.5", metric=MetricName.VAL_LOSS)
    result = sweep(config, quiet)
    by_l2 = {row["values"]["l2"]: row for row in result["trials"]}
    run = Run(Path(by_l2[0.5]["run"]))
    penalty = 0.5 * run.read_head().sum_squares()
    assert penalty > 1
    assert by_l2[0.5]["metric"] == pytest.approx(run.read_metrics()["val_loss"] - penalty, rel=1e-3)
    assert [row["metric"] for row in result["trials"]] == sorted(row["metric"] for row in result["trials"])


def test_sweep_ranks_a_diverged_head_last(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    options = {name: value for name, value in UNSTABLE.items() if name != "l2"}
    config = make_sweep(noisy, tmp_path / "out", "l2=5,0.01", "units=4", **options)
    result = sweep(config, quiet)
    statuses = [(row["values"]["l2"], row["status"]) for row in result["trials"]]
    assert statuses == [(0.01, "done"), (5.0, "diverged")]
    assert result["trials"][1]["metric"] is None
    # The run has the head of the last finite epoch.
    assert (Path(result["trials"][1]["run"]) / "head.npz").is_file()
    assert result["best"]["values"]["l2"] == 0.01
    again = sweep(config, quiet)
    assert again["trials"] == result["trials"]


@pytest.mark.unit
def test_sweep_without_a_finite_head_fails_with_its_table(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(noisy, tmp_path / "out", "learning-rate=1e38", optimizer=OptimizerName.SGD)
    with pytest.raises(CommandFailed) as caught:
        sweep(config, quiet)
    (row,) = caught.value.result["trials"]
    assert (row["status"], row["run"], row["epochs"]) == ("diverged", "", 1)
    assert caught.value.result["best"] is None
    assert str(config.out) in str(caught.value)
    assert [row["status"] for row in read_table(config.out)] == ["baseline", "diverged"]
    assert not (config.out / "best").exists()


def test_sweep_with_tensorboard_logs_every_trial(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4,8", tensorboard=True)
    sweep(config, quiet)
    logged = sorted(
        str(path.parent.relative_to(config.out / "trials")) for path in config.out.rglob("trials/**/*tfevents*")
    )
    assert logged == [f"units-{units}/{LOGS_FOLDER}/{split}" for units in (4, 8) for split in ("train", "validation")]


def test_best_run_is_exported_with_the_accuracy_of_the_sweep(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_head.finetuning.backbone.build_backbone", lambda size, weights: build_tiny_backbone())
    pictures = draw_tiny_pictures(tmp_path / "pictures")
    store = store_tiny_pictures(tmp_path / "average_pooling2d", pictures, build_tiny_backbone())
    config = make_sweep(store, tmp_path / "out", "units=4,8", epochs=15)
    best = sweep(config, quiet)["best"]
    shutil.rmtree(config.out / "trials")
    result = export(ExportConfig(config.out / "best", tmp_path / "model"), quiet)
    assert (result["num_pictures"], result["num_flipped"]) == (6, 0)
    assert result["accuracy"] == best["metric"]


def test_sweep_of_several_labels_compares_heads_by_the_exact_match(tmp_path: Path, quiet: Console) -> None:
    store = make_multi_label_store(tmp_path / "store", SETS * 6, noise=1.0)
    result = sweep(make_sweep(store, tmp_path / "sweep", "units=0,8", folds=3), quiet)
    best = Run(tmp_path / "sweep/best")
    assert best.is_multi_label
    assert result["best"]["val_accuracy"] == best.accuracy
    majority = next(row for row in result["baselines"] if row["name"] == MAJORITY)
    targets, _ = best.read_probabilities()
    # Every label is on half of the pictures or fewer, so that none is predicted.
    assert majority["val_accuracy"] in {float((targets == row).all(axis=1).mean()) for row in [*targets, [0, 0, 0]]}
    assert majority["val_loss"] == pytest.approx(0.693, abs=0.02)
