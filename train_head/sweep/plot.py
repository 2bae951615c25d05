"""Plot of a sweep: every head with its uncertainty, best first, and the baselines as lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from train_head.evaluation.plots import make_encodable, save_png
from train_head.sweep.config import MetricName
from train_head.sweep.rows import Row, Status, shorten_values, sort_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_COLOURS = 10
_LINES = ("--", ":", "-.")
_NAMES = {MetricName.VAL_ACCURACY: "validation accuracy", MetricName.VAL_LOSS: "validation loss, nats"}


def draw_sweep(rows: Sequence[Row], metric: MetricName, path: Path) -> None:
    """Draw every head that was fitted to its end, as PNG; there is at least one."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    ordered = sort_rows([row for row in rows if row.status is Status.DONE], metric)
    figure = Figure(figsize=(min(14, max(7, 3 + 0.16 * len(ordered))), 4.8), layout="constrained")
    axes = figure.subplots()
    _draw_heads(axes, ordered)
    # A baseline that is far off is in the legend alone: it would squeeze the heads into a line.
    low, high = axes.get_ylim()
    for number, row in enumerate(row for row in rows if row.status is Status.BASELINE):
        style, label = _LINES[number % len(_LINES)], f"{row.name}: {row.score.metric:.3f}"
        axes.axhline(row.score.metric, color="0.35", linestyle=style, linewidth=1, label=_make_literal(label))
    axes.set_ylim(low, high)
    num = max(row.score.num_candidates for row in ordered)
    spread = "95 % interval" if num == 1 else f"95 % intervals, {num:,} at once"
    axes.set(xlabel=f"{len(ordered)} heads, best first", ylabel=f"{_NAMES[metric]}\n{spread}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, axis="y")
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: isinstance(handles[place], Line2D))
    chosen = [handles[place] for place in order], [labels[place] for place in order]
    figure.legend(*chosen, loc="outside right upper", fontsize="small")
    save_png(figure, path)


def choose_colour_axis(rows: Sequence[Row]) -> str:
    """Choose the axis whose values set the heads apart the most; empty where none has two to ten values.

    That is the one with the largest share of the score's variance between the means of its values (η²).
    """
    scored = [row for row in rows if row.is_scored]
    metrics = np.array([row.score.metric for row in scored])
    between: dict[str, float] = {}
    for axis in scored[0].values if scored else ():
        values, groups = np.unique([str(row.values[axis]) for row in scored], return_inverse=True)
        if 2 <= len(values) <= MAX_COLOURS:
            means = np.bincount(groups, metrics) / np.bincount(groups)
            between[axis] = float(means[groups].var())
    return max(between, key=lambda axis: between[axis]) if between else ""


def _draw_heads(axes: Axes, ordered: Sequence[Row]) -> None:
    axis, stores = choose_colour_axis(ordered), shorten_values(ordered)
    groups: dict[Any, list[tuple[int, Row]]] = {}
    for place, row in enumerate(ordered, 1):
        groups.setdefault(row.values.get(axis, ""), []).append((place, row))
    for number, value in enumerate(sorted(groups)):
        places, scores = [place for place, _ in groups[value]], [row.score for _, row in groups[value]]
        metrics, low, high = (np.array([getattr(s, name) for s in scores]) for name in ("metric", "low", "high"))
        # A mean of floats may miss the end of its own interval by its last digit.
        errors = np.maximum([metrics - low, high - metrics], 0)
        label = _make_literal(f"{axis.replace('_', ' ')} {stores.get(value, value)}" if axis else "heads")
        axes.errorbar(places, metrics, errors, label=label, color=f"C{number}", fmt="o", markersize=5, capsize=2)


def _make_literal(label: str) -> str:
    """Escape what no font has, and a `$`, which would begin a formula."""
    return make_encodable(label).replace("$", r"\$")
