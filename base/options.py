"""Declare options, and convert keyword arguments to a frozen dataclass of them, validated before any work starts."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from typer import Option
from typer.models import ArgumentInfo

from base.errors import UsageError
from base.urls import UrlPath, parse_location

Options = TypeVar("Options")
MAX_SHOWN = 100
"""Maximum number of characters of an invalid value in an error message."""


class OptionTopic(StrEnum):
    """Group of options in the help of a command; the groups are shown in the order of their first options."""

    ARGUMENTS = "Arguments"
    PLACES = "Input and output"
    FEATURES = "Backbone and features"
    PICTURES = "Pictures and labels"
    SPEED = "Speed and size"
    HEAD = "Head and training"
    FINE_TUNING = "Fine-tuning"
    VALIDATION = "Validation"
    SEARCH = "Search"
    MODEL = "Exported model"
    MOVED = "Files that have moved"
    PREDICTIONS = "Predictions"
    PAGE = "Page and network"
    OTHER = "Options"
    OUTPUT = "Messages"


# Declarations of options, with their topic in the help.
place_option = partial(Option, rich_help_panel=OptionTopic.PLACES)
feature_option = partial(Option, rich_help_panel=OptionTopic.FEATURES)
picture_option = partial(Option, rich_help_panel=OptionTopic.PICTURES)
speed_option = partial(Option, rich_help_panel=OptionTopic.SPEED)
head_option = partial(Option, rich_help_panel=OptionTopic.HEAD)
tuning_option = partial(Option, rich_help_panel=OptionTopic.FINE_TUNING)
validation_option = partial(Option, rich_help_panel=OptionTopic.VALIDATION)
search_option = partial(Option, rich_help_panel=OptionTopic.SEARCH)
model_option = partial(Option, rich_help_panel=OptionTopic.MODEL)
moved_option = partial(Option, rich_help_panel=OptionTopic.MOVED)
prediction_option = partial(Option, rich_help_panel=OptionTopic.PREDICTIONS)
page_option = partial(Option, rich_help_panel=OptionTopic.PAGE)
output_option = partial(Option, rich_help_panel=OptionTopic.OUTPUT)


class OptionSpec(NamedTuple):
    """Declaration of one option."""

    name: str
    kind: Any
    """`Path`, `UrlPath` (a path or URL), `str`, `int`, `float`, `bool`, a `StrEnum`, or a list of one of them."""
    is_optional: bool
    """Whether None is a valid value."""
    default: Any
    """Default value; `MISSING` for a required option."""
    help: str
    lowest: float | None
    highest: float | None
    metavar: str
    """Placeholder of the value in the help; it contains FILE or DIR if text may be a path."""
    flag: str
    """Option on the command line, such as `--dropout`."""
    is_argument: bool
    """Whether the command line takes it by its position, without the flag."""
    topic: str
    """Heading of its group in the help; empty for the others."""
    parser: Callable[[str], Any] | None
    """Function that converts the text of the command line, if its kind does not."""


def list_options(options: type) -> tuple[OptionSpec, ...]:
    """List the options that a dataclass declares, from the same annotations as the command line."""
    hints = get_type_hints(options, include_extras=True)
    return tuple(_read_option(field.name, hints[field.name], field.default) for field in fields(options))


def _read_option(name: str, hint: Any, default: Any) -> OptionSpec:
    kind, info = (hint.__origin__, hint.__metadata__[0]) if hasattr(hint, "__metadata__") else (hint, None)
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    # The type of a location has two parts; `UrlPath` represents both.
    (kind,) = (UrlPath,) if UrlPath in parts else (part for part in parts if part is not NoneType)
    declared = (getattr(info, attribute, None) for attribute in ("help", "min", "max", "metavar"))
    help_text, lowest, highest, metavar = declared
    # Typer takes the first text of `Option("--try")` for the default.
    texts = (getattr(info, "default", None), *(getattr(info, "param_decls", None) or ()))
    flags = [text for text in texts if isinstance(text, str) and text.startswith("--")]
    return OptionSpec(
        name=name,
        kind=kind,
        is_optional=NoneType in parts,
        default=default,
        help=help_text or "",
        lowest=lowest,
        highest=highest,
        metavar=metavar or "",
        flag=flags[0] if flags else f"--{name.replace('_', '-')}",
        is_argument=isinstance(info, ArgumentInfo),
        topic=getattr(info, "rich_help_panel", None) or "",
        parser=getattr(info, "parser", None),
    )


def make_options(options: type[Options], values: Mapping[str, Any], function: str) -> Options:
    """Create an options dataclass from keyword arguments.

    If a preset is among the arguments, it sets the options that are not.

    Args:
        options: the frozen dataclass.
        values: keyword arguments. A path may be any path-like object; a list may replace comma-separated text.
        function: name of the public function that received them, for messages.

    Raises:
        TypeError: an argument is unknown, or a required one is missing.
        UsageError: a value has the wrong type or is out of range.
    """
    known = {option.name: option for option in list_options(options)}
    for name in values:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")
    missing = [option.name for option in known.values() if option.default is MISSING and option.name not in values]
    if missing:
        raise TypeError(f"{function}() missing required argument {missing[0]!r}")
    return options(**apply_preset(options, {name: convert_value(known[name], value) for name, value in values.items()}))


def apply_preset(options: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given values, and the values that the given preset sets for the other options.

    Args:
        options: dataclass; one with an option `preset` has the options that each preset sets as `PRESETS`.
        given: value of each option that the user gave, even if it is the default.
    """
    preset = _list_preset(options, given.get("preset"))
    return {
        option.name: convert_value(option, preset[option.name])
        for option in list_options(options)
        if option.name in preset
    } | dict(given)


def describe_preset(config: object) -> str:
    """Describe what the preset of a configuration sets, and which options were given instead; empty without one."""
    name = getattr(config, "preset", None)
    preset = _list_preset(type(config), name)
    chosen = {option: getattr(config, option) for option in preset}
    parts = [
        " ".join(f"--{option.replace('_', '-')} {value}" for option, value in values.items())
        for values in (preset, {option: value for option, value in chosen.items() if value != preset[option]})
    ]
    return f"preset {name}: {parts[0]}" + (f"; given instead: {parts[1]}" if parts[1] else "") if preset else ""


def _list_preset(options: type, name: str | None) -> Mapping[str, Any]:
    return {} if name is None else getattr(options, "PRESETS", {}).get(name, {})


def convert_value(option: OptionSpec, value: Any) -> Any:
    """Convert a value to the type of an option.

    Raises:
        UsageError: the value has the wrong type or is out of range.
    """
    if value is None and option.is_optional:
        return None
    if get_origin(option.kind) is list:
        (kind,) = get_args(option.kind)
        kind = UrlPath if UrlPath in get_args(kind) else kind
        values = [value] if isinstance(value, str | os.PathLike | UrlPath) else value
        if not isinstance(values, Iterable) or isinstance(values, bytes | Mapping) or hasattr(values, "dtype"):
            raise _build_error(option, value)
        return [convert_value(option._replace(kind=kind), each) for each in values]
    is_path = isinstance(value, str | os.PathLike)
    if option.kind is bool and isinstance(value, bool):
        return value
    if option.kind is Path and is_path and os.fspath(value):
        return Path(value)
    if option.kind is UrlPath and ((is_path and os.fspath(value)) or isinstance(value, UrlPath)):
        return parse_location(value)
    if option.kind is str and is_path:
        return os.fspath(value)
    if option.kind is str and isinstance(value, list | tuple):
        return ",".join(map(str, value))
    # str: numbers are also accepted where all values are digits, such as sample_bits=12.
    if issubclass(option.kind, StrEnum) and str(value) in list(option.kind):
        return option.kind(str(value))
    number_type = {int: Integral, float: Real}.get(option.kind)
    if number_type and isinstance(value, number_type) and not isinstance(value, bool):
        number = option.kind(value)
        lowest = -math.inf if option.lowest is None else option.lowest
        highest = math.inf if option.highest is None else option.highest
        if math.isfinite(number) and lowest <= number <= highest:
            return number
    raise _build_error(option, value)


def _build_error(option: OptionSpec, value: object) -> UsageError:
    has_default = option.kind is not bool and option.default not in (MISSING, None, "")
    default = f"; the default is {option.default}" if has_default else ""
    shown = repr(value)
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}…"
    return UsageError(option.name, describe_kind(option), shown, f"Give a valid value{default}")


def describe_kind(option: OptionSpec) -> str:
    """Describe the valid values of an option, such as `a number from 0 to 0.99`."""
    if isinstance(option.kind, type) and issubclass(option.kind, StrEnum):
        return " or ".join(map(repr, map(str, option.kind)))
    names = {
        Path: "a path",
        UrlPath: "a path or URL",
        str: "text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
    }
    text = names.get(option.kind, "one value or a list")
    if option.lowest is not None and option.highest is not None:
        text += f" from {option.lowest} to {option.highest}"
    elif option.lowest is not None:
        text += f" of at least {option.lowest}"
    return text + (" or None" if option.is_optional else "")
