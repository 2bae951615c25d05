"""Pictures of a run: the learning curves."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from train_head.solvers.history import Epoch


def draw_curves(history: Sequence[Epoch], title: str, path: Path) -> None:
    """Draws accuracy and loss of training and validation by epoch.

    Args:
        history: one row an epoch.
        title: what stands above.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    figure.suptitle(title.encode("utf-8", "backslashreplace").decode(), parse_math=False)
    epochs = [row.epoch for row in history]
    panels = (("Accuracy", "accuracy", "val_accuracy"), ("Loss", "loss", "val_loss"))
    for axes, (name, train, validation) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.plot(epochs, [getattr(row, train) for row in history], "o-", markersize=3, label="training")
        axes.plot(epochs, [getattr(row, validation) for row in history], "s--", markersize=3, label="validation")
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    with warnings.catch_warnings():
        # A class name in a script that the font lacks: boxes in the title are no reason to print source lines.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(path, dpi=120)
