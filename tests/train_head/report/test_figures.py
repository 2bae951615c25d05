"""The report's plots: real text, whatever the classes are called."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest

from train_head.evaluation import ReliabilityBin
from train_head.report.figures import draw_areas, draw_gap, draw_reliability
from train_head.solvers.history import Epoch


def list_texts(svg: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


@pytest.mark.parametrize("label", ["$x^$", "a_b\\frac{", "_hidden", "<b>&", "{{ 7 * 7 }}", "猫"])
def test_plots_take_a_classs_name_literally(label: str) -> None:
    targets = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]], np.float32)
    assert f"class {label}" in list_texts(draw_areas(targets, probabilities, ["other", label]))
    bins = [ReliabilityBin(0.4, 0.5, 4, 0.45, 0.5)]
    assert f"mean probability of {label}" in list_texts(draw_reliability(bins, f"of {label}"))


def test_draw_gap_says_both_gaps_and_names_no_colour_of_its_own() -> None:
    history = [Epoch(n, 1 / n, 0.9, 0.6, 0.8, 0.1) for n in range(1, 4)]
    svg = draw_gap(history, 3, 0.95, 0.1)
    assert {"gap 0.150", "gap 0.500"} <= set(list_texts(svg))
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert "var(--series-1)" in svg
