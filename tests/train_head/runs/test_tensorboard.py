"""TensorBoard logs of a run, read by TensorBoard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from base.errors import UsageError
from base.terminal import Console
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.training import make_config, run_command
from train_head.runs.read import Run
from train_head.runs.record import LOGS_FILE, LOGS_FOLDER
from train_head.runs.tensorboard import add_logs, write_logs
from train_head.solvers.history import Epoch
from train_head.train import train_head

HISTORY = [Epoch(1, 0.5, 0.75, 0.25, 0.875, 2.0), Epoch(2, 0.125, 1.0, 0.0625, 0.9375, 3.0)]


def read_events(path: Path) -> list[Any]:
    """Read events with TensorBoard's reader, which verifies the checksum of each record."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    return [Event.FromString(record) for record in RawEventFileLoader(str(path)).Load()]


def read_scalars(folder: Path) -> list[tuple[int, str, float]]:
    (path,) = folder.iterdir()
    assert "tfevents" in path.name
    return [(event.step, value.tag, value.simple_value) for event in read_events(path) for value in event.summary.value]


def test_write_logs_writes_the_values_of_each_epoch(tmp_path: Path) -> None:
    write_logs(tmp_path / "logs", HISTORY, 1005.0)
    version, *events = read_events(tmp_path / "logs/validation" / LOGS_FILE)
    assert (version.file_version, version.wall_time) == ("brain.Event:2", 1000.0)
    assert [(event.step, event.wall_time) for event in events] == [(1, 1002.0), (2, 1005.0)]
    assert read_scalars(tmp_path / "logs/validation") == [
        *((1, "loss", 0.25), (1, "accuracy", 0.875)),
        *((2, "loss", 0.0625), (2, "accuracy", 0.9375)),
    ]
    assert read_scalars(tmp_path / "logs/train") == [
        *((1, "loss", 0.5), (1, "accuracy", 0.75)),
        *((2, "loss", 0.125), (2, "accuracy", 1.0)),
    ]


def test_train_with_tensorboard_logs_the_history(two_classes: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_config(two_classes, tmp_path / "run", tensorboard=True)
    train_head(config, quiet)
    history = Run(config.run).read_history()
    logs = config.run / LOGS_FOLDER
    assert sorted(path.name for path in logs.iterdir()) == ["train", "validation"]
    expected = [
        value for row in history for value in ((row.epoch, "loss", row.loss), (row.epoch, "accuracy", row.accuracy))
    ]
    for found, wanted in zip(read_scalars(logs / "train"), expected, strict=True):
        assert found[:2] == wanted[:2]
        assert found[2] == pytest.approx(wanted[2], rel=1e-6)


def test_train_again_with_tensorboard_adds_logs_to_the_run(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path / "run")
    train_head(config, quiet)
    before = {path: path.stat().st_mtime_ns for path in config.run.iterdir()}
    train_head(replace(config, tensorboard=True), quiet)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(read_scalars(config.run / LOGS_FOLDER / "validation")) == 2 * config.epochs
    add_logs(Run(config.run))
    assert sorted(path.name for path in config.run.iterdir()) == sorted([LOGS_FOLDER, *(path.name for path in before)])


@pytest.mark.unit
def test_train_with_tensorboard_without_the_package_is_wrong_usage(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base.errors.find_spec", lambda name: None)
    with raises(UsageError, where="--tensorboard") as caught:
        train_head(make_config(two_classes, tmp_path / "run", tensorboard=True), quiet)
    assert "headstart[tensorboard]" in caught.value.advice
    assert list(tmp_path.iterdir()) == []


def test_train_command_with_tensorboard_imports_no_tensorflow(two_classes: FeatureStore, tmp_path: Path) -> None:
    done = run_command(two_classes, tmp_path / "run", "--tensorboard", "--no-report")
    assert done.returncode == 0, done.stderr
    imported = done.stderr.rpartition("imported:")[2].split()
    assert not {"tensorflow", "keras"} & set(imported)
    assert len(read_scalars(tmp_path / "run" / LOGS_FOLDER / "train")) == 2 * 3
