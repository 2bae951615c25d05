"""Search space of a sweep: options of training with the values to try."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from base.errors import UsageError
from base.options import OptionSpec, convert_value, describe_kind, list_options
from base.terminal import format_count
from features.cuts import list_cuts
from train_head.config import NO_FINE_TUNING, SolverName, TrainConfig
from train_head.sweep.config import SweepConfig

DEFAULT_AXES: dict[str, tuple[Any, ...]] = {
    "units": (256, 1024),
    "dropout": (0.2, 0.5),
    "learning_rate": (3e-5, 1e-4, 3e-4),
}
"""Values to try if no `--try` is given. An option that the user set, even to its default, keeps its value."""
LOG_SCALED = {"learning_rate", "l2", "units", "batch_size", "rank"}
"""Options whose ranges are searched on a logarithmic scale."""
SIGNIFICANT_DIGITS = 3
"""Significant digits of a number that is drawn from a range; they keep the names of heads short."""
_FIXED_OPTIONS = {
    *("preset", "weights", "run", "images", "repeats", "folds", "validation_split", "split"),
    *("no_report", "tensorboard", "overwrite"),
}
"""Options that cannot be tried: presets, paths, and options of the evaluation, which must be the same for all heads."""


@dataclass(frozen=True)
class Axis:
    """Option and the values to try."""

    name: str
    values: tuple[Any, ...]
    """Values of the option's type, or the two ends of a range."""
    is_range: bool = False

    def count_values(self) -> int:
        """Count the possible values: the listed ones, or the numbers in a range with three significant digits."""
        if not self.is_range:
            return len(self.values)
        low, high = self.values
        if isinstance(low, int):
            return int(high - low + 1)
        # In a range that starts at 0, numbers below a millionth of the upper end are not counted: about one draw in a
        # million is that small. The two ends are added, because they may have more digits.
        return _count_numbers(high) - _count_numbers(low or high * 1e-6) + 2

    def describe(self) -> str:
        """Describe the axis with its name, and the number of values or the range: `learning rate (3 values)`."""
        low, high = self.values[0], self.values[-1]
        values = f"{low:g} to {high:g}" if self.is_range else format_count(len(self.values), "value")
        return f"{self.name.replace('_', ' ')} ({values})"


def parse_axes(tries: Sequence[str], *, takes_ranges: bool) -> list[Axis]:
    """Parse the values of `--try`: `NAME=VALUE,VALUE`, or `NAME=LOW..HIGH` if ranges are allowed."""
    axes: dict[str, Axis] = {}
    for text in tries:
        axis = _parse_axis(text, takes_ranges)
        if axis.name in axes:
            got = f"{axis.name.replace('_', '-')} a second time"
            raise UsageError(f"--try {text}", "each option once", got, "List all its values in one --try")
        axes[axis.name] = axis
    return list(axes.values())


def add_default_axes(axes: Sequence[Axis], config: SweepConfig) -> list[Axis]:
    """Add the default axes to the given ones.

    All stored cuts are tried if no cut is given. If no axis is given, the options of `DEFAULT_AXES` that the user did
    not set are tried too, unless the solver has none of them.
    """
    given = {axis.name: axis for axis in axes}
    cuts = [tuple(list_cuts(store)) for store in (given["store"].values if "store" in given else (config.store,))]
    # With fine-tuning, the first fine-tuned layer determines the cut.
    is_tuned = "unfreeze_from" in given or config.unfreeze_from != NO_FINE_TUNING
    added = []
    if "cut" not in given and not config.cut and not is_tuned and len(cuts[0]) > 1 and len(set(cuts)) == 1:
        added.append(Axis("cut", cuts[0]))
    if not axes and config.solver is not SolverName.RIDGE:
        # A head without hidden units has no dropout.
        has_units = config.units != 0
        added += [
            Axis(name, values)
            for name, values in DEFAULT_AXES.items()
            if getattr(config, name) is None and (has_units or name != "dropout")
        ]
    return [*added, *axes]


def _parse_axis(text: str, takes_ranges: bool) -> Axis:
    given, equals, values = text.partition("=")
    known = {option.name: option for option in list_options(TrainConfig) if option.name not in _FIXED_OPTIONS}
    option = known.get(given.strip().replace("-", "_"))
    if option is None or not equals:
        possible = ", ".join(sorted(known)).replace("_", "-")
        raise UsageError(f"--try {text}", f"NAME=VALUE,VALUE with one of {possible}", given, "Correct the name")
    name = option.name
    if option.kind in (int, float) and (found := re.fullmatch(r"(.+?)\.\.(.+)", values)):
        if not takes_ranges:
            raise UsageError(f"--try {text}", "values", "a range", "List values, or add --search optuna")
        low, high = (_parse_value(text, option, end) for end in found.groups())
        if not low < high or (name in LOG_SCALED and low <= 0):
            least = " above 0 and" if name in LOG_SCALED else ""
            raise UsageError(f"--try {text}", f"LOW..HIGH with LOW{least} below HIGH", values, "Correct the range")
        return Axis(name, (low, high), is_range=True)
    parsed = [_parse_value(text, option, value.strip()) for value in values.split(",")]
    if len(set(parsed)) < len(parsed):
        raise UsageError(f"--try {text}", "each value once", values, "Remove the repetition")
    return Axis(name, tuple(parsed))


def _parse_value(text: str, option: OptionSpec, value: str) -> Any:
    """Parse one value; raise UsageError if it is not a valid value of the option."""
    try:
        if value:
            return convert_value(option, option.kind(value) if option.kind in (int, float) else value)
    except (ValueError, UsageError):
        pass
    raise UsageError(f"--try {text}", describe_kind(option), repr(value), "Correct the value")


def _count_numbers(value: float) -> int:
    """Count the numbers of `SIGNIFICANT_DIGITS` digits up to a value; only differences of counts are meaningful."""
    decade = math.floor(math.log10(value))
    unit = float(10.0 ** (decade - SIGNIFICANT_DIGITS + 1))
    return 9 * int(10 ** (SIGNIFICANT_DIGITS - 1)) * decade + math.floor(value / unit)
