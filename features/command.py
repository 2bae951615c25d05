"""Makes a command line from a frozen dataclass, so that an option is declared once."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

import typer

from features.console import Console, ConsoleOptions
from features.errors import HeadstartError

Config = TypeVar("Config")
Act = Callable[[Config, Console], Mapping[str, Any]]


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


def _start(app: typer.Typer, name: str) -> None:
    # SIGTERM ends a run as Ctrl-C does: what is computed is committed first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    app(prog_name=name)


def _build_callback(act: Act[Config], config_type: type[Config]) -> Callable[..., None]:
    def callback(**values: Any) -> None:
        console = Console(_take(ConsoleOptions, values))
        try:
            console.show_result(act(_take(config_type, values), console))
        except CommandFailed as failure:
            if str(failure):
                console.fail(str(failure))
            console.show_result(failure.result)
            sys.exit(1)
        except HeadstartError as error:
            console.fail(str(error))
            console.show_result({"error": str(error)})
            sys.exit(error.exit_status)
        except OSError as error:
            where = error.filename or "a file"
            got = error.strerror or str(error)
            message = f"{where}: expected a file that can be used, got {got}. See what stands there and who may use it."
            console.fail(message)
            console.show_result({"error": message})
            sys.exit(1)
        except KeyboardInterrupt:
            console.fail("interrupted. What was finished is kept; run the same command again.")
            console.show_result({"error": "interrupted"})
            sys.exit(1)

    callback.__doc__ = inspect.cleandoc(act.__doc__ or "").split("\n\n")[0]
    callback.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*_list_parameters(config_type), *_list_parameters(ConsoleOptions)]
    )
    callback.__annotations__ = _hints(config_type) | _hints(ConsoleOptions)
    return callback


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
    return options(**{option.name: values[option.name] for option in fields(options)})  # type: ignore[arg-type]
