"""The learning curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from train_head.evaluation.plots import draw_curves
from train_head.solvers.history import Epoch

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)
"""Matplotlib's first two colours: training and validation."""


def make_history(count: int) -> list[Epoch]:
    return [
        Epoch(n, loss=1 / n, accuracy=1 - 0.5 / n, val_loss=1.2 / n, val_accuracy=1 - 0.6 / n, seconds=0.1)
        for n in range(1, count + 1)
    ]


def draw(history: list[Epoch], title: str, path: Path) -> NDArray[np.uint8]:
    draw_curves(history, title, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (1080, 456)
        return np.asarray(image.convert("RGB"))


def count_pixels(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=-1).sum())


@pytest.mark.parametrize("num_epochs", [1, 2, 40])
def test_draw_curves_of_any_length_shows_training_and_validation_in_both_panels(
    tmp_path: Path, num_epochs: int
) -> None:
    picture = draw(make_history(num_epochs), "run: cats or dogs", tmp_path / "curves.png")
    for panel in np.array_split(picture, 2, axis=1):
        assert count_pixels(panel, BLUE) > 10
        assert count_pixels(panel, ORANGE) > 10


def test_draw_curves_of_other_values_draws_another_picture(tmp_path: Path) -> None:
    first = draw(make_history(5), "run", tmp_path / "first.png")
    again = draw(make_history(5), "run", tmp_path / "again.png")
    other = draw(make_history(6), "run", tmp_path / "other.png")
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "title", ["$x^$: $ or $5", "a_b\\frac: ^ or _", "caf\udce9: cats or dogs"], ids=["$", "\\", "not UTF-8"]
)
def test_draw_curves_under_any_title_takes_it_literally(tmp_path: Path, title: str) -> None:
    picture = draw(make_history(3), title, tmp_path / "curves.png")
    assert (picture[:45] < 128).all(axis=-1).any()
