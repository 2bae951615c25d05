"""Arguments of a command: options declared by a frozen dataclass, and errors in what was given."""

from __future__ import annotations

import difflib
import inspect
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from base.errors import UsageError
from base.options import apply_preset, describe_kind, list_options
from base.urls import UrlPath, parse_location

Config = TypeVar("Config")

ClickException: Any = typer.BadParameter.__mro__[2]
"""Base class of errors in the arguments; the module that defines it differs between versions of typer."""


def parse_arguments(config_type: type[Config], arguments: Sequence[str], name: str) -> Config:
    """Parse the arguments of a command without running it.

    Args:
        config_type: frozen dataclass of the command's options, as in `run_app`.
        arguments: arguments of the command line, without the name of the command.
        name: name of the command, for errors.

    Raises:
        UsageError: an option is unknown, missing or invalid.
    """
    parsed: list[Config] = []

    def callback(context: typer.Context, **values: Any) -> None:
        parsed.append(build_config(config_type, values, context))

    declare_options(callback, config_type)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(add_help_option=False)(callback)
    try:
        app(list(arguments), prog_name=name, standalone_mode=False)
    except ClickException as error:
        raise explain_error(error, name, arguments, config_type) from error
    return parsed[0]


def explain_error(error: Any, name: str, arguments: Sequence[str], options: type | None) -> UsageError:
    """Convert an error of the parser to an error with its fields.

    Args:
        error: as typer raises it.
        name: name of the command.
        arguments: arguments of the command line.
        options: dataclass of its options; None for a group of commands.
    """
    advice = f"See `{name} --help`"
    parameter: Any = getattr(error, "param", None)
    flag = getattr(error, "option_name", "")
    where = (parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar) if parameter else flag
    match type(error).__name__:
        case "NoSuchOption":
            nearest = difflib.get_close_matches(flag, error.possibilities or (), 1)
            advice = f"Did you mean {nearest[0]}?" if nearest else advice
            return UsageError(flag, f"an option of `{name}`", "an unknown one", advice)
        case "BadOptionUsage" if any(word.startswith(f"{flag}=") for word in arguments):
            return UsageError(flag, "no value", "a value", f"Give {flag} alone")
        case "MissingParameter" | "BadOptionUsage" | "BadArgumentUsage":
            return UsageError(where, "a value", "none", advice)
        case "BadParameter":
            kinds = list_options(options) if options else ()
            expected = next((describe_kind(kind) for kind in kinds if kind.name == parameter.name), "a valid value")
            given = [value for option, value in itertools.pairwise(arguments) if option == where]
            given += [word.removeprefix(f"{where}=") for word in arguments if word.startswith(f"{where}=")]
            return UsageError(where, expected, repr(given[-1]) if given else error.message.rstrip("."), advice)
    got, _, hint = error.format_message().rstrip(".").removeprefix("Got ").partition(". ")
    return UsageError(name, "valid arguments", got[:1].lower() + got[1:], hint or advice)


def declare_options(callback: Callable[..., Any], *option_types: type) -> None:
    """Give a callback the options of dataclasses as its parameters, after the context."""
    parameters = [inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    parameters += [parameter for options in option_types for parameter in _list_parameters(options)]
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    callback.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def _list_parameters(options: type) -> list[inspect.Parameter]:
    hints = get_type_hints(options, include_extras=True)
    return [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=_replace_location(hints[option.name]),
            default=inspect.Parameter.empty if option.default is MISSING else option.default,
        )
        for option in fields(options)
    ]


def _replace_location(hint: Any) -> Any:
    """Return the hint of an option without the union of a location, which typer does not accept."""
    if not hasattr(hint, "__metadata__"):
        return hint
    kind, (info, *_) = hint.__origin__, hint.__metadata__
    is_list = get_origin(kind) is list
    parts = get_args(get_args(kind)[0] if is_list else kind)
    if UrlPath not in parts:
        return hint
    parsed = copy(info)
    parsed.parser = parse_location
    one = UrlPath | None if NoneType in parts else UrlPath
    return Annotated[list[UrlPath] if is_list else one, parsed]


def build_config(options: type[Config], values: dict[str, Any], context: typer.Context) -> Config:
    """Create the options of a command from the values of its command line, its configuration file and its preset."""
    names = [option.name for option in fields(options)]  # type: ignore[arg-type]
    # An option given with its default value also wins over a preset.
    given = {name: values[name] for name in names if _is_given(context, name)}
    chosen = {name: values[name] for name in names} | apply_preset(options, given)
    return options(
        **{name: _normalize_path(value) if isinstance(value, Path) else value for name, value in chosen.items()}
    )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def check_paths(options: type) -> None:
    """Raise UsageError for an empty path such as `--run ""`, which `Path` converts to the current folder."""
    declared, pairs = list_options(options), [*itertools.pairwise(sys.argv)]
    for option in declared:
        is_empty = f"{option.flag}=" in sys.argv or (option.flag, "") in pairs
        if is_empty and option.kind in (Path, UrlPath) and not option.is_argument:
            raise UsageError(option.flag, "a path", "an empty value", "Give a path or omit the option")
    with_value = {option.flag for option in declared if option.kind is not bool and not option.is_argument}
    arguments = [option.metavar for option in declared if option.is_argument]
    if arguments and any(word == "" and before not in with_value for before, word in pairs):
        raise UsageError(" or ".join(arguments), "a path", "an empty value", "Give a path")


def _normalize_path(path: Path) -> Path:
    """Resolve `..` in the path of a new file; the system rejects `..` after a folder that does not exist yet."""
    return Path(os.path.realpath(path)) if ".." in path.parts and not path.exists() else path
