"""The line after a training about what to try next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.train_head.report.test_findings import make_history
from train_head.config import TrainConfig
from train_head.evaluation.uncertainty import compute_interval
from train_head.report.hints import MIN_ERRORS, describe_next_step

pytestmark = pytest.mark.unit
CONFIG = TrainConfig(Path("my store"), Path("run"))
OPTIONS: dict[str, Any] = {"epochs": 20, "dropout": 0.2, "l2": 0.0, "patience": 0, "units": 1024}
FLAT, FALLING, RISING = (0.3, 0.3, 0.3), (0.5, 0.4, 0.3), (0.4, 0.3, 0.36)


def describe(
    val_losses: tuple[float, ...] = FLAT, num_wrong: int = 10, config: TrainConfig = CONFIG, **changes: Any
) -> str:
    accuracy = 1 - num_wrong / 100
    metrics = {
        "val_accuracy": accuracy,
        "val_accuracy_interval": list(compute_interval(100 - num_wrong, 100)),
        "num_validation": 100,
        "largest_class_share": 0.5,
        "train_accuracy": accuracy,
        "kept_epoch": len(val_losses),
        "solver": "reduced",
        "image_size": 150,
    }
    options = {name: value for name, value in changes.items() if name in OPTIONS}
    found = {name: value for name, value in changes.items() if name not in OPTIONS}
    return describe_next_step(metrics | found, make_history(*val_losses), OPTIONS | options, config)


@pytest.mark.parametrize(
    ("val_losses", "changes", "expected"),
    [
        (FALLING, {}, ["--epochs 40"]),
        (RISING, {}, ["--dropout 0.5", "--patience 5"]),
        (RISING, {"dropout": 0.5, "patience": 3}, ["--l2 0.0001"]),
        (FLAT, {"train_accuracy": 1.0}, ["--dropout 0.5"]),
        (FLAT, {"train_accuracy": 1.0, "units": 0}, ["--l2 0.0001"]),
        (FLAT, {}, ["train_head.advise --store 'my store' --images FOLDER"]),
    ],
)
def test_describe_next_step_names_the_option_to_change(
    val_losses: tuple[float, ...], changes: dict[str, Any], expected: list[str]
) -> None:
    line = describe(val_losses, **changes)
    assert [words for words in expected if words not in line] == []
    assert "\n" not in line


def test_describe_next_step_of_a_head_with_patience_does_not_suggest_patience() -> None:
    assert "--patience" not in describe(RISING, patience=3)


@pytest.mark.parametrize("num_wrong", [0, MIN_ERRORS - 1])
def test_describe_next_step_of_few_errors_is_empty(num_wrong: int) -> None:
    assert describe(FALLING, num_wrong) == describe(RISING, num_wrong, train_accuracy=1.0) == ""


def test_describe_next_step_at_full_size_does_not_suggest_larger_pictures() -> None:
    line = describe(image_size=299)
    assert "--images" not in line
    assert "train_head.advise" in line


def test_describe_next_step_of_ridge_suggests_only_larger_pictures() -> None:
    assert describe(RISING, solver="ridge", train_accuracy=1.0, image_size=299) == ""
    line = describe(RISING, solver="ridge", train_accuracy=1.0)
    assert "--images" in line
    assert "--dropout" not in line


def test_describe_next_step_near_the_baseline_suggests_no_option() -> None:
    line = describe(RISING, 48)
    assert "--dropout" not in line
    assert "train_head.advise" in line


def test_describe_next_step_of_several_labels_is_empty() -> None:
    assert describe(RISING, is_multi_label=True) == ""


def test_describe_next_step_has_the_folder_of_the_pictures() -> None:
    config = TrainConfig(Path("store"), Path("run"), images=Path("pets"))
    assert "--images pets" in describe(config=config)
