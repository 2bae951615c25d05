"""Search space of a sweep: options of training, each with the values to try."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from base.errors import UsageError
from base.options import OptionSpec, convert_value, describe_kind, list_options
from features.cuts import list_cuts
from train_head.config import NO_FINE_TUNING, TrainConfig
from train_head.sweep.config import SweepConfig

DEFAULT_AXES: dict[str, tuple[Any, ...]] = {
    "units": (256, 1024),
    "dropout": (0.2, 0.5),
    "learning_rate": (3e-5, 1e-4, 3e-4),
}
"""Values to try where nothing is named; an option that was set, be it to its default, stays as it is."""
LOG_SCALED = {"learning_rate", "l2", "units", "batch_size", "rank"}
"""Options whose ranges are searched by their logarithm."""
SIGNIFICANT_DIGITS = 3
"""Of a number from a range: more would only make long names."""
_NOT_TRIED = {"weights", "run", "repeats", "folds", "validation_split", "no_report", "tensorboard", "overwrite"}
_NOT_TRIED |= {"images"}
"""Options for a place, or for how a head is measured: heads that were measured differently do not compare."""


@dataclass(frozen=True)
class Axis:
    """An option and the values to try."""

    name: str
    values: tuple[Any, ...]
    """Each of the option's own type; of a range its two ends."""
    is_range: bool = False

    def count_values(self) -> int:
        """Count the values that could be tried: those listed, or all of a range, of three significant digits."""
        if not self.is_range:
            return len(self.values)
        low, high = self.values
        if isinstance(low, int):
            return int(high - low + 1)
        # Less than one draw in a million of a range that begins with 0 lies below a millionth of its end.
        return _count_numbers(high) - _count_numbers(max(low, high * 1e-6)) + 2

    def describe(self) -> str:
        """Return the number of values, or the ends of a range, with the option's name: `3 learning rate`."""
        low, high = self.values[0], self.values[-1]
        return f"{f'{low:g} to {high:g}' if self.is_range else len(self.values)} {self.name.replace('_', ' ')}"


def parse_axes(tries: Sequence[str], *, takes_ranges: bool) -> list[Axis]:
    """Parse the values of `--try`: `NAME=VALUE,VALUE`, or `NAME=LOW..HIGH` where the search takes ranges."""
    axes: dict[str, Axis] = {}
    for text in tries:
        axis = _parse_axis(text, takes_ranges)
        if axis.name in axes:
            got = f"{axis.name.replace('_', '-')} again"
            raise UsageError(f"--try {text}", "each option once", got, "Put its values together")
        axes[axis.name] = axis
    return list(axes.values())


def add_default_axes(axes: Sequence[Axis], config: SweepConfig) -> list[Axis]:
    """Add the axes that are tried without being named.

    These are all cuts where none is named; and where nothing is named, the options of `DEFAULT_AXES` that were not set.
    """
    named = {axis.name: axis for axis in axes}
    cuts = [tuple(list_cuts(store)) for store in (named["store"].values if "store" in named else (config.store,))]
    # The first layer to be trained again decides the cut that a head begins with.
    is_tuned = "unfreeze_from" in named or config.unfreeze_from != NO_FINE_TUNING
    added = []
    if "cut" not in named and not config.cut and not is_tuned and len(cuts[0]) > 1 and len(set(cuts)) == 1:
        added.append(Axis("cut", cuts[0]))
    if not axes:
        added += [Axis(name, values) for name, values in DEFAULT_AXES.items() if getattr(config, name) is None]
    return [*added, *axes]


def _parse_axis(text: str, takes_ranges: bool) -> Axis:
    given, equals, values = text.partition("=")
    known = {option.name: option for option in list_options(TrainConfig) if option.name not in _NOT_TRIED}
    option = known.get(given.strip().replace("-", "_"))
    if option is None or not equals:
        possible = ", ".join(sorted(known)).replace("_", "-")
        raise UsageError(f"--try {text}", f"NAME=VALUE,VALUE with one of {possible}", given, "Name one of these")
    name = option.name
    if option.kind in (int, float) and (found := re.fullmatch(r"(.+?)\.\.(.+)", values)):
        if not takes_ranges:
            raise UsageError(f"--try {text}", "values", "a range", "List values, or search with --search optuna")
        low, high = (_parse_value(text, option, end) for end in found.groups())
        if not low < high or (name in LOG_SCALED and low <= 0):
            least = " above 0" if name in LOG_SCALED else ""
            raise UsageError(f"--try {text}", f"LOW..HIGH with LOW{least} below HIGH", values, "Correct the range")
        return Axis(name, (low, high), is_range=True)
    parsed = [_parse_value(text, option, value.strip()) for value in values.split(",")]
    if len(set(parsed)) < len(parsed):
        raise UsageError(f"--try {text}", "each value once", values, "Remove the repetition")
    return Axis(name, tuple(parsed))


def _parse_value(text: str, option: OptionSpec, value: str) -> Any:
    """Parse one value, within the limits of the option."""
    try:
        if value:
            return convert_value(option, option.kind(value) if option.kind in (int, float) else value)
    except (ValueError, UsageError):
        pass
    raise UsageError(f"--try {text}", describe_kind(option), repr(value), "Correct the value")


def _count_numbers(value: float) -> int:
    """Count the numbers of so many significant digits up to a value, from an arbitrary one on."""
    decade = math.floor(math.log10(value))
    unit = float(10.0 ** (decade - SIGNIFICANT_DIGITS + 1))
    return 9 * int(10 ** (SIGNIFICANT_DIGITS - 1)) * decade + math.floor(value / unit)
