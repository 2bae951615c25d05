"""Plots of the report: their artists, and their encoding as SVG."""

from __future__ import annotations

import html
import itertools
import re
import time
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest

from train_head.report.figures import (
    choose_plotted,
    encode_svg,
    plot_learning_curve,
    plot_precision_recall,
    plot_reliability,
    plot_roc,
)
from train_head.solvers.history import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

pytestmark = pytest.mark.unit
HISTORY = [Epoch(n, 1 / n, 0.8 + n / 100, 0.6, 0.8, 0.1) for n in range(1, 4)]
BINS = [
    {"num_pictures": 4, "mean_probability": 0.45, "share_right": 0.5},
    {"num_pictures": 1200, "mean_probability": 0.9, "share_right": 1.0},
]
TARGETS = np.array([0, 0, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]], np.float32)


def get_axes(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def read_lines(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each labelled line."""
    return {
        str(line.get_label()): [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]
        for line in get_axes(figure).lines
    }


@pytest.mark.parametrize(
    ("name", "without_dropout", "column", "gap"),
    [("accuracy", 0.95, "accuracy", "0.1500"), ("loss", 0.1, "loss", "0.5000")],
)
def test_plot_learning_curve_has_both_curves_and_the_gap(
    name: str, without_dropout: float, column: str, gap: str
) -> None:
    figure = plot_learning_curve(HISTORY, 3, name, without_dropout)
    training, validation, clean = read_lines(figure).values()
    assert training == [(row.epoch, getattr(row, column)) for row in HISTORY]
    assert validation == [(row.epoch, getattr(row, f"val_{column}")) for row in HISTORY]
    assert clean == [(3, without_dropout)]
    assert [text.get_text() for text in get_axes(figure).texts if text.get_text()] == [f"gap {gap}"]


def test_plot_roc_starts_at_0_and_ends_at_1_for_each_class_and_chance() -> None:
    targets, labels = np.arange(80) % 8, [f"c{number}" for number in range(8)]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(8), 80).astype(np.float32)
    lines = read_lines(plot_roc(targets, probabilities, labels, [0, 5, 7]))
    assert list(lines) == ["class c0", "class c5", "class c7", "chance"]
    assert all((points[0], points[-1]) == ((0, 0), (1, 1)) for points in lines.values())


def test_plot_roc_and_precision_recall_have_the_points_of_each_threshold() -> None:
    roc = read_lines(plot_roc(TARGETS, PROBABILITIES, ["cats", "dogs"], [1]))
    assert roc["class dogs"] == [(0, 0), (0, 0.5), (0, 1), (1, 1)]
    curve = read_lines(plot_precision_recall(TARGETS, PROBABILITIES, ["cats", "dogs"], [1]))
    assert curve["class dogs"] == [(1, 0.5), (1, pytest.approx(2 / 3)), (1, 1), (0.5, 1), (0, 1)]


def test_plot_precision_recall_without_a_class_to_plot_has_no_legend() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot_precision_recall(TARGETS, PROBABILITIES, ["cats", "dogs"], [])
    assert get_axes(figure).get_legend() is None


def test_plot_reliability_has_a_point_and_a_count_for_each_bin() -> None:
    figure = plot_reliability(BINS, ["cats", "dogs"])
    diagonal, head = read_lines(figure).values()
    assert diagonal == [(0, 0), (1, 1)]
    assert head == [(0.45, 0.5), (0.9, 1.0)]
    assert [text.get_text() for text in get_axes(figure).texts] == ["4", "1,200"]


def test_plot_reliability_before_calibration_has_another_line() -> None:
    bins = [{"num_pictures": 8, "mean_probability": 0.3, "share_right": 0.2}]
    before = [{"num_pictures": 8, "mean_probability": 0.45, "share_right": 0.2}]
    lines = read_lines(plot_reliability(bins, ["cats", "dogs"], before))
    assert lines["this head"] == [(0.3, 0.2)]
    assert lines["before calibration"] == [(0.45, 0.2)]


def test_plots_label_both_axes() -> None:
    curves = (TARGETS, PROBABILITIES, ["cats", "dogs"], [1])
    figures = [plot_learning_curve(HISTORY, 3, "loss", 0.1), plot_roc(*curves), plot_precision_recall(*curves)]
    for figure in [*figures, plot_reliability(BINS, ["cats", "dogs"]), plot_reliability(BINS, ["a", "b", "c"])]:
        axes = get_axes(figure)
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert axes.get_title()


@pytest.mark.parametrize("label", ["$x^$", "a_b\\frac{", "_hidden", "<b>&", "{{ 7 * 7 }}", "猫"])
def test_encode_svg_keeps_class_names_as_literal_text(label: str) -> None:
    for figure in (
        plot_roc(TARGETS, PROBABILITIES, ["other", label], [1]),
        plot_reliability(BINS, ["other", label]),
    ):
        texts = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", encode_svg(figure, "a"))]
        assert any(label in text for text in texts)


def test_encode_svg_uses_only_colours_and_ids_of_the_page() -> None:
    figure = plot_learning_curve(HISTORY, 3, "loss", 0.1)
    svg = encode_svg(figure, "loss")
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert "var(--series-1)" in svg
    assert all(found.startswith("loss-") for found in re.findall(r'id="([^"]*)"', svg))
    assert set(re.findall(r"url\(#([^)]*)\)", svg)) <= set(re.findall(r'id="([^"]*)"', svg))


def test_choose_plotted_takes_the_largest_classes_up_to_the_number_of_colours() -> None:
    targets = np.repeat(np.arange(9), [3, 9, 1, 8, 7, 2, 6, 5, 0])
    assert choose_plotted(targets, 9) == [0, 1, 3, 4, 6, 7]
    assert choose_plotted(np.arange(9) % 3, 5) == [0, 1, 2]
    assert choose_plotted(np.arange(4) % 2, 2) == [1]
    assert choose_plotted(np.zeros(4, np.int64), 3) == []


def test_encode_svg_on_a_slow_machine_gives_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = plot_learning_curve(HISTORY, 3, "loss", 0.1)
    monkeypatch.setattr(time, "perf_counter", itertools.count(step=2.0).__next__)
    assert "<svg" in encode_svg(figure, "slow")
