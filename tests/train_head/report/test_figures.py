"""The report's plots: real text, whatever the classes are called."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest

from train_head.report.figures import choose_drawn, draw_areas, draw_gap, draw_reliability
from train_head.solvers.history import Epoch


def list_texts(svg: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


@pytest.mark.parametrize("label", ["$x^$", "a_b\\frac{", "_hidden", "<b>&", "{{ 7 * 7 }}", "猫"])
def test_plots_take_a_classs_name_literally(label: str) -> None:
    targets = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]], np.float32)
    assert f"class {label}" in list_texts(draw_areas(targets, probabilities, ["other", label], [1]))
    bins = [{"num_pictures": 4, "mean_probability": 0.45, "share_right": 0.5}]
    assert f"mean probability of {label}" in list_texts(draw_reliability(bins, ["other", label]))


def test_choose_drawn_takes_the_largest_classes_as_many_as_there_are_colours() -> None:
    targets = np.repeat(np.arange(9), [3, 9, 1, 8, 7, 2, 6, 5, 0])
    assert choose_drawn(targets, 9) == [0, 1, 3, 4, 6, 7]
    assert choose_drawn(np.arange(9) % 3, 5) == [0, 1, 2]
    assert choose_drawn(np.arange(4) % 2, 2) == [1]
    assert choose_drawn(np.zeros(4, np.int64), 3) == []


def test_draw_areas_draws_the_given_classes() -> None:
    targets, labels = np.arange(80) % 8, [f"c{number}" for number in range(8)]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(8), 80).astype(np.float32)
    texts = list_texts(draw_areas(targets, probabilities, labels, [0, 5, 7]))
    assert {text for text in texts if text.startswith("class ")} == {"class c0", "class c5", "class c7"}


def test_draw_gap_says_both_gaps_and_names_no_colour_of_its_own() -> None:
    history = [Epoch(n, 1 / n, 0.9, 0.6, 0.8, 0.1) for n in range(1, 4)]
    svg = draw_gap(history, 3, 0.95, 0.1)
    assert {"gap 0.150", "gap 0.500"} <= set(list_texts(svg))
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert "var(--series-1)" in svg
