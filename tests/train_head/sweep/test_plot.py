"""Plot of a sweep: points with intervals, baselines and labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.train_head.sweeps import make_row
from train_head.sweep.config import MetricName
from train_head.sweep.plot import choose_colour_axis, draw_sweep, plot_sweep
from train_head.sweep.rows import Row, Score, Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure

ACCURACY = MetricName.VAL_ACCURACY


def make_rows(gap: float) -> list[Row]:
    """Make four rows of two cuts and two numbers of units, whose cuts differ by a gap."""
    return [
        make_row(f"{cut} {units}", value, cut=cut, units=units)
        for cut, units, value in (("a", 4, 0.9), ("a", 8, 0.88), ("b", 4, 0.9 - gap), ("b", 8, 0.88 - gap))
    ]


def plot(rows: list[Row], metric: MetricName = ACCURACY) -> tuple[Figure, Axes]:
    figure = plot_sweep(rows, metric)
    (axes,) = figure.axes
    return figure, axes


def list_errorbars(axes: Axes) -> list[ErrorbarContainer]:
    from matplotlib.container import ErrorbarContainer

    return [container for container in axes.containers if isinstance(container, ErrorbarContainer)]


def read_groups(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """Return the points, (rank, score), of each label."""
    groups = {}
    for container in list_errorbars(axes):
        line = container.lines[0]
        points = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
        groups[str(container.get_label())] = [(float(rank), float(score)) for rank, score in points]
    return groups


def read_baselines(axes: Axes) -> dict[str, float]:
    """Return the height of each horizontal line by its label."""
    lines = {str(line.get_label()): line for line in axes.lines}
    return {label: float(np.asarray(line.get_ydata())[0]) for label, line in lines.items() if not label.startswith("_")}


def read_legend(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.unit
def test_choose_colour_axis_returns_the_axis_with_the_largest_effect() -> None:
    assert choose_colour_axis(make_rows(gap=0.3)) == "cut"
    assert choose_colour_axis(make_rows(gap=0.001)) == "units"


@pytest.mark.unit
def test_choose_colour_axis_ignores_axes_of_one_or_more_than_ten_values() -> None:
    rows = [make_row(str(n), 0.9 - n / 50, cut="a", dropout=n / 20) for n in range(11)]
    assert choose_colour_axis(rows) == ""
    assert choose_colour_axis(rows[:10]) == "dropout"
    assert choose_colour_axis([]) == ""


@pytest.mark.unit
def test_plot_sweep_groups_the_heads_by_the_colour_axis_best_first() -> None:
    rows = make_rows(gap=0.3)
    _, axes = plot([rows[2], rows[0], rows[3], rows[1]])
    groups = read_groups(axes)
    assert list(groups) == ["cut a", "cut b"]
    np.testing.assert_allclose(groups["cut a"], [(1, 0.9), (2, 0.88)])
    np.testing.assert_allclose(groups["cut b"], [(3, 0.6), (4, 0.58)])
    colours = [container.lines[0].get_color() for container in list_errorbars(axes)]
    assert len(set(colours)) == 2


@pytest.mark.unit
def test_plot_sweep_without_a_colour_axis_has_one_group() -> None:
    _, axes = plot([make_row("a", 0.9), make_row("b", 0.8)])
    assert list(read_groups(axes)) == ["heads"]


@pytest.mark.unit
def test_plot_sweep_draws_the_interval_of_each_head() -> None:
    rows = [make_row("a", 0.9), Row("b", Status.DONE, {}, Score(0.5, 0.50001, 0.75, 0.02))]
    _, axes = plot(rows)
    (container,) = list_errorbars(axes)
    _, _, (bars,) = container.lines
    # An end on the wrong side of the score, by rounding, has no length.
    ends = [[tuple(point) for point in segment] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[(1, 0.8), (1, 1.0)], [(2, 0.5), (2, 0.75)]])


@pytest.mark.unit
@pytest.mark.parametrize(("metric", "name"), [(ACCURACY, "accuracy"), (MetricName.VAL_LOSS, "loss")])
def test_plot_sweep_labels_its_axes(metric: MetricName, name: str) -> None:
    score = Score(0.9, 0.8, 1.0, 0.02, num_candidates=24)
    rows = [Row("a", Status.DONE, {}, score, val_loss=0.1), make_row("b", 0.5)]
    _, axes = plot(rows, metric)
    assert "2" in axes.get_xlabel()
    assert name in axes.get_ylabel()
    assert "24" in axes.get_ylabel()
    (first, second) = (score for _, score in read_groups(axes)["heads"])
    assert (first, second) == ((0.9, 0.5) if metric is ACCURACY else (0.5, 0.9))


@pytest.mark.unit
def test_plot_sweep_draws_baselines_without_changing_the_limits() -> None:
    rows = make_rows(gap=0.1)
    _, plain = plot(rows)
    baselines = [make_row(f"line {number}", value, status=Status.BASELINE) for number, value in enumerate((0.85, 0.1))]
    figure, axes = plot([*rows, *baselines])
    assert read_baselines(axes) == {"line 0: 0.850": 0.85, "line 1: 0.100": 0.1}
    assert axes.get_ylim() == plain.get_ylim()
    assert read_legend(figure) == [*read_groups(axes), "line 0: 0.850", "line 1: 0.100"]
    styles = {line.get_linestyle() for line in axes.lines if str(line.get_label()).startswith("line")}
    assert len(styles) == 2


@pytest.mark.unit
def test_plot_sweep_excludes_heads_that_were_not_fitted_to_the_end() -> None:
    rows = make_rows(gap=0.1)
    unfinished: list[Any] = [Status.PRUNED, Status.DIVERGED]
    _, axes = plot([*rows, *(make_row(status, None, status=status, cut="a", units=4) for status in unfinished)])
    assert sum(map(len, read_groups(axes).values())) == 4


@pytest.mark.parametrize("name", ["$x^$: $5", "a_b\\frac", "caf\udce9"])
def test_draw_sweep_writes_a_png_with_any_name(tmp_path: Path, name: str) -> None:
    rows = [make_row("1", 0.9, store=Path(name)), make_row("2", 0.8, store=Path("b"))]
    draw_sweep([*rows, make_row(name, 0.85, status=Status.BASELINE)], ACCURACY, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.format == "PNG"
