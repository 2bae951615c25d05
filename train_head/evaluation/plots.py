"""Pictures of a run: the learning curves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_head.solvers.history import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = (("accuracy", "accuracy", "val_accuracy"), ("loss", "loss", "val_loss"))


def draw_curves(history: Sequence[Epoch], title: str, path: Path) -> None:
    """Draws accuracy and loss of training and validation by epoch.

    Args:
        history: one row an epoch.
        title: what stands above.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    figure.suptitle(_make_plain(title), parse_math=False)
    for axes, (name, *columns) in zip(figure.subplots(1, 2), _PANELS, strict=True):
        _draw_panel(axes, history, columns)
        axes.set(title=name.capitalize(), xlabel="epoch")
    _save(figure, path)


def draw_comparison(histories: Mapping[str, Sequence[Epoch]], path: Path) -> None:
    """Draws the curves of several fits side by side on common scales.

    Args:
        histories: for each title its history.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(histories), 7), layout="constrained")
    grid = figure.subplots(2, len(histories), sharex=True, sharey="row", squeeze=False)
    for number, (title, history) in enumerate(histories.items()):
        grid[0, number].set_title(_make_plain(title), parse_math=False)
        grid[1, number].set_xlabel("epoch")
        for row, (name, *columns) in enumerate(_PANELS):
            _draw_panel(grid[row, number], history, columns)
            grid[row, 0].set_ylabel(name)
    _save(figure, path)


def _draw_panel(axes: Axes, history: Sequence[Epoch], columns: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = [row.epoch for row in history]
    train, validation = ([getattr(row, column) for row in history] for column in columns)
    axes.plot(epochs, train, "o-", markersize=3, label="training")
    axes.plot(epochs, validation, "s--", markersize=3, label="validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()


def _save(figure: Any, path: Path) -> None:
    with warnings.catch_warnings():
        # A class name in a script that the font lacks: boxes in the title are no reason to print source lines.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(path, dpi=120)


def _make_plain(title: str) -> str:
    return title.encode("utf-8", "backslashreplace").decode()
