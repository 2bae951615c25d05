"""What is tried: options of training, each with its values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.models import OptionInfo

from base.errors import UsageError
from features.cuts import list_cuts
from train_head.config import NOTHING, TrainConfig
from train_head.sweep.config import SweepConfig

DEFAULT_AXES: dict[str, tuple[Any, ...]] = {
    "units": (256, 1024),
    "dropout": (0.2, 0.5),
    "learning_rate": (3e-5, 1e-4, 3e-4),
}
"""What is tried where nothing is named; an option that was set, be it to its default, stays as it is."""
LOG_SCALED = {"learning_rate", "l2", "units", "batch_size", "rank"}
"""Options whose proportions count: a range of these is searched by its logarithm."""
SIGNIFICANT_DIGITS = 3
"""Of a number from a range: more would only make long names."""
_NUMBERS_PER_DECADE: int = 9 * 10 ** (SIGNIFICANT_DIGITS - 1)
_NOT_TRIED = {"weights", "run", "repeats", "folds", "validation_split", "no_report", "tensorboard", "overwrite"}
_NOT_TRIED |= {"images"}
"""Options that say where, or how a head is measured: heads that were measured differently do not compare."""
_RANGE = re.compile(r"(.+?)\.\.(.+)")


@dataclass(frozen=True)
class Axis:
    """An option and what is tried of it."""

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


@dataclass(frozen=True)
class _Tried:
    """What the command line knows of an option."""

    kind: type
    low: float | None
    high: float | None


def parse_axes(tries: Sequence[str], *, takes_ranges: bool) -> list[Axis]:
    """Reads what `--try` was given.

    Args:
        tries: each `NAME=VALUE,VALUE` or `NAME=LOW..HIGH`.
        takes_ranges: whether the search can.

    Raises:
        UsageError: no such option, a value that it does not take, a value or an option twice.
    """
    axes: dict[str, Axis] = {}
    for text in tries:
        axis = _parse_axis(text, takes_ranges)
        if axis.name in axes:
            raise UsageError(
                f"--try {text}", "each option once", f"{_dash(axis.name)} again", "Put its values together"
            )
        axes[axis.name] = axis
    return list(axes.values())


def complete_axes(axes: Sequence[Axis], config: SweepConfig) -> list[Axis]:
    """Adds what is tried though it was not named: all cuts where none was; else the defaults, where nothing was.

    Args:
        axes: what was named.
        config: the options that every head has.
    """
    named = {axis.name: axis for axis in axes}
    stores = named["store"].values if "store" in named else (config.store,)
    cuts = [tuple(list_cuts(store)) for store in stores]
    added = []
    if (
        "cut" not in named
        and not config.cut
        and not _is_tuned(config, named)
        and len(cuts[0]) > 1
        and len(set(cuts)) == 1
    ):
        added.append(Axis("cut", cuts[0]))
    if not axes:
        added += [Axis(name, values) for name, values in DEFAULT_AXES.items() if getattr(config, name) is None]
    return [*added, *axes]


def _is_tuned(config: SweepConfig, named: Mapping[str, Axis]) -> bool:
    """Says whether heads begin with the cut that the first layer to be trained again asks for."""
    return "unfreeze_from" in named or config.unfreeze_from != NOTHING


def _parse_axis(text: str, takes_ranges: bool) -> Axis:
    given, equals, values = text.partition("=")
    name, known = given.strip().replace("-", "_"), _list_options()
    if name not in known or not equals:
        possible = ", ".join(sorted(map(_dash, known)))
        raise UsageError(f"--try {text}", f"NAME=VALUE,VALUE with one of {possible}", given, "Name one of these")
    option = known[name]
    found = _RANGE.fullmatch(values) if option.kind in (int, float) else None
    if found:
        if not takes_ranges:
            raise UsageError(f"--try {text}", "values", "a range", "List values, or search with --search optuna")
        low, high = (_parse_value(text, option, end) for end in found.groups())
        if not low < high or (name in LOG_SCALED and low <= 0):
            least = " above 0" if name in LOG_SCALED else ""
            raise UsageError(f"--try {text}", f"LOW..HIGH with LOW{least} below HIGH", values, "Mend the range")
        return Axis(name, (low, high), is_range=True)
    parsed = [_parse_value(text, option, value.strip()) for value in values.split(",")]
    if len(set(parsed)) < len(parsed):
        raise UsageError(f"--try {text}", "each value once", values, "Remove the repetition")
    return Axis(name, tuple(parsed))


def _parse_value(text: str, option: _Tried, value: str) -> Any:
    """Reads one value; the bounds are those of the option itself."""
    low, high = option.low, option.high
    bounds = ([f"at least {low:g}"] if low is not None else []) + ([f"at most {high:g}"] if high else [])
    expected = {int: "whole numbers", float: "numbers"}.get(option.kind, "values")
    if issubclass(option.kind, StrEnum):
        expected = f"some of {', '.join(option.kind)}"
    try:
        parsed = option.kind(value)
        within = isinstance(parsed, str | Path) or (
            math.isfinite(parsed)
            and not (low is not None and parsed < low)
            and not (high is not None and parsed > high)
        )
    except ValueError:
        within = False
    if not within or not value:
        raise UsageError(f"--try {text}", " and ".join([expected, *bounds]), repr(value), "Mend the value")
    return parsed


@cache
def _list_options() -> dict[str, _Tried]:
    """Lists what can be tried, with the type and the bounds that the option of training has."""
    hints = get_type_hints(TrainConfig, include_extras=True)
    options = {}
    for field in fields(TrainConfig):
        if field.name in _NOT_TRIED:
            continue
        annotated, *extras = get_args(hints[field.name])
        kind = next(kind for kind in get_args(annotated) or [annotated] if kind is not type(None))
        info = next(extra for extra in extras if isinstance(extra, OptionInfo))
        options[field.name] = _Tried(kind, info.min, info.max)
    return options


def _count_numbers(value: float) -> int:
    """Count the numbers of so many significant digits up to a value, from an arbitrary one on."""
    decade = math.floor(math.log10(value))
    unit: float = 10.0 ** (decade - SIGNIFICANT_DIGITS + 1)
    return _NUMBERS_PER_DECADE * decade + math.floor(value / unit)


def _dash(name: str) -> str:
    return name.replace("_", "-")
