"""The list of what was trained so far."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from base.errors import UsageError
from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.conftest import Exported
from tests.train_head.test_command_line import run_command
from tests.train_head.training import make_config
from train_head.runs.listing import RunsConfig, runs
from train_head.train import train_head


def test_runs_lists_each_run_by_date_with_what_differs_from_the_defaults(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path / "work" / "run", epochs=2)
    first = train_head(config, quiet)
    train_head(replace(config, units=9), quiet)
    listed = runs(RunsConfig(tmp_path / "work"), quiet)["runs"]
    assert len(listed) == 2
    by_folder = {run["folder"]: run for run in listed}
    kept = by_folder.pop(next(name for name in by_folder if name != "run"))
    assert kept["folder"].startswith("run-")
    assert listed == sorted(listed, key=lambda run: (run["created"], run["folder"]))
    assert (kept["num_pictures"], kept["val_accuracy"]) == (31, first["val_accuracy"])
    assert (kept["head"], kept["exports"]) == (first["head"], [])
    options = {"solver": "reduced", "epochs": 2, "batch_size": 8, "dropout": 0.3, "learning_rate": 0.01, "seed": 3}
    assert kept["options"] == options | {"units": 8}
    assert by_folder["run"]["options"] == options | {"units": 9}


def test_runs_looks_three_folders_deep_and_neither_into_hidden_ones_nor_through_links(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    run = tmp_path / "run"
    train_head(make_config(two_classes, run, epochs=1), quiet)
    work = tmp_path / "work"
    for name in ("a/b/run", "a/b/c/run", ".hidden/run"):
        shutil.copytree(run, work / name)
    (work / "link").symlink_to(run)
    assert [found["folder"] for found in runs(RunsConfig(work), quiet)["runs"]] == ["a/b/run"]


def test_runs_names_the_export_of_a_run_and_of_another_not(exported: Exported, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    shutil.copytree(exported.out, tmp_path / "model")
    other = shutil.copytree(trained, tmp_path / "other")
    record = json.loads((other / "run.json").read_text())
    from train_head.runs.record import RunRecord

    (other / "run.json").write_bytes(RunRecord(**record | {"head": "0" * 64}).format())
    done = run_command("train_head.runs", tmp_path, "--json")
    assert done.status == 0, done.stderr
    assert done.imported == ""
    assert {run["folder"]: run["exports"] for run in json.loads(done.stdout)["runs"]} == {"run": ["model"], "other": []}


def test_runs_with_a_damaged_run_warns_of_it_and_lists_the_others(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    train_head(make_config(two_classes, tmp_path / "run", epochs=1), quiet)
    damaged = shutil.copytree(tmp_path / "run", tmp_path / "damaged")
    (damaged / "metrics.json").write_text("{}")
    assert [found["folder"] for found in runs(RunsConfig(tmp_path), quiet)["runs"]] == ["run"]
    assert str(damaged / "metrics.json") in capsys.readouterr().err


def test_runs_of_a_folder_that_is_not_there_is_wrong_usage(tmp_path: Path, quiet: Console) -> None:
    with pytest.raises(UsageError):
        runs(RunsConfig(tmp_path / "none"), quiet)
