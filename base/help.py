"""Help pages: options grouped by topic, examples and exit statuses, in colour on a terminal."""

from __future__ import annotations

import inspect
import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

from base.options import OptionTopic

MAX_WIDTH = 120
EXIT_STATUSES = (
    ("0", "done"),
    ("1", "failed, or found a problem"),
    ("2", "wrong usage, found before any work"),
    ("130, 143", "ended by Ctrl-C or a signal; finished work is kept"),
)
_HEADING, _OPTION, _RESET = "\x1b[1m", "\x1b[36m", "\x1b[0m"
_FLAG = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
_HEADING_LINE = re.compile(r"^(Usage:|[A-Z][A-Za-z, ]*:$)", re.MULTILINE)


class HelpCommand(TyperCommand):
    """Command whose help has a section for each topic of its options; each switch also has a negative form."""

    def make_parser(self, ctx: Any) -> Any:
        """Create the parser; `--no-overwrite` switches off what a configuration file switches on."""
        parser = super().make_parser(ctx)
        option: Any
        for option in self.params:
            if getattr(option, "is_flag", False) and not option.is_eager:
                negative = _negate(option.opts[0])
                parser.add_option(option, [negative], option.name, action="store_const", const=False)
        return parser

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options by topic."""
        sections = dict[str, list[tuple[str, str]]]()
        parameter: Any
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record:
                is_argument = parameter.param_type_name == "argument"
                default = OptionTopic.ARGUMENTS if is_argument else OptionTopic.OTHER
                topic = OptionTopic.OUTPUT if parameter.name == "help" else parameter.rich_help_panel or default
                name = parameter.metavar if is_argument else record[0]
                sections.setdefault(topic, []).append((name.replace(" range>", ">"), record[1]))
        for topic, rows in sections.items():
            with formatter.section(topic):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples and the exit statuses."""
        write_epilog(self.epilog or "", formatter)

    def get_help(self, ctx: Any) -> str:
        """Return the help, in colour if the output has colours."""
        return color_help(super().get_help(ctx), is_colored=bool(ctx.color))


class HelpGroup(TyperGroup):
    """Group of commands, with the same help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands with the first paragraphs of their help, which are not shortened."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help or "") for name, command in commands if command])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples and the exit statuses."""
        write_epilog(self.epilog or "", formatter)

    def get_help(self, ctx: Any) -> str:
        """Return the help, in colour if the output has colours."""
        return color_help(super().get_help(ctx), is_colored=bool(ctx.color))


def write_epilog(examples: str, formatter: Any) -> None:
    """Write the examples of a command, one per line, and the exit statuses of all commands."""
    if examples:
        with formatter.section("Examples"):
            # Lines are not wrapped, so that they can be pasted.
            formatter.write("".join(f"  {line}\n" for line in examples.splitlines()))
    with formatter.section("Exit status"):
        formatter.write_dl(EXIT_STATUSES)


def _negate(flag: str) -> str:
    return f"--{flag.removeprefix('--no-')}" if flag.startswith("--no-") else f"--no-{flag.removeprefix('--')}"


def read_docstring(function: Any) -> tuple[str, list[str]]:
    """Return the first paragraph of a docstring, and the lines of its section `Examples:`."""
    text, _, examples = inspect.cleandoc(function.__doc__ or "").partition("\n\nExamples:\n")
    lines = examples.partition("\n\n")[0].splitlines()
    return text.split("\n\n")[0], [line.strip() for line in lines]


def color_help(text: str, *, is_colored: bool) -> str:
    """Colour the headings and the options of a help page."""
    if not is_colored:
        return text
    text = _FLAG.sub(lambda match: f"{_OPTION}{match[0]}{_RESET}", text)
    return _HEADING_LINE.sub(lambda match: f"{_HEADING}{match[0]}{_RESET}", text)
