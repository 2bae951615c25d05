"""Build a command line from a frozen dataclass, so that each option is declared once."""

from __future__ import annotations

import errno
import inspect
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import typer

from base import process, signals, streams
from base.errors import HeadstartError, UsageError, convert_os_error
from base.options import apply_preset, describe_preset
from base.terminal import Console, ConsoleOptions
from base.urls import UrlPath, parse_location

Config = TypeVar("Config")
CommandFunction = Callable[[Config, Console], Mapping[str, Any]]

_ClickException: Any = typer.BadParameter.__mro__[2]
"""Base class of errors in the arguments; the module that defines it differs between versions of typer."""
_INTERRUPTED = "interrupted. Finished work is kept; run the same command again to continue."
_INTERRUPTED_STATUS = 130
_BROKEN_PIPE_STATUS = 141
"""128 plus the number of SIGPIPE, as for other programs in a pipe."""


class CommandFailed(Exception):
    """Failure of a command that has a result: the result is printed, and the exit status is 1."""

    def __init__(self, result: Mapping[str, Any], message: str = "") -> None:
        """Create the error.

        Args:
            result: JSON object for `--json`.
            message: error message for stderr; by default none is printed.
        """
        super().__init__(message)
        self.result = result


def run_commands(commands: Mapping[str, tuple[CommandFunction[Any], type]], name: str) -> None:
    """Run one of several subcommands from `sys.argv`, and end the process with its exit status.

    Args:
        commands: function and configuration of each subcommand, as in `run_app`.
        name: name of the program, for the help.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True)
    for command, (function, config_type) in commands.items():
        app.command(command)(_build_callback(function, config_type))
    _start(app, name)


def run_app(function: CommandFunction[Config], config_type: type[Config], name: str, epilog: str = "") -> None:
    """Run a command from `sys.argv`, and end the process with its exit status.

    Args:
        function: the work of the command; receives the options and a console, returns the JSON object for `--json`.
            The first paragraph of its docstring is the help text.
        config_type: frozen dataclass; each field is an option, annotated with `typer.Option`.
        name: name of the program, for the help.
        epilog: last paragraph of the help.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(epilog=epilog)(_build_callback(function, config_type))
    _start(app, name)


def _start(app: typer.Typer, name: str) -> NoReturn:
    """Run the command in `sys.argv`, and end the process with its exit status."""
    process.prepare()
    streams.protect_streams()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    status = _run(app, name)
    signals.exit_on_signals()
    if error := streams.find_output_error():
        is_broken_pipe = error.errno == errno.EPIPE
        if not is_broken_pipe:
            advice = "Free some space or redirect the output"
            Console().error(str(HeadstartError("standard output", "a writable stream", str(error.strerror), advice)))
        status = status or (_BROKEN_PIPE_STATUS if is_broken_pipe else 1)
    process.exit_process(status)


def _run(app: typer.Typer, name: str) -> int:
    """Run the command and return its exit status, which is 2 for errors in the arguments."""
    try:
        return int(app(prog_name=name, standalone_mode=False) or 0)
    except _ClickException as error:
        error.show()
        if "--json" in sys.argv[1:]:
            Console(ConsoleOptions(json=True)).show_result({"error": error.format_message()})
        return int(error.exit_code)
    except KeyboardInterrupt:
        return signals.get_exit_status() or _INTERRUPTED_STATUS


def _build_callback(function: CommandFunction[Config], config_type: type[Config]) -> Callable[..., int]:
    def callback(context: typer.Context, **values: Any) -> int:
        console = Console(_build_config(ConsoleOptions, values, context))
        config = _build_config(config_type, values, context)
        if preset := describe_preset(config):
            console.info(preset)
        outcome = _call(function, config, console)
        if outcome.message:
            console.error(outcome.message)
        console.show_result(outcome.result)
        return outcome.status

    callback.__doc__ = inspect.cleandoc(function.__doc__ or "").split("\n\n")[0]
    _declare_options(callback, config_type, ConsoleOptions)
    return callback


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
        parsed.append(_build_config(config_type, values, context))

    _declare_options(callback, config_type)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(add_help_option=False)(callback)
    try:
        app(list(arguments), prog_name=name, standalone_mode=False)
    except _ClickException as error:
        got = error.format_message().rstrip(".")
        raise UsageError(name, "valid options", got, f"`{name} --help` lists them") from error
    return parsed[0]


def _declare_options(callback: Callable[..., Any], *option_types: type) -> None:
    """Give a callback the options of dataclasses as its parameters, after the context."""
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [parameter for options in option_types for parameter in _list_parameters(options)]
    callback.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    hints = {name: hint for options in option_types for name, hint in _get_hints(options).items()}
    replaced = {name: _replace_location(hint) for name, hint in hints.items()}
    callback.__annotations__ = replaced | {"context": typer.Context}


@dataclass(frozen=True)
class _Outcome:
    """Outcome of a command: JSON object, exit status and error message."""

    result: Mapping[str, Any]
    status: int = 0
    message: str = ""


def _call(function: CommandFunction[Config], config: Config, console: Console) -> _Outcome:
    """Call the function of a command, and convert its errors to an outcome."""
    try:
        signals.interrupt_on_signals()
        _check_paths(type(config))
        outcome = _Outcome(function(config, console))
        signals.exit_on_signals()
    except BaseException as error:
        signals.exit_on_signals()
        # Libraries convert an interrupt to another exception while they are imported.
        if isinstance(error, KeyboardInterrupt) or (signals.get_exit_status() and not isinstance(error, CommandFailed)):
            outcome = _Outcome({"error": "interrupted"}, _INTERRUPTED_STATUS, _INTERRUPTED)
        else:
            outcome = _convert_error(error, config, console)
    return replace(outcome, status=signals.get_exit_status() or outcome.status)


def _build_failure(error: HeadstartError) -> _Outcome:
    """Return the outcome of an error: its message, and its class and fields for `--json`."""
    values = {name: str(getattr(error, name)) for name in ("where", "expected", "got", "advice")}
    return _Outcome({"error": str(error), "type": type(error).__name__} | values, error.exit_status, str(error))


def _convert_error(error: BaseException, config: object, console: Console) -> _Outcome:
    match error:
        case CommandFailed():
            return _Outcome(error.result, 1, str(error))
        case HeadstartError():
            return _build_failure(error)
        case OSError():
            return _build_failure(convert_os_error(error, _join_output_paths(config)))
        case MemoryError():
            return _build_failure(
                HeadstartError("memory", "enough for this command", str(error) or "too little", "Close other programs")
            )
        case Exception():
            if console.options.verbose:
                traceback.print_exception(error)
            found = f"{type(error).__name__}: {error}"
            return _build_failure(
                HeadstartError("headstart", "no internal error", found, "Run again with -v and report the traceback")
            )
    raise error


def _join_output_paths(config: object) -> str:
    """Return the output paths of a command, to locate an error that has no file name."""
    names = [str(getattr(config, name)) for name in ("store", "run", "out") if getattr(config, name, None)]
    return " or ".join(names) or "file"


def _list_parameters(options: type) -> list[inspect.Parameter]:
    hints = {name: _replace_location(hint) for name, hint in _get_hints(options).items()}
    return [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[option.name],
            default=inspect.Parameter.empty if option.default is MISSING else option.default,
        )
        for option in fields(options)
    ]


def _get_hints(options: type) -> dict[str, Any]:
    return get_type_hints(options, include_extras=True)


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


def _build_config(options: type[Config], values: dict[str, Any], context: typer.Context) -> Config:
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


def _check_paths(options: type) -> None:
    """Raise UsageError for an empty path such as `--run ""`, which `Path` converts to the current folder."""
    for name, kind in get_type_hints(options).items():
        option = f"--{name.replace('_', '-')}"
        is_empty = f"{option}=" in sys.argv or (option, "") in itertools.pairwise(sys.argv)
        if is_empty and Path in (kind, *get_args(kind)):
            raise UsageError(option, "a path", "an empty value", "Give a path or omit the option")


def _normalize_path(path: Path) -> Path:
    """Resolve `..` in the path of a new file; the system rejects `..` after a folder that does not exist yet."""
    return Path(os.path.realpath(path)) if ".." in path.parts and not path.exists() else path
