"""Makes a command line from a frozen dataclass, so that an option is declared once."""

from __future__ import annotations

import errno
import inspect
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import typer

from base import process, signals, streams
from base.errors import HeadstartError, UsageError, convert_os_error
from base.terminal import Console, ConsoleOptions

Config = TypeVar("Config")
Act = Callable[[Config, Console], Mapping[str, Any]]

_ClickException: Any = typer.BadParameter.__mro__[2]
"""Base of every error in the arguments; where it is imported from differs between versions of typer."""
_INTERRUPTED = "interrupted. What was finished is kept; run the same command again."
_INTERRUPTED_STATUS = 130
_READER_GONE_STATUS = 141
"""128 plus the number of SIGPIPE, as of any program in a pipe."""


class CommandFailed(Exception):
    """A command that found a problem: it has a result to print, and its exit status is 1."""

    def __init__(self, result: Mapping[str, Any], message: str = "") -> None:
        """Carries the result, and what is said of it where the result does not speak for itself."""
        super().__init__(message)
        self.result = result


def run_commands(commands: Mapping[str, tuple[Act[Any], type]], name: str) -> None:
    """Runs one of several commands, each as `run_app` would, under one name."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True)
    for command, (act, config_type) in commands.items():
        app.command(command)(_build_callback(act, config_type))
    _start(app, name)


def run_app(act: Act[Config], config_type: type[Config], name: str, epilog: str = "") -> None:
    """Runs a command from `sys.argv` and ends the process with its exit status.

    Args:
        act: does the work; gets the options and a console, returns what `--json` prints.
        config_type: a frozen dataclass; each field is an option, annotated with `typer.Option`.
        name: how the command is called, for its help.
        epilog: what the help ends with.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(epilog=epilog)(_build_callback(act, config_type))
    _start(app, name)


def _start(app: typer.Typer, name: str) -> NoReturn:
    """Run the command that `sys.argv` asks for, and end the process with its exit status."""
    process.start()
    streams.protect_streams()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    status = _run(app, name)
    signals.exit_on_signals()
    if error := streams.find_output_error():
        is_reader_gone = error.errno == errno.EPIPE
        if not is_reader_gone:
            Console().error(f"standard output: expected room for the result, got {error.strerror}. Write it elsewhere.")
        status = status or (_READER_GONE_STATUS if is_reader_gone else 1)
    process.leave(status)


def _run(app: typer.Typer, name: str) -> int:
    """Run the command, and return its exit status; errors in its arguments have the status 2."""
    try:
        return int(app(prog_name=name, standalone_mode=False) or 0)
    except _ClickException as error:
        error.show()
        if "--json" in sys.argv[1:]:
            Console(ConsoleOptions(json=True)).show_result({"error": error.format_message()})
        return int(error.exit_code)
    except KeyboardInterrupt:
        return signals.get_exit_status() or _INTERRUPTED_STATUS


def _build_callback(act: Act[Config], config_type: type[Config]) -> Callable[..., int]:
    def callback(**values: Any) -> int:
        console = Console(_take(ConsoleOptions, values))
        outcome = _perform(act, _take(config_type, values), console)
        if outcome.message:
            console.error(outcome.message)
        console.show_result(outcome.result)
        return outcome.status

    callback.__doc__ = inspect.cleandoc(act.__doc__ or "").split("\n\n")[0]
    callback.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*_list_parameters(config_type), *_list_parameters(ConsoleOptions)]
    )
    callback.__annotations__ = _hints(config_type) | _hints(ConsoleOptions)
    return callback


@dataclass(frozen=True)
class _Outcome:
    """How a command ended: what `--json` prints, the exit status, and the error's message."""

    result: Mapping[str, Any]
    status: int = 0
    message: str = ""


def _perform(act: Act[Config], config: Config, console: Console) -> _Outcome:
    """Do the work, and explain its failure in one line."""
    try:
        signals.interrupt_on_signals()
        _refuse_empty_paths(type(config))
        outcome = _Outcome(act(config, console))
        signals.exit_on_signals()
    except BaseException as error:
        signals.exit_on_signals()
        # An interrupt may arrive as another exception: libraries turn one into theirs while they are imported.
        if isinstance(error, KeyboardInterrupt) or (signals.get_exit_status() and not isinstance(error, CommandFailed)):
            outcome = _Outcome({"error": "interrupted"}, _INTERRUPTED_STATUS, _INTERRUPTED)
        else:
            outcome = _explain(error, config, console)
    return replace(outcome, status=signals.get_exit_status() or outcome.status)


def _fail(error: HeadstartError) -> _Outcome:
    """Return the outcome for an error: its message, and for `--json` its class and fields."""
    values = {name: str(getattr(error, name)) for name in ("where", "expected", "got", "advice")}
    return _Outcome({"error": str(error), "type": type(error).__name__} | values, error.exit_status, str(error))


def _explain(error: BaseException, config: object, console: Console) -> _Outcome:
    match error:
        case CommandFailed():
            return _Outcome(error.result, 1, str(error))
        case HeadstartError():
            return _fail(error)
        case OSError():
            return _fail(convert_os_error(error, _name_outputs(config)))
        case MemoryError():
            return _fail(HeadstartError("memory", "enough for this command", str(error) or "none left", "Free some"))
        case Exception():
            if console.options.verbose:
                traceback.print_exception(error)
            found = f"{type(error).__name__}: {error}"
            return _fail(HeadstartError("headstart", "no internal error", found, "Report it with the output of -v"))
    raise error


def _name_outputs(config: object) -> str:
    """Name the folders and files that a command writes to: one of them, where an error names none."""
    names = [str(getattr(config, name)) for name in ("store", "run", "out") if getattr(config, name, None)]
    return " or ".join(names) or "a file"


def _list_parameters(options: type) -> list[inspect.Parameter]:
    hints = _hints(options)
    return [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[option.name],
            default=inspect.Parameter.empty if option.default is MISSING else option.default,
        )
        for option in fields(options)
    ]


def _hints(options: type) -> dict[str, Any]:
    return get_type_hints(options, include_extras=True)


def _take(options: type[Config], values: dict[str, Any]) -> Config:
    taken = {option.name: values[option.name] for option in fields(options)}  # type: ignore[arg-type]
    return options(**{name: _settle(value) if isinstance(value, Path) else value for name, value in taken.items()})


def _refuse_empty_paths(options: type) -> None:
    """Refuse `--run ""`, which `Path` takes for the current folder."""
    for name, kind in get_type_hints(options).items():
        option = f"--{name.replace('_', '-')}"
        is_empty = f"{option}=" in sys.argv or (option, "") in itertools.pairwise(sys.argv)
        if is_empty and Path in (kind, *get_args(kind)):
            raise UsageError(option, "a path", "an empty one", "Leave the option out, or give its path")


def _settle(path: Path) -> Path:
    """Return the same place without `..`: a folder before it may be one that does not exist yet."""
    return Path(os.path.realpath(path)) if ".." in path.parts and not path.exists() else path
