"""The picture of a sweep: every head with its uncertainty, best first, and the baselines as lines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_head.sweep.config import MetricName
from train_head.sweep.rows import Row, Status, shorten_paths, sort_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_COLOURS = 10
_LINES = ("--", ":", "-.")
_NAMES = {MetricName.VAL_ACCURACY: "validation accuracy", MetricName.VAL_LOSS: "validation loss, nats"}


def draw_sweep(rows: Sequence[Row], metric: MetricName, path: Path) -> None:
    """Draws every head that was fitted to its end.

    Args:
        rows: heads and baselines, at least one of them a head with a score.
        metric: what they were scored by.
        path: the PNG to write.
    """
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
        style, value = _LINES[number % len(_LINES)], row.score.value
        axes.axhline(value, color="0.35", linestyle=style, linewidth=1, label=_make_plain(f"{row.name}: {value:.3f}"))
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
    with warnings.catch_warnings():
        # A store's name in a script that the font lacks: boxes in the legend are no reason to print source lines.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(path, dpi=120, format="png")


def choose_colours(rows: Sequence[Row]) -> str:
    """Chooses the axis whose values set the heads apart the most; empty where none has two to ten values.

    The share of the score's variance that lies between the means of an axis's values (η²).
    """
    scored = [row for row in rows if row.is_scored]
    shares: dict[str, float] = {}
    for axis in scored[0].values if scored else ():
        groups: dict[str, list[float]] = {}
        for row in scored:
            groups.setdefault(str(row.values[axis]), []).append(row.score.value)
        if 2 <= len(groups) <= MAX_COLOURS:
            shares[axis] = _compare_means(groups)
    return max(shares, key=lambda axis: shares[axis]) if shares else ""


def _compare_means(groups: Mapping[str, Sequence[float]]) -> float:
    everything = [value for values in groups.values() for value in values]
    mean = sum(everything) / len(everything)
    between = sum(len(values) * (sum(values) / len(values) - mean) ** 2 for values in groups.values())
    return between / max(sum((value - mean) ** 2 for value in everything), 1e-300)


def _draw_heads(axes: Axes, ordered: Sequence[Row]) -> None:
    axis = choose_colours(ordered)
    stores = shorten_paths(row.values[axis] for row in ordered if isinstance(row.values.get(axis), Path))
    groups: dict[Any, list[tuple[int, Row]]] = {}
    for place, row in enumerate(ordered, 1):
        groups.setdefault(row.values.get(axis, ""), []).append((place, row))
    for number, value in enumerate(sorted(groups)):
        places, scores = [place for place, _ in groups[value]], [row.score for _, row in groups[value]]
        values = [score.value for score in scores]
        # A mean of floats may miss the end of its own interval by its last digit.
        errors = [
            [max(score.value - score.low, 0.0) for score in scores],
            [max(score.high - score.value, 0.0) for score in scores],
        ]
        label = f"{axis.replace('_', ' ')} {stores.get(value, value)}" if axis else "heads"
        colour = f"C{number}"
        axes.errorbar(places, values, errors, label=_make_plain(label), color=colour, fmt="o", markersize=5, capsize=2)


def _make_plain(label: str) -> str:
    """Shows what no font has, and keeps a `$` from beginning a formula."""
    return label.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")
