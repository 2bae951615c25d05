"""Build a command line from a frozen dataclass, so that each option is declared once."""

from __future__ import annotations

import errno
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer

from base import process, signals, streams
from base.arguments import ClickException, build_config, check_paths, declare_options, explain_error
from base.commands import find_command
from base.errors import HeadstartError, convert_os_error
from base.help import MAX_WIDTH, HelpCommand, HelpGroup, read_docstring
from base.invocation import format_command, set_program
from base.options import describe_preset
from base.terminal import Console, ConsoleOptions, has_color

Config = TypeVar("Config")
CommandFunction = Callable[[Config, Console], Mapping[str, Any]]

CONTEXT_SETTINGS = {"max_content_width": MAX_WIDTH, "help_option_names": ["--help", "-h"]}
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


def run_commands(commands: Mapping[str, tuple[CommandFunction[Any], type]], name: str) -> NoReturn:
    """Run one of several subcommands from `sys.argv`, and end the process with its exit status.

    Args:
        commands: function and configuration of each subcommand, as in `run_app`.
        name: name of the program, for the help.
    """
    if sys.argv[1:2] and sys.argv[1] in commands:
        subcommand = sys.argv.pop(1)
        run_app(*commands[subcommand], f"{name} {subcommand}")
    parsers: dict[str, Any] = {
        command: HelpCommand(name=command, help=read_docstring(function)[0])
        for command, (function, _) in commands.items()
    }
    settings: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None, "context_settings": CONTEXT_SETTINGS}
    run_parser(HelpGroup(name=name, commands=parsers, **settings), name)


def run_app(function: CommandFunction[Config], config_type: type[Config], name: str) -> NoReturn:
    """Run a command from `sys.argv`, and end the process with its exit status.

    Args:
        function: the work of the command; receives the options and a console, returns the JSON object for `--json`.
            The first paragraph of its docstring is the help text, and its section `Examples:` has command lines.
        config_type: frozen dataclass; each field is an option, annotated with `typer.Option`.
        name: name of the program, for the help.
    """
    run_parser(build_parser(function, config_type, name), name, config_type)


def build_parser(function: CommandFunction[Config], config_type: type[Config], name: str) -> Any:
    """Build the parser of a command, as typer and click define it; the arguments are those of `run_app`."""
    text, examples = read_docstring(function)
    epilog = "\n".join(line.replace(f"headstart {find_command(name)}", name, 1) for line in examples)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(name.split()[-1], cls=HelpCommand, help=text, epilog=epilog, context_settings=CONTEXT_SETTINGS)(
        _build_callback(function, config_type)
    )
    return typer.main.get_command(app)


def run_parser(parser: Any, name: str, config_type: type | None = None) -> NoReturn:
    """Run the command in `sys.argv`, and end the process with its exit status.

    Args:
        parser: command or group of typer.
        name: name of the program, for the help.
        config_type: dataclass of the command's options; None for a group.
    """
    process.prepare()
    streams.protect_streams()
    set_program(name)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    status = _run(parser, name, config_type)
    signals.exit_on_signals()
    if error := streams.find_output_error():
        is_broken_pipe = error.errno == errno.EPIPE
        if not is_broken_pipe:
            advice = "Free some space or redirect the output"
            Console().error(str(HeadstartError("standard output", "a writable stream", str(error.strerror), advice)))
        status = status or (_BROKEN_PIPE_STATUS if is_broken_pipe else 1)
    process.exit_process(status)


def _run(parser: Any, name: str, config_type: type | None) -> int:
    """Run the command and return its exit status, which is 2 for errors in the arguments."""
    try:
        path, defaults = _read_configuration(name, config_type)
        settings = {"default_map": defaults, "obj": path, "color": has_color(sys.stdout)}
        return int(parser.main(prog_name=name, standalone_mode=False, **settings) or 0)
    except ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return int(error.exit_code)
        return _print_failure(explain_error(error, name, sys.argv[1:], config_type))
    except OSError as error:
        return _print_failure(convert_os_error(error, "configuration file"))
    except HeadstartError as error:
        return _print_failure(error)
    except KeyboardInterrupt:
        return signals.get_exit_status() or _INTERRUPTED_STATUS


def _read_configuration(name: str, config_type: type | None) -> tuple[Path | None, dict[str, Any]]:
    """Return the path of the configuration file, and the default of each option that it sets; for help, nothing."""
    given, command = list(itertools.takewhile(lambda word: word != "--", sys.argv[1:])), find_command(name)
    # Doctor reports a mistake in the file with its other findings.
    if config_type is None or {"--help", "-h"} & {*given} or command in ("", "doctor"):
        return None, {}
    from base.configuration import find_configuration, read_defaults

    try:
        configuration = find_configuration(Path.cwd())
    except FileNotFoundError:
        # The current folder was removed.
        return None, {}
    if configuration is None:
        return None, {}
    return configuration.path, read_defaults(configuration, command, config_type)


def _print_failure(error: HeadstartError) -> int:
    """Print an error that was found before the work of a command, and return the exit status."""
    outcome, console = _build_failure(error), Console(ConsoleOptions(json="--json" in sys.argv[1:]))
    console.error(outcome.message)
    console.show_result(outcome.result)
    return outcome.status


def _build_callback(function: CommandFunction[Config], config_type: type[Config]) -> Callable[..., int]:
    def callback(context: typer.Context, **values: Any) -> int:
        console = Console(build_config(ConsoleOptions, values, context))
        config = build_config(config_type, values, context)
        if path := context.obj:
            console.debug(f"options from {path}")
        if preset := describe_preset(config):
            console.info(preset)
        outcome = _call(function, config, console)
        if outcome.message:
            console.error(outcome.message)
        console.show_result(outcome.result)
        return outcome.status

    declare_options(callback, config_type, ConsoleOptions)
    return callback


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
        check_paths(type(config))
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
            command = format_command("doctor")
            advice = f"Run again with -v, and report the traceback with the output of `{command}`"
            return _build_failure(HeadstartError("headstart", "no internal error", found, advice))
    raise error


def _join_output_paths(config: object) -> str:
    """Return the output paths of a command, to locate an error that has no file name."""
    names = [str(getattr(config, name)) for name in ("store", "run", "out") if getattr(config, name, None)]
    return " or ".join(names) or "file"
