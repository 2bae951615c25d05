"""Learning curves as PNG."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train_head.evaluation.plots import draw_curves, plot_curves
from train_head.solvers.history import Epoch

pytestmark = pytest.mark.unit


def make_history(count: int) -> list[Epoch]:
    return [
        Epoch(n, loss=1 / n, accuracy=1 - 0.5 / n, val_loss=1.2 / n, val_accuracy=1 - 0.6 / n, seconds=0.1)
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("num_epochs", [1, 40])
def test_plot_curves_has_training_and_validation_in_both_panels(num_epochs: int) -> None:
    history = make_history(num_epochs)
    for axes, name in zip(plot_curves(history, "run").axes, ("accuracy", "loss"), strict=True):
        assert axes.get_xlabel() == "epoch"
        assert axes.get_title() == name.capitalize()
        assert [line.get_label() for line in axes.lines] == ["training", "validation"]
        for line, column in zip(axes.lines, (name, f"val_{name}"), strict=True):
            points = [(row.epoch, getattr(row, column)) for row in history]
            np.testing.assert_array_equal(np.asarray(line.get_xydata()), points)


@pytest.mark.parametrize(
    "title", ["$x^$: $ or $5", "a_b\\frac: ^ or _", "caf\udce9: cats or dogs"], ids=["$", "\\", "not UTF-8"]
)
def test_draw_curves_writes_a_png_whatever_the_title(tmp_path: Path, title: str) -> None:
    draw_curves(make_history(3), title, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
    assert plot_curves(make_history(3), title).get_suptitle() == title.encode("utf-8", "backslashreplace").decode()


def test_draw_curves_on_a_slow_machine_gives_no_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(time, "perf_counter", itertools.count(step=2.0).__next__)
    draw_curves(make_history(3), "run", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0
