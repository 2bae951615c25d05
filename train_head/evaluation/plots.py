"""Plots of learning curves, as PNG."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from train_head.solvers.history import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = ("accuracy", "loss")


def draw_curves(history: Sequence[Epoch], title: str, path: Path) -> None:
    """Save the learning curves of a fit as PNG."""
    save_png(plot_curves(history, title), path)


def plot_curves(history: Sequence[Epoch], title: str) -> Figure:
    """Plot accuracy and loss by epoch side by side, for training and validation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    figure.suptitle(make_encodable(title), parse_math=False)
    for axes, name in zip(figure.subplots(1, 2), _PANELS, strict=True):
        _draw_panel(axes, history, name)
        axes.set(title=name.capitalize(), xlabel="epoch")
    return figure


def draw_comparison(histories: Mapping[str, Sequence[Epoch]], path: Path | IO[bytes]) -> None:
    """Draw the learning curves of several fits side by side with common scales, and save them as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(histories), 7), layout="constrained")
    grid = figure.subplots(2, len(histories), sharex=True, sharey="row", squeeze=False)
    for number, (title, history) in enumerate(histories.items()):
        grid[0, number].set_title(make_encodable(title), parse_math=False)
        grid[1, number].set_xlabel("epoch")
        for row, name in enumerate(_PANELS):
            _draw_panel(grid[row, number], history, name)
            grid[row, 0].set_ylabel(name)
    save_png(figure, path)


def _draw_panel(axes: Axes, history: Sequence[Epoch], name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = [row.epoch for row in history]
    axes.plot(epochs, [getattr(row, name) for row in history], "o-", markersize=3, label="training")
    axes.plot(epochs, [getattr(row, f"val_{name}") for row in history], "s--", markersize=3, label="validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    # With the default of the same value, matplotlib warns if the search for the place takes more than a second.
    axes.legend(loc="best")


def save_png(figure: Figure, path: Path | IO[bytes]) -> None:
    """Save a figure as PNG."""
    with warnings.catch_warnings():
        # Matplotlib warns about characters that the font lacks; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(path, dpi=120, format="png")


def make_encodable(text: str) -> str:
    """Escape the bytes of a name that are not UTF-8, which no font can draw."""
    return text.encode("utf-8", "backslashreplace").decode()
