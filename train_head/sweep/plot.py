"""Plot of a sweep: the score of every head with its interval, best first, and the baselines as lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from base.terminal import format_count
from train_head.evaluation.plots import make_encodable, save_png
from train_head.sweep.config import MetricName
from train_head.sweep.rows import Row, Status, shorten_values, sort_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COLOURS = 10
_LINES = ("--", ":", "-.")
_NAMES = {MetricName.VAL_ACCURACY: "validation accuracy", MetricName.VAL_LOSS: "validation loss, nats"}


def draw_sweep(rows: Sequence[Row], metric: MetricName, path: Path) -> None:
    """Write the plot of a sweep as PNG."""
    save_png(plot_sweep(rows, metric), path)


def plot_sweep(rows: Sequence[Row], metric: MetricName) -> Figure:
    """Plot the baselines and the heads that were fitted to the end."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    ordered = sort_rows([row for row in rows if row.status is Status.DONE], metric)
    figure = Figure(figsize=(min(14, max(7, 3 + 0.16 * len(ordered))), 4.8), layout="constrained")
    axes = figure.subplots()
    _draw_heads(axes, ordered)
    # The baselines do not change the limits: a distant one would squeeze the heads into a line.
    low, high = axes.get_ylim()
    for number, row in enumerate(row for row in rows if row.status is Status.BASELINE):
        style, label = _LINES[number % len(_LINES)], f"{row.name}: {row.score.metric:.3f}"
        axes.axhline(row.score.metric, color="0.35", linestyle=style, linewidth=1, label=_make_literal(label))
    axes.set_ylim(low, high)
    num = max((row.score.num_candidates for row in ordered), default=1)
    spread = "95% interval" + (f", {num:,} candidates" if num > 1 else "")
    axes.set(xlabel=f"{format_count(len(ordered), 'head')}, best first", ylabel=f"{_NAMES[metric]}\n{spread}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, axis="y")
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: isinstance(handles[index], Line2D))
    figure.legend([handles[i] for i in order], [labels[i] for i in order], loc="outside right upper", fontsize="small")
    return figure


def choose_colour_axis(rows: Sequence[Row]) -> str:
    """Choose the axis that explains most of the variance of the scores, among those with two to ten values.

    The explained share is η²: the variance between the mean scores of the axis's values over the total variance of the
    heads that have the axis. Return an empty string if no axis has two to ten values.
    """
    scored = [row for row in rows if row.is_scored]
    explained: dict[str, float] = {}
    for axis in dict.fromkeys(name for row in scored for name in row.values):
        having = [row for row in scored if axis in row.values]
        metrics = np.array([row.score.metric for row in having])
        values, groups = np.unique([str(row.values[axis]) for row in having], return_inverse=True)
        if 2 <= len(values) <= MAX_COLOURS:
            means = np.bincount(groups, metrics) / np.bincount(groups)
            total = float(metrics.var())
            explained[axis] = float(means[groups].var()) / total if total else 0.0
    return max(explained, key=lambda axis: explained[axis]) if explained else ""


def _draw_heads(axes: Axes, ordered: Sequence[Row]) -> None:
    axis, stores = choose_colour_axis(ordered), shorten_values(ordered)
    groups: dict[Any, list[tuple[int, Row]]] = {}
    for rank, row in enumerate(ordered, 1):
        groups.setdefault(row.values.get(axis), []).append((rank, row))
    # Heads whose solver ignores the option come last.
    for number, value in enumerate(sorted(groups, key=lambda value: (value is None, value))):
        ranks, scores = [rank for rank, _ in groups[value]], [row.score for _, row in groups[value]]
        metrics, low, high = (np.array([getattr(s, name) for s in scores]) for name in ("metric", "low", "high"))
        # Rounding may put a mean outside its own interval by one unit in the last place.
        errors = np.maximum([metrics - low, high - metrics], 0)
        named = f"{axis.replace('_', ' ')} {stores.get(value, value)}" if axis else "heads"
        label = _make_literal(f"no {axis.replace('_', ' ')}" if axis and value is None else named)
        axes.errorbar(ranks, metrics, errors, label=label, color=f"C{number}", fmt="o", markersize=5, capsize=2)


def _make_literal(label: str) -> str:
    """Replace characters that cannot be drawn, and escape `$`, which would start a formula."""
    return make_encodable(label).replace("$", r"\$")
