"""Plots of the report: Matplotlib figures, and their encoding as SVG that follows the page's light or dark colours."""

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
from train_head.data.split import Targets
from train_head.solvers.history import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholders, which `encode_svg` replaces with the variables of the page's style sheet.
INK, FAINT = "#010203", "#020304"
SERIES = ["#030405", "#040506", "#050607", "#060708", "#070809", "#08090a"]
TRAIN, VALIDATION = SERIES[0], SERIES[1]
_VARIABLES = {INK: "--ink", FAINT: "--faint"} | {colour: f"--series-{n}" for n, colour in enumerate(SERIES, 1)}
_LINE_STYLES = ["-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2))]


def plot_learning_curve(history: Sequence[Epoch], kept_epoch: int, name: str, without_dropout: float) -> Figure:
    """Plot accuracy or loss by epoch, and mark the gap between training and validation at the kept epoch.

    Args:
        history: the epochs, with dropout on in training.
        kept_epoch: number of the epoch whose weights were kept, from 1.
        name: `accuracy` or `loss`.
        without_dropout: training accuracy or loss of the kept head, with dropout off.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _make_axes()
    epochs = [row.epoch for row in history]
    train, validation = ([getattr(row, column) for row in history] for column in (name, f"val_{name}"))
    val_kept = validation[kept_epoch - 1]
    axes.plot(epochs, train, "o-", ms=3, color=TRAIN, label="training")
    axes.plot(epochs, validation, "s--", ms=3, color=VALIDATION, label="validation")
    axes.plot([kept_epoch], [without_dropout], "D", ms=6, mfc="none", color=TRAIN, label="training, dropout off")
    ends = (kept_epoch, without_dropout), (kept_epoch, val_kept)
    axes.annotate("", *ends, arrowprops={"arrowstyle": "<->", "color": INK})
    text, middle = f"gap {abs(without_dropout - val_kept):.4f}", (kept_epoch, (without_dropout + val_kept) / 2)
    axes.annotate(text, middle, (-6, 0), "data", "offset points", ha="right", va="center", color=INK)
    unit = "share of pictures" if name == "accuracy" else "cross-entropy, nats"
    _finish(axes, name.capitalize(), "epoch", f"{name} ({unit})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def choose_plotted(targets: Targets, num_classes: int) -> list[int]:
    """Choose the classes whose curves are plotted.

    If there are two classes, the second is plotted. If there are more, the largest are plotted, at most as many as
    there are line colours. A class without pictures, or without pictures of other classes, has no curves.

    Args:
        targets: (n,) class numbers, or (n, classes) labels.
        num_classes: number of classes.

    Returns:
        Class numbers in ascending order.
    """
    is_multi_label = targets.ndim == 2
    counts = targets.sum(axis=0, dtype=np.int64) if is_multi_label else np.bincount(targets, minlength=num_classes)
    possible = [number for number in range(num_classes) if 0 < counts[number] < len(targets)]
    if num_classes == 2 and not is_multi_label:
        return possible[1:]
    return sorted(sorted(possible, key=lambda number: -counts[number])[: len(SERIES)])


def plot_roc(targets: Targets, probabilities: Array, labels: Sequence[str], plotted: Sequence[int]) -> Figure:
    """Plot the ROC curve of each of the given classes against the other classes.

    Args:
        targets: (n,) class numbers, or (n, classes) labels.
        probabilities: (n, classes) float32.
        labels: the classes in order.
        plotted: numbers of the classes to plot.
    """
    from sklearn.metrics import roc_curve

    figure, axes = _make_axes()
    for number, style in _list_styles(labels, plotted):
        false_positive, true_positive, _ = roc_curve(_select_class(targets, number), probabilities[:, number])
        axes.plot(false_positive, true_positive, **style)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, label="chance")
    _finish(axes, "ROC curve", "false positive rate", "true positive rate")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return figure


def plot_precision_recall(
    targets: Targets, probabilities: Array, labels: Sequence[str], plotted: Sequence[int]
) -> Figure:
    """Plot precision over recall of each of the given classes; the arguments are those of `plot_roc`."""
    from sklearn.metrics import precision_recall_curve

    figure, axes = _make_axes()
    for number, style in _list_styles(labels, plotted):
        precision, recall, _ = precision_recall_curve(_select_class(targets, number), probabilities[:, number])
        axes.step(recall, precision, where="post", **style)
    _finish(axes, "Precision and recall", "recall", "precision")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return figure


def plot_reliability(
    bins: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    before: Sequence[Mapping[str, Any]] = (),
    *,
    is_multi_label: bool = False,
) -> Figure:
    """Plot the observed frequency over the mean predicted probability of each bin.

    Args:
        bins: `reliability` of an evaluation: of the second class if there are two, else of the predicted class.
        labels: the classes in order.
        before: the bins before the calibration; empty without one.
        is_multi_label: whether the bins are of each label of each picture.
    """
    figure, axes = _make_axes()
    names = ("mean_probability", "share_right")
    means, shares = ([found[name] for found in bins] for name in names)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, label="perfect calibration")
    if before:
        points = [[found[name] for found in before] for name in names]
        axes.plot(*points, "s--", ms=4, color=VALIDATION, label="before calibration")
    axes.plot(means, shares, "o-", color=TRAIN, label="this head")
    for found, mean, share in zip(bins, means, shares, strict=True):
        count = f"{found['num_pictures']:,}"
        axes.annotate(count, (mean, share), (4, -11), textcoords="offset points", fontsize=8, color=INK)
    x_label, y_label = "mean probability of the predicted class", "share classified correctly"
    if is_multi_label:
        x_label, y_label = "mean probability of a label", "share of pictures that have the label"
    elif len(labels) == 2:
        second = make_printable(labels[1])
        x_label, y_label = f"mean probability of {second}", f"share of pictures that are {second}"
    counted = "labels" if is_multi_label else "pictures"
    _finish(axes, f"Calibration (number of {counted} at each point)", x_label, y_label)
    axes.set(xlim=(-0.02, 1.06), ylim=(-0.08, 1.04))
    return figure


def plot_distances(held_out: Array, validation: Array, threshold: float) -> Figure:
    """Plot the distributions of the distances to the nearest class, as shares of the pictures, and the threshold.

    Args:
        held_out: (n,) distances of the training pictures, each left out of the classes.
        validation: (m,) distances of the validation pictures.
        threshold: distance above which a picture is an outlier.
    """
    figure, axes = _make_axes()
    # A few extreme pictures must not compress the others.
    end = max(float(np.quantile(np.concatenate([held_out, validation]), 0.995)), threshold) * 1.1 or 1.0
    edges = np.linspace(0, end, 41)
    for values, name, colour, line in (
        (held_out, "training, left out", TRAIN, "-"),
        (validation, "validation", VALIDATION, "--"),
    ):
        counts, _ = np.histogram(np.minimum(values, end), edges)
        axes.stairs(counts / len(values), edges, color=colour, linestyle=line, label=name)
    axes.axvline(threshold, color=INK, linewidth=1, linestyle=":", label="threshold")
    _finish(axes, "Distance from the training pictures", "squared Mahalanobis distance", "share of pictures")
    return figure


def _select_class(targets: Targets, number: int) -> NDArray[np.bool_]:
    """Return which pictures are of a class, or have a label."""
    return np.asarray(targets[:, number] == 1 if targets.ndim == 2 else targets == number)


def _list_styles(labels: Sequence[str], plotted: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
    """List the classes to plot, each with the keyword arguments of its line."""
    return [
        (number, {"color": colour, "linestyle": line, "label": f"class {make_printable(labels[number])}"})
        for number, colour, line in zip(plotted, SERIES, _LINE_STYLES, strict=False)
    ]


def _make_axes() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.5), layout="constrained")
    return figure, figure.subplots()


def _finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, color=INK, fontsize=11)
    # A class name such as $x^$ must not be parsed as a formula.
    axes.set_xlabel(x_label, color=INK, parse_math=False)
    axes.set_ylabel(y_label, color=INK, parse_math=False)
    axes.tick_params(colors=INK)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    axes.grid(color=FAINT, alpha=0.35, linewidth=0.6)
    axes.set_facecolor("none")
    if not axes.get_legend_handles_labels()[0]:
        return
    # With the default of the same value, matplotlib warns if the search for the place takes more than a second.
    legend = axes.legend(loc="best", labelcolor=INK, framealpha=0, fontsize=9, facecolor="none")
    for text in legend.get_texts():
        text.set_parse_math(False)


def encode_svg(figure: Figure, name: str) -> str:
    """Encode a figure as an SVG element of a page, with text elements; `name` prefixes its ids to make them unique."""
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
    # An SVG element without a size scales with the page. The enclosing element has the text alternative.
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
