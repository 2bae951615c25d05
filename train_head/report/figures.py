"""Plots of the report as SVG with real text, in colours that follow the page's light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.terminal import make_printable
from train_head.data.batches import Array
from train_head.solvers.history import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Place-holders for the colours of the page's style sheet.
INK, FAINT = "#010203", "#020304"
SERIES = ["#030405", "#040506", "#050607", "#060708", "#070809", "#08090a"]
TRAIN, VALIDATION = SERIES[0], SERIES[1]
_VARIABLES = {INK: "--ink", FAINT: "--faint"} | {colour: f"--series-{n}" for n, colour in enumerate(SERIES, 1)}
_LINE_STYLES = ["-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2))]


def draw_gap(history: Sequence[Epoch], kept_epoch: int, train_accuracy: float, train_loss: float) -> str:
    """Draw accuracy and loss by epoch, and mark at the kept one how far training is from validation.

    The history has dropout on; `train_accuracy` and `train_loss` are of the kept head with dropout off.
    """
    figure = _make_figure(7.6, 3.4)
    epochs = [row.epoch for row in history]
    panels = (("accuracy", train_accuracy), ("loss", train_loss))
    for axes, (name, clean) in zip(figure.subplots(1, 2), panels, strict=True):
        train, validation = ([getattr(row, column) for row in history] for column in (name, f"val_{name}"))
        held_out = validation[kept_epoch - 1]
        axes.plot(epochs, train, "o-", ms=3, color=TRAIN, label="training")
        axes.plot(epochs, validation, "s--", ms=3, color=VALIDATION, label="validation")
        axes.plot([kept_epoch], [clean], "D", ms=6, mfc="none", color=TRAIN, label="training, dropout off")
        axes.annotate("", (kept_epoch, clean), (kept_epoch, held_out), arrowprops={"arrowstyle": "<->", "color": INK})
        text, middle = f"gap {abs(clean - held_out):.3f}", (kept_epoch, (clean + held_out) / 2)
        axes.annotate(text, middle, (-6, 0), "data", "offset points", ha="right", va="center", color=INK)
        _finish(axes, name.capitalize(), "epoch", "")
        axes.xaxis.get_major_locator().set_params(integer=True)
    return _encode(figure, "curves")


def choose_drawn(targets: NDArray[np.int64], num_classes: int) -> list[int]:
    """Choose the classes whose curves are drawn: the second of two, else those with most pictures, as many as differ.

    A class without pictures, or without others, has no curves.
    """
    counts = np.bincount(targets, minlength=num_classes)
    possible = [number for number in range(num_classes) if 0 < counts[number] < len(targets)]
    if num_classes == 2:
        return possible[1:]
    return sorted(sorted(possible, key=lambda number: -counts[number])[: len(SERIES)])


def draw_areas(targets: NDArray[np.int64], probabilities: Array, labels: Sequence[str], drawn: Sequence[int]) -> str:
    """Draw ROC and precision-recall curves of the given classes, each against the others."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure = _make_figure(7.6, 3.6)
    left, right = figure.subplots(1, 2)
    for number, colour, line in zip(drawn, SERIES, _LINE_STYLES, strict=False):
        style: dict[str, Any] = {"color": colour, "linestyle": line, "label": f"class {make_printable(labels[number])}"}
        false_positive, true_positive, _ = roc_curve(targets == number, probabilities[:, number])
        left.plot(false_positive, true_positive, **style)
        precision, recall, _ = precision_recall_curve(targets == number, probabilities[:, number])
        right.step(recall, precision, where="post", **style)
    left.plot([0, 1], [0, 1], color=FAINT, linewidth=1, label="guessing")
    _finish(left, "ROC", "false positive rate", "true positive rate")
    _finish(right, "Precision and recall", "recall", "precision")
    for axes in (left, right):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return _encode(figure, "areas")


def draw_reliability(bins: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    """Draw frequency over probability, of the second of two classes or of the predicted one: `reliability`'s bins."""
    figure = _make_figure(4.6, 4)
    axes = figure.subplots()
    means, shares = ([found[name] for found in bins] for name in ("mean_probability", "share_right"))
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, label="as often as predicted")
    axes.plot(means, shares, "o-", color=TRAIN, label="this head")
    for found, mean, share in zip(bins, means, shares, strict=True):
        count = f"{found['num_pictures']:,}"
        axes.annotate(count, (mean, share), (4, -11), textcoords="offset points", fontsize=8, color=INK)
    what = make_printable(labels[1]) if len(labels) == 2 else "the predicted class"
    title = "Reliability (number of pictures at each point)"
    _finish(axes, title, f"mean probability of {what}", "share of which it is so")
    axes.set(xlim=(-0.02, 1.06), ylim=(-0.08, 1.04))
    return _encode(figure, "reliability")


def _make_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, color=INK, fontsize=11)
    # The name of a class may be $x^$, which is no formula.
    axes.set_xlabel(x_label, color=INK, parse_math=False)
    axes.set_ylabel(y_label, color=INK, parse_math=False)
    axes.tick_params(colors=INK)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    axes.grid(color=FAINT, alpha=0.35, linewidth=0.6)
    axes.set_facecolor("none")
    legend = axes.legend(labelcolor=INK, framealpha=0, fontsize=9, facecolor="none")
    for text in legend.get_texts():
        text.set_parse_math(False)


def _encode(figure: Figure, name: str) -> str:
    """Encode a figure as an element of a page; `name` goes before every id, so that those of two figures differ."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    # It grows and shrinks with the page, and is described beside it.
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
