"""Confusion matrix of many classes as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.terminal import make_printable
from train_head.report.figures import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_SQUARES = 125
"""Largest number of squares on a side; with more classes, a square covers several classes."""
MAX_TICKS = 25
MAX_TICK_LENGTH = 18
# A picture cannot follow the colours of the page: these are visible on a light and on a dark one.
CORRECT, INCORRECT = (0.16, 0.5, 0.93), (0.93, 0.42, 0.06)
MIN_OPACITY = 0.5
"""Opacity of the smallest share, so that a single picture is visible."""


def draw_squares(cells: NDArray[np.int64], num_classes: int) -> NDArray[np.floating[Any]]:
    """Draw the squares of a confusion matrix.

    Args:
        cells: (cells, 3) non-zero cells: true class, predicted class, number of pictures.
        num_classes: number of classes.

    Returns:
        (squares, squares, 4) RGBA in [0, 1]; rows are true classes. A square with correct predictions has the colour
        `CORRECT`, one with only incorrect ones `INCORRECT`. Its opacity grows with the square root of their share of
        the pictures of the square's true classes. Other squares are transparent.
    """
    step = count_classes_per_square(num_classes)
    size = -(-num_classes // step)
    squares = np.zeros((size, size, 4))
    true, predicted, counts = cells[:, 0] // step, cells[:, 1] // step, cells[:, 2]
    num_pictures = np.bincount(true, counts, size)[:, None]
    is_correct = cells[:, 0] == cells[:, 1]
    for colour, chosen in ((INCORRECT, ~is_correct), (CORRECT, is_correct)):
        found = np.zeros((size, size))
        np.add.at(found, (true[chosen], predicted[chosen]), counts[chosen])
        opacity = MIN_OPACITY + (1 - MIN_OPACITY) * np.sqrt(found / np.maximum(num_pictures, 1))
        squares[found > 0] = np.concatenate([np.tile(colour, (size, size, 1)), opacity[..., None]], axis=2)[found > 0]
    return squares


def count_classes_per_square(num_classes: int) -> int:
    """Return the number of classes on each side of a square."""
    return -(-num_classes // MAX_SQUARES)


def plot_confusion(cells: NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """Plot the confusion matrix of many classes, and label some of them; the arguments are those of `draw_squares`."""
    from matplotlib.figure import Figure

    num_classes = len(labels)
    squares = draw_squares(cells, num_classes)
    figure = Figure(figsize=(6.6, 6.2), layout="constrained")
    axes = figure.subplots()
    end = len(squares) * count_classes_per_square(num_classes) - 0.5
    # Without interpolation, the picture in the SVG has one pixel for each square.
    axes.imshow(squares, extent=(-0.5, end, end, -0.5), interpolation="none", aspect="auto")
    ticks = list(range(0, num_classes, -(-num_classes // MAX_TICKS)))
    names = [_shorten(make_printable(labels[tick])) for tick in ticks]
    for axis, rotation in ((axes.xaxis, 90), (axes.yaxis, 0)):
        axis.set_ticks(ticks, names, rotation=rotation, fontsize=7, color=INK, parse_math=False)
    axes.tick_params(color=FAINT)
    axes.set_xlabel("predicted class", color=INK)
    axes.set_ylabel("true class", color=INK)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    axes.set_facecolor("none")
    return figure


def _shorten(label: str) -> str:
    return label if len(label) <= MAX_TICK_LENGTH else label[: MAX_TICK_LENGTH - 1] + "…"
