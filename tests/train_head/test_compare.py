"""The overfitting story: the same head without and with dropout, side by side."""

from __future__ import annotations

import json
import subprocess
import sys
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
from tests.files import read_files
from tests.train_head.fits import InterruptingConsole
from tests.train_head.synthetic import SHAPE, list_paths, make_store
from train_head.compare import CompareConfig, compare, measure_gap
from train_head.config import SolverName, TrainConfig
from train_head.evaluation.plots import draw_comparison
from train_head.runs.read import Run
from train_head.solvers.history import Epoch
from train_head.train import train_head

ROOT = Path(__file__).parents[2]
NAMES = ["without dropout", "with dropout 0.6"]
FOLDERS = ["without-dropout", "with-dropout-0.6"]
BLUE, ORANGE = (31, 119, 180), (255, 127, 14)
"""Matplotlib's first two colours: training and validation."""


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Pictures that nothing tells apart: a head can only learn them by heart."""
    paths = list_paths({"train/cats": 6, "train/dogs": 6, "validation/cats": 8, "validation/dogs": 8})
    features = np.random.default_rng(2).normal(0, 1, (len(paths), *SHAPE))
    return make_store(tmp_path_factory.mktemp("noise") / "store", paths, features=features)


def make_config(store: FeatureStore, tmp_path: Path, **options: Any) -> CompareConfig:
    config = CompareConfig(
        store.path,
        tmp_path / "compare",
        dropout=0.6,
        solver=SolverName.REDUCED,
        epochs=25,
        batch_size=4,
        units=24,
        learning_rate=0.02,
        seed=1,
    )
    return replace(config, **options)


def read_picture(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (1080, 840)
        return np.asarray(image.convert("RGB"))


def count_pixels(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=-1).sum())


def split_panels(picture: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The panels: above left and right, below left and right."""
    return [panel for row in np.array_split(picture, 2, axis=0) for panel in np.array_split(row, 2, axis=1)]


def test_compare_fits_the_same_head_without_and_with_dropout(
    noise: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(noise, tmp_path)
    results = compare(config, quiet)["comparison"]
    assert list(results) == NAMES
    assert sorted(path.name for path in config.run.iterdir()) == ["compare.png", *sorted(FOLDERS)]
    for name, folder, dropout in zip(NAMES, FOLDERS, (0.0, 0.6), strict=True):
        run = Run(config.run / folder)
        assert results[name]["run"] == str(config.run / folder)
        assert run.dropout == dropout
        others = {key: value for key, value in results[name].items() if key not in ("run", "accuracy_gap", "loss_gap")}
        assert others == run.read_metrics()
    records = [Run(config.run / folder).record.config for folder in FOLDERS]
    differing = {key for key in records[0] if records[0][key] != records[1][key]}
    assert differing == {"dropout"}
    assert len(read_picture(config.run / "compare.png")) == 840
    assert 10_000 < (config.run / "compare.png").stat().st_size < 500_000


def test_compare_measures_gaps_as_training_against_validation(
    noise: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    results = compare(make_config(noise, tmp_path, no_report=True), quiet)["comparison"]
    for result in results.values():
        assert result["accuracy_gap"] == result["train_accuracy"] - result["val_accuracy"]
        assert result["loss_gap"] == result["val_loss"] - result["train_loss"]
    without, with_dropout = (results[name] for name in NAMES)
    # Noise is learned by heart and nothing else is: a gap, and a smaller one in loss with dropout.
    assert without["train_accuracy"] > 0.9
    assert without["accuracy_gap"] > 0.2
    assert without["loss_gap"] > with_dropout["loss_gap"] > 0


def test_measure_gap_is_positive_where_training_is_better() -> None:
    metrics = {"train_accuracy": 0.9, "val_accuracy": 0.6, "train_loss": 0.2, "val_loss": 1.5}
    assert measure_gap(metrics) == {"accuracy_gap": pytest.approx(0.3), "loss_gap": pytest.approx(1.3)}


def test_compare_with_l2_measures_a_gap_of_the_same_loss_on_both_sides(
    noise: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
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


def test_compare_again_trains_nothing_and_says_the_same(
    noise: FeatureStore, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(noise, tmp_path, epochs=3)
    first = compare(config, quiet)
    before = {path: path.stat().st_mtime_ns for folder in FOLDERS for path in (config.run / folder).iterdir()}
    contents = read_files(config.run)
    capsys.readouterr()
    assert compare(config, Console()) == first
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert read_files(config.run) == contents
    said = capsys.readouterr().err
    assert f"{config.run}: holds this very comparison already; nothing to do" in said
    assert "train:" not in said


def test_compare_interrupted_in_the_second_half_leaves_the_earlier_one_and_goes_on(
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
    # The end of the first half was kept.
    assert counting.num_epochs == 4 + 4
    assert sorted(path.name for path in config.run.iterdir()) == ["with-dropout-0.25", "without-dropout"]
    (kept,) = (path for path in tmp_path.iterdir() if path != config.run)
    assert read_files(kept) == before


@pytest.mark.parametrize("name", ["compare.png", "without-dropout/run.json", "with-dropout-0.6/thesis.txt"])
def test_compare_over_foreign_files_is_refused_before_anything_is_fitted(
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
    assert read_folder(config.run) == {name: b'{"mine": 1}'}


def test_compare_checks_the_second_half_before_the_first_is_fitted(noise: FeatureStore, tmp_path: Path) -> None:
    console = InterruptingConsole(0)
    with pytest.raises(UsageError):
        compare(make_config(noise, tmp_path, rank=3, solver=SolverName.FULL), console)
    assert console.num_epochs == 0


def test_compare_makes_the_runs_that_training_makes(noise: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_config(noise, tmp_path, epochs=3, no_report=True)
    compare(config, quiet)
    for folder, dropout in zip(FOLDERS, (0.0, 0.6), strict=True):
        single = TrainConfig(
            noise.path,
            tmp_path / folder,
            dropout=dropout,
            solver=SolverName.REDUCED,
            epochs=3,
            batch_size=4,
            units=24,
            learning_rate=0.02,
            seed=1,
            no_report=True,
        )
        train_head(single, quiet)
        assert (single.run / "head.npz").read_bytes() == (config.run / folder / "head.npz").read_bytes()


def test_compare_without_report_draws_no_pictures(
    noise: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(noise, tmp_path, epochs=2, no_report=True)
    compare(config, Console())
    assert list(config.run.rglob("*.png")) == []
    said = capsys.readouterr()
    assert "side by side" not in said.err
    assert "the same head, twice" in said.out


def test_compare_shows_both_heads_in_one_table(
    noise: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    config = make_config(noise, tmp_path, epochs=3)
    results = compare(config, Console())["comparison"]
    said = capsys.readouterr()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in said.out.splitlines() if "│" in line]
    keys = ["train_accuracy", "val_accuracy", "accuracy_gap", "train_loss", "val_loss", "loss_gap"]
    titles = ["training accuracy", "validation accuracy", "gap", "training loss", "validation loss", "gap"]
    assert rows[0] == ["", *NAMES]
    interval = rows.pop(3)
    assert interval[0] == "its 95 % interval"
    low, high = map(float, interval[1].split(" to "))
    assert low < results[NAMES[0]]["val_accuracy"] < high
    for (title, *cells), name, key in zip(rows[1:], titles, keys, strict=True):
        assert title == name
        assert cells == [format(results[each][key], "+.4f" if "gap" in key else ".4f") for each in NAMES]
    assert f"learning curves side by side: {config.run / 'compare.png'}" in said.err


def test_compare_into_a_file_is_wrong_usage_and_leaves_it(noise: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    (tmp_path / "compare").write_text("a file")
    with pytest.raises(UsageError, match=r"compare: expected a folder for both runs, got a file\. "):
        compare(make_config(noise, tmp_path), quiet)
    assert (tmp_path / "compare").read_text() == "a file"


def run_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "train_head.compare", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_compare_command_prints_one_json_object_with_both(noise: FeatureStore, tmp_path: Path) -> None:
    run = tmp_path / "both"
    options = ["--solver", "reduced", "--epochs", "2", "--units", "4", "--no-report", "--json"]
    done = run_command("--store", noise.path, "--run", run, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    results = json.loads(done.stdout)["comparison"]
    assert list(results) == ["without dropout", "with dropout 0.5"]
    assert [Path(result["run"]).name for result in results.values()] == ["without-dropout", "with-dropout-0.5"]
    for result in results.values():
        metrics = json.loads((Path(result["run"]) / "metrics.json").read_text())
        assert result == metrics | {"run": result["run"], **measure_gap(metrics)}


def test_compare_command_with_a_file_as_run_exits_2(noise: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    done = run_command("--store", noise.path, "--run", tmp_path / "file")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {tmp_path / 'file'}: expected a folder for both runs, got a file. Give another --run (RUN=).\n"
    )


def test_compare_command_without_dropout_for_the_second_is_wrong_usage(noise: FeatureStore, tmp_path: Path) -> None:
    done = run_command("--store", noise.path, "--run", tmp_path / "run", "--dropout", "0")
    assert done.returncode == 2
    assert "--dropout" in done.stderr
    assert list(tmp_path.iterdir()) == []


def make_history(count: int, factor: float = 1.0) -> list[Epoch]:
    return [
        Epoch(n, loss=1 / n, accuracy=1 - 0.5 / n, val_loss=factor * 1.2 / n, val_accuracy=1 - 0.6 / n, seconds=0.1)
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("num_epochs", [1, 2, 40])
def test_draw_comparison_shows_training_and_validation_in_all_four_panels(tmp_path: Path, num_epochs: int) -> None:
    histories = {"left": make_history(num_epochs), "right": make_history(num_epochs)}
    draw_comparison(histories, tmp_path / "c.png")
    for panel in split_panels(read_picture(tmp_path / "c.png")):
        assert count_pixels(panel, BLUE) > 10
        assert count_pixels(panel, ORANGE) > 10


def test_draw_comparison_of_other_values_changes_the_panels_that_have_them(tmp_path: Path) -> None:
    # The greatest loss, and so the common scale, is the left one's.
    left = make_history(8, factor=2.0)
    pictures = []
    for name, right in (("first", make_history(8)), ("again", make_history(8)), ("other", make_history(8, 1.5))):
        draw_comparison({"left": left, "right": right}, tmp_path / f"{name}.png")
        pictures.append(split_panels(read_picture(tmp_path / f"{name}.png")))
    first, again, other = pictures
    assert [np.array_equal(a, b) for a, b in zip(first, again, strict=True)] == [True] * 4
    assert [np.array_equal(a, b) for a, b in zip(first, other, strict=True)] == [True, True, True, False]


def test_draw_comparison_has_common_scales(tmp_path: Path) -> None:
    for name, factor in (("small", 1.0), ("large", 5.0)):
        histories = {"left": make_history(8), "right": make_history(8, factor)}
        draw_comparison(histories, tmp_path / f"{name}.png")
    small, large = (split_panels(read_picture(tmp_path / f"{name}.png")) for name in ("small", "large"))
    # Greater losses on the right squeeze the left ones too.
    assert not np.array_equal(small[2], large[2])


@pytest.mark.parametrize("side", [0, 1])
def test_draw_comparison_writes_each_title_above_its_column(tmp_path: Path, side: int) -> None:
    pictures = []
    for title in ("with dropout 0.5: gap +0.1000", "with dropout 0.5: gap +0.9000"):
        titles = ["other", title] if side else [title, "other"]
        draw_comparison({name: make_history(3) for name in titles}, tmp_path / "c.png")
        pictures.append(split_panels(read_picture(tmp_path / "c.png")))
    same = [np.array_equal(a, b) for a, b in zip(*pictures, strict=True)]
    assert same == [side == 1, side == 0, True, True]


@pytest.mark.parametrize("title", ["$x^$: $ or $5", "a_b\\frac: ^ or _", "caf\udce9: cats"], ids=["$", "\\", "bytes"])
def test_draw_comparison_takes_any_title_literally(tmp_path: Path, title: str) -> None:
    draw_comparison({title: make_history(3), "plain": make_history(3)}, tmp_path / "c.png")
    picture = read_picture(tmp_path / "c.png")
    assert (picture[:30, :540] < 128).all(axis=-1).any()
