"""The picture of a sweep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.train_head.sweeps import make_row
from train_head.sweep.config import MetricName
from train_head.sweep.plot import choose_colour_axis, draw_sweep
from train_head.sweep.rows import Row, Status

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)
"""Matplotlib's first two colours."""


def make_rows(gap: float) -> list[Row]:
    return [
        make_row(f"{cut} {units}", value, cut=cut, units=units)
        for cut, units, value in (("a", 4, 0.9), ("a", 8, 0.88), ("b", 4, 0.9 - gap), ("b", 8, 0.88 - gap))
    ]


def draw(rows: list[Row], path: Path) -> NDArray[np.uint8]:
    draw_sweep(rows, MetricName.VAL_ACCURACY, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def count_pixels(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=-1).sum())


def test_choose_colours_takes_the_axis_with_the_largest_effect() -> None:
    assert choose_colour_axis(make_rows(gap=0.3)) == "cut"
    assert choose_colour_axis(make_rows(gap=0.001)) == "units"


def test_choose_colours_takes_no_axis_of_one_or_of_many_values() -> None:
    rows = [make_row(str(n), 0.9 - n / 50, cut="a", dropout=n / 20) for n in range(11)]
    assert choose_colour_axis(rows) == ""
    assert choose_colour_axis(rows[:10]) == "dropout"
    assert choose_colour_axis([]) == ""


def test_draw_sweep_colours_the_heads_by_that_axis(tmp_path: Path) -> None:
    picture = draw(make_rows(gap=0.3), tmp_path / "p.png")
    assert count_pixels(picture, BLUE) > 50
    assert count_pixels(picture, ORANGE) > 50
    # The better cut stands higher.
    height = {colour: np.argwhere((picture == colour).all(axis=-1))[:, 0].min() for colour in (BLUE, ORANGE)}
    columns = picture[:, : picture.shape[1] // 2]
    assert count_pixels(columns, BLUE) > 0
    assert height[BLUE] < height[ORANGE]


def test_draw_sweep_draws_baselines_and_leaves_out_what_was_not_finished(tmp_path: Path) -> None:
    rows = make_rows(gap=0.1)
    plain = draw(rows, tmp_path / "plain.png")
    pruned = draw([*rows, make_row("p", None, status=Status.PRUNED, cut="a", units=4)], tmp_path / "pruned.png")
    np.testing.assert_array_equal(plain, pruned)
    lined = draw([*rows, make_row("line", 0.85, status=Status.BASELINE)], tmp_path / "lined.png")
    assert lined.shape != plain.shape or not np.array_equal(lined, plain)


@pytest.mark.parametrize("name", ["$x^$: $5", "a_b\\frac", "caf\udce9"])
def test_draw_sweep_takes_any_name_literally(tmp_path: Path, name: str) -> None:
    rows = [make_row("1", 0.9, store=Path(name)), make_row("2", 0.8, store=Path("b"))]
    draw([*rows, make_row(name, 0.85, status=Status.BASELINE)], tmp_path / "p.png")
