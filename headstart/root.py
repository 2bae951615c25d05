"""The command `headstart` without a subcommand: help, version, and completion in the shell."""

from __future__ import annotations

import itertools
import os
import platform
import sys
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import typer

from base.command_line import CONTEXT_SETTINGS, build_parser, run_parser
from base.commands import COMMANDS, import_config, import_function
from base.errors import UsageError
from base.help import HelpCommand, HelpGroup
from base.terminal import Console, ConsoleOptions
from base.version import find_version

EXAMPLES = """\
headstart demo
headstart extract --images pictures --store work/store
headstart train --store work/store --run work/run
headstart export --run work/run --out work/model
headstart predict --model work/model a.jpg"""
_COMPLETIONS = ("--install-completion", "--show-completion")
_PACKAGES = ("keras", "tensorflow", "numpy", "h5py")


class _Commands(HelpGroup):
    """All commands. The module of a command is imported when its arguments are completed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: HelpCommand(name=name, help=command.summary) for name, command in COMMANDS.items()}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by topic."""
        width = max(map(len, COMMANDS))
        for topic in dict.fromkeys(command.topic for command in COMMANDS.values()):
            with formatter.section(topic):
                formatter.write_dl(
                    [(f"{name:<{width}}", each.summary) for name, each in COMMANDS.items() if each.topic is topic]
                )

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that the arguments start with, with its options."""
        if args[0] not in COMMANDS:
            return super().resolve_command(ctx, args)
        name, rest = args[0], args[1:]
        if rest and rest[0] in COMMANDS[name].subcommands:
            return f"{name} {rest[0]}", _build(name, rest[0]), rest[1:]
        parser = _build(name)
        if COMMANDS[name].config and COMMANDS[name].subcommands and not rest:
            # The word to complete is an option of the command or a subcommand.
            parser = HelpGroup(name=name, params=parser.params, commands=_list_subcommands(name))
        return name, parser, rest


def _build(name: str, subcommand: str = "") -> Any:
    """Build the parser of a command; that of a group has its subcommands without their options."""
    command, full = COMMANDS[name], f"{name} {subcommand}".strip()
    place = command.subcommands[subcommand] if subcommand else command.config
    if place:
        return build_parser(import_function(full), import_config(place), f"headstart {full}")
    return HelpGroup(name=name, commands=_list_subcommands(name))


def _list_subcommands(name: str) -> dict[str, Any]:
    """Return the subcommands of a command, without their options."""
    return {subcommand: HelpCommand(name=subcommand) for subcommand in COMMANDS[name].subcommands}


def _run(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the versions of Headstart and its packages.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the versions as one JSON object.")] = False,
) -> int:
    """Transfer learning on a laptop: extract InceptionV3 features once, retrain the head in seconds."""
    if context.invoked_subcommand:
        given = context.invoked_subcommand
        raise UsageError("headstart", "a command first", f"an option before {given}", "Give the options after it")
    if not version:
        print(context.get_help())
        return 0
    versions = collect_versions()
    Console(ConsoleOptions(json=json)).show_result(versions)
    if not json:
        print("\n".join(f"{name} {value}" for name, value in versions.items()))
    return 0


def collect_versions() -> Mapping[str, str]:
    """Return the versions of Headstart, Python and the packages that compute and store, without importing them."""
    packages = {package: find_version(package) for package in _PACKAGES}
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return {"headstart": find_version("headstart"), "python": platform.python_version(), **packages, "platform": system}


def run_root(program: str) -> NoReturn:
    """Run `headstart` with options only, or complete a command line, and end the process.

    Args:
        program: name of the program, for the help.
    """
    # Typer finds out the shell that is running, or accepts the name of a shell if this is switched off.
    if any(option in _COMPLETIONS and not name.startswith("-") for option, name in itertools.pairwise(sys.argv)):
        os.environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    settings: dict[str, Any] = {"cls": _Commands, "invoke_without_command": True, "epilog": EXAMPLES}
    settings["context_settings"] = CONTEXT_SETTINGS
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback(**settings)(_run)
    run_parser(typer.main.get_command(app), program)
