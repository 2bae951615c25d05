"""Comparison of the same head without and with dropout: runs, gaps, plot and command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from base.errors import HeadstartError, UsageError
from base.terminal import Console
from features.store import FeatureStore
from tests.commands import run_command
from tests.errors import raises
from tests.files import read_files
from tests.train_head.fits import InterruptingConsole
from tests.train_head.synthetic import SHAPE, list_paths, make_store
from train_head.compare import CompareConfig, compare, measure_gap
from train_head.config import SolverName, TrainConfig
from train_head.evaluation.plots import draw_comparison
from train_head.runs.read import Run
from train_head.solvers.history import Epoch
from train_head.train import train_head

NAMES = ["without dropout", "with dropout 0.6"]
FOLDERS = ["without-dropout", "with-dropout-0.6"]
BLUE, ORANGE = (31, 119, 180), (255, 127, 14)
"""Matplotlib's first two colours: training and validation."""


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Store whose features do not depend on the class, so that a head can only memorize them."""
    paths = list_paths({"train/cats": 6, "train/dogs": 6, "validation/cats": 8, "validation/dogs": 8})
    features = np.random.default_rng(2).normal(0, 1, (len(paths), *SHAPE))
    return make_store(tmp_path_factory.mktemp("noise") / "store", paths, features=features)


OPTIONS: dict[str, Any] = {
    "solver": SolverName.REDUCED,
    "epochs": 25,
    "batch_size": 4,
    "units": 24,
    "learning_rate": 0.02,
    "seed": 1,
}


def make_config(store: FeatureStore, tmp_path: Path, **options: Any) -> CompareConfig:
    return CompareConfig(store.path, tmp_path / "compare", **(OPTIONS | {"dropout": 0.6} | options))


def read_picture(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (1080, 840)
        return np.asarray(image.convert("RGB"))


def count_pixels(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=-1).sum())


def split_panels(picture: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return the four panels, row by row."""
    return [panel for row in np.array_split(picture, 2, axis=0) for panel in np.array_split(row, 2, axis=1)]


@pytest.fixture(scope="module")
def compared(noise: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Folder with a finished comparison; not to be changed."""
    config = make_config(noise, tmp_path_factory.mktemp("compared"))
    compare(config, quiet)
    return config.run


def test_compare_fits_runs_that_differ_only_in_dropout(compared: Path) -> None:
    assert sorted(path.name for path in compared.iterdir()) == ["compare.png", *sorted(FOLDERS)]
    runs = [Run(compared / folder) for folder in FOLDERS]
    assert [run.dropout for run in runs] == [0.0, 0.6]
    first, second = (run.record.config for run in runs)
    assert {key for key in first if first[key] != second[key]} == {"dropout"}
    read_picture(compared / "compare.png")
    assert 10_000 < (compared / "compare.png").stat().st_size < 500_000


def test_compare_measures_gaps_between_training_and_validation(compared: Path) -> None:
    without, with_dropout = (Run(compared / folder).read_metrics() for folder in FOLDERS)
    # The head memorizes noise and cannot generalize, so there is a gap. Dropout makes the gap in loss smaller.
    assert without["train_accuracy"] > 0.9
    assert measure_gap(without)["accuracy_gap"] > 0.2
    assert measure_gap(without)["loss_gap"] > measure_gap(with_dropout)["loss_gap"] > 0


def test_compare_again_changes_nothing_and_shows_both_runs(
    noise: FeatureStore,
    compared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    config = make_config(noise, tmp_path)
    shutil.copytree(compared, config.run)
    files = [path for path in config.run.rglob("*") if path.is_file()]
    before, contents = {path: path.stat().st_mtime_ns for path in files}, read_files(config.run)
    results = compare(config, Console())["comparison"]
    # Only the reports are written again.
    assert read_files(config.run) == contents
    unchanged = [path for path in files if path.name != "report.html"]
    assert {path: path.stat().st_mtime_ns for path in unchanged} == {path: before[path] for path in unchanged}
    assert list(results) == NAMES
    for result, folder in zip(results.values(), FOLDERS, strict=True):
        metrics = Run(config.run / folder).read_metrics()
        assert result == {"run": str(config.run / folder), **metrics, **measure_gap(metrics)}
    output = capsys.readouterr()
    assert str(config.run / "compare.png") in output.err
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.out.splitlines() if "│" in line]
    assert rows[0] == ["", *NAMES]
    low, high = map(float, rows.pop(3)[1].split(" to "))
    assert low < results[NAMES[0]]["val_accuracy"] < high
    keys = ["train_accuracy", "val_accuracy", "accuracy_gap", "train_loss", "val_loss", "loss_gap"]
    for (_, *cells), key in zip(rows[1:], keys, strict=True):
        assert cells == [format(results[name][key], "+.4f" if "gap" in key else ".4f") for name in NAMES]


@pytest.mark.unit
def test_measure_gap_is_positive_if_training_is_better() -> None:
    metrics = {"train_accuracy": 0.9, "val_accuracy": 0.6, "train_loss": 0.2, "val_loss": 1.5}
    assert measure_gap(metrics) == {"accuracy_gap": pytest.approx(0.3), "loss_gap": pytest.approx(1.3)}


def test_compare_with_l2_includes_penalty_in_both_losses(noise: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_config(noise, tmp_path, l2=0.05, epochs=3, no_report=True)
    results = compare(config, quiet)["comparison"]
    for folder, result in zip(FOLDERS, results.values(), strict=True):
        run = Run(config.run / folder)
        logits = run.read_validation_logits()[:, 0].astype(np.float64)
        targets = np.array([found.label == "dogs" for found in run.read_predictions()])
        loss = np.mean(np.logaddexp(0, np.where(targets, -logits, logits)))
        penalty = 0.05 * run.read_head().sum_squares()
        assert result["loss_gap"] == pytest.approx(loss + penalty - result["train_loss"], rel=1e-4)
        assert result["train_loss"] > penalty


def test_compare_interrupted_in_second_run_keeps_earlier_comparison_and_resumes(
    noise: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(noise, tmp_path, epochs=3, no_report=True)
    compare(config, quiet)
    before = read_files(config.run)
    other = replace(config, epochs=4, dropout=0.25)
    with pytest.raises(KeyboardInterrupt):
        compare(other, InterruptingConsole(6))
    assert read_files(config.run) == before
    counting = InterruptingConsole(0)
    compare(other, counting)
    # The result of the first run was saved.
    assert counting.num_epochs == 4 + 4
    assert sorted(path.name for path in config.run.iterdir()) == ["with-dropout-0.25", "without-dropout"]
    (kept,) = (path for path in tmp_path.iterdir() if path != config.run)
    assert read_files(kept) == before


@pytest.mark.parametrize("name", ["compare.png", "without-dropout/run.json", "with-dropout-0.6/thesis.txt"])
@pytest.mark.unit
def test_compare_over_foreign_files_fails_before_fitting(
    noise: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = make_config(noise, tmp_path, epochs=3, overwrite=True)
    path = config.run / name
    path.parent.mkdir(parents=True)
    path.write_text('{"mine": 1}')
    console = InterruptingConsole(0)
    with pytest.raises(HeadstartError):
        compare(config, console)
    assert console.num_epochs == 0
    assert read_files(config.run) == {name: b'{"mine": 1}'}


@pytest.mark.unit
def test_compare_with_invalid_options_fails_before_fitting(noise: FeatureStore, tmp_path: Path) -> None:
    console = InterruptingConsole(0)
    with raises(UsageError, where="--rank"):
        compare(make_config(noise, tmp_path, rank=3, solver=SolverName.FULL), console)
    assert console.num_epochs == 0


def test_compare_fits_the_same_heads_as_train(noise: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    short = {"epochs": 3, "no_report": True}
    config = make_config(noise, tmp_path, **short)
    compare(config, quiet)
    for folder, dropout in zip(FOLDERS, (0.0, 0.6), strict=True):
        single = TrainConfig(noise.path, tmp_path / folder, dropout=dropout, **(OPTIONS | short))
        train_head(single, quiet)
        assert (single.run / "head.npz").read_bytes() == (config.run / folder / "head.npz").read_bytes()


@pytest.mark.unit
def test_compare_into_file_fails_and_leaves_it(noise: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    path = tmp_path / "compare"
    path.write_text("a file")
    with raises(UsageError, where=path):
        compare(make_config(noise, tmp_path), quiet)
    assert path.read_text() == "a file"


def test_compare_command_prints_metrics_and_gaps_of_both_runs(noise: FeatureStore, tmp_path: Path) -> None:
    run = tmp_path / "both"
    options = ["--solver", "reduced", "--epochs", "2", "--units", "4", "--no-report"]
    done = run_command("train_head.compare", "--store", noise.path, "--run", run, *options, "--json")
    assert done.status == 0, done.err
    results = done.json["comparison"]
    assert list(results) == ["without dropout", "with dropout 0.5"]
    assert [Path(result["run"]).name for result in results.values()] == ["without-dropout", "with-dropout-0.5"]
    for result in results.values():
        metrics = json.loads((Path(result["run"]) / "metrics.json").read_text())
        assert result == metrics | {"run": result["run"], **measure_gap(metrics)}
    assert list(run.rglob("*.png")) == []


def test_compare_command_without_dropout_exits_2(noise: FeatureStore, tmp_path: Path) -> None:
    options = ["--run", tmp_path / "run", "--dropout", "0", "--json"]
    done = run_command("train_head.compare", "--store", noise.path, *options)
    assert done.status == 2
    assert "--dropout" in done.json["error"]
    assert list(tmp_path.iterdir()) == []


def make_history(count: int, factor: float = 1.0) -> list[Epoch]:
    return [
        Epoch(n, loss=1 / n, accuracy=1 - 0.5 / n, val_loss=factor * 1.2 / n, val_accuracy=1 - 0.6 / n, seconds=0.1)
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("num_epochs", [1, 40])
def test_draw_comparison_draws_both_curves_in_all_panels(tmp_path: Path, num_epochs: int) -> None:
    histories = {"left": make_history(num_epochs), "right": make_history(num_epochs)}
    draw_comparison(histories, tmp_path / "c.png")
    for panel in split_panels(read_picture(tmp_path / "c.png")):
        assert count_pixels(panel, BLUE) > 10
        assert count_pixels(panel, ORANGE) > 10


def test_draw_comparison_with_other_values_changes_only_their_panels(tmp_path: Path) -> None:
    # The largest loss, which sets the common scale, is in the left panel.
    left = make_history(8, factor=2.0)
    pictures = []
    for name, right in (("first", make_history(8)), ("again", make_history(8)), ("other", make_history(8, 1.5))):
        draw_comparison({"left": left, "right": right}, tmp_path / f"{name}.png")
        pictures.append(split_panels(read_picture(tmp_path / f"{name}.png")))
    first, again, other = pictures
    assert [np.array_equal(a, b) for a, b in zip(first, again, strict=True)] == [True] * 4
    assert [np.array_equal(a, b) for a, b in zip(first, other, strict=True)] == [True, True, True, False]


def test_draw_comparison_uses_common_scales(tmp_path: Path) -> None:
    for name, factor in (("small", 1.0), ("large", 5.0)):
        histories = {"left": make_history(8), "right": make_history(8, factor)}
        draw_comparison(histories, tmp_path / f"{name}.png")
    small, large = (split_panels(read_picture(tmp_path / f"{name}.png")) for name in ("small", "large"))
    # Larger losses on the right change the scale on the left too.
    assert not np.array_equal(small[2], large[2])


@pytest.mark.parametrize("column", [0, 1])
def test_draw_comparison_writes_each_title_above_its_column(tmp_path: Path, column: int) -> None:
    pictures = []
    for title in ("with dropout 0.5: gap +0.1000", "with dropout 0.5: gap +0.9000"):
        titles = ["other", title] if column else [title, "other"]
        draw_comparison({name: make_history(3) for name in titles}, tmp_path / "c.png")
        pictures.append(split_panels(read_picture(tmp_path / "c.png")))
    same = [np.array_equal(a, b) for a, b in zip(*pictures, strict=True)]
    assert same == [column == 1, column == 0, True, True]


@pytest.mark.parametrize("title", ["$x^$: $ or $5", "a_b\\frac: ^ or _", "caf\udce9: cats"], ids=["$", "\\", "bytes"])
def test_draw_comparison_accepts_any_title(tmp_path: Path, title: str) -> None:
    draw_comparison({title: make_history(3), "plain": make_history(3)}, tmp_path / "c.png")
    picture = read_picture(tmp_path / "c.png")
    assert (picture[:30, :540] < 128).all(axis=-1).any()
