"""Sphinx extension: pages of the commands, of make and of the API, generated from the declarations that the help uses.

Each directive of `GENERATED` adds its content to a page. Signatures of the API have the types of the stub
`headstart/__init__.pyi`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from base.commands import COMMANDS, import_config, import_function, list_configs
from base.help import EXIT_STATUSES, read_docstring
from base.options import OptionSpec, OptionTopic, list_options
from base.terminal import ConsoleOptions
from base.urls import UrlPath
from headstart.stub import format_parameters

MAKEFILE = Path(__file__).parents[2] / "Makefile"
PAGE_PATH = re.compile(r"\bdocs/([\w/-]+)\.md\b")


def format_commands() -> str:
    """Return the Markdown of all commands by topic: a section for each, with its options by topic."""
    lines, topic = [], None
    for name, place in list_configs():
        found = COMMANDS[name.split()[0]].topic
        lines += [f"## {found}", ""] if found != topic else []
        lines.append(format_command(name, import_config(place)))
        topic = found
    return "\n".join(lines)


def format_command(name: str, config: type) -> str:
    """Return the Markdown of one command, such as `features check`."""
    text, examples = read_docstring(import_function(name))
    first, *subcommand = name.split()
    module = " ".join(["python -m", COMMANDS[first].runnable, *subcommand])
    lines = [f"### headstart {name}", "", f"{link_pages(text)} Module: `{module}`.", ""]
    lines += ["```sh", *examples, "```", ""] if examples else []
    lines += [f":::{{program}} headstart {name}", ":::", ""]
    topics: dict[str, list[str]] = {}
    for option in list_options(config):
        default = OptionTopic.ARGUMENTS if option.is_argument else OptionTopic.OTHER
        topics.setdefault(option.topic or default, []).append(format_option(option, config))
    for topic, options in topics.items():
        lines += [f"**{topic}**", "", *options]
    return "\n".join(lines) + "\n"


def format_common_options() -> str:
    """Return the Markdown of the options that every command has."""
    found = [format_option(option, ConsoleOptions) for option in list_options(ConsoleOptions)]
    return "\n".join([":::{program} headstart", ":::", "", *found])


def format_exit_statuses() -> str:
    """Return the Markdown table of the exit statuses on the help pages."""
    return "\n".join(
        ["| status | meaning |", "|---|---|", *(f"| {status} | {text} |" for status, text in EXIT_STATUSES)]
    )


def format_option(option: OptionSpec, config: type) -> str:
    """Return the Markdown of one option: its names, its placeholder, its help, and its valid and default values."""
    info = read_declaration(config, option.name)
    flags = [option.flag, *(flag for flag in getattr(info, "param_decls", None) or () if flag != option.flag)]
    value = describe_value(option)
    signature = value if option.is_argument else ", ".join(f"{flag} {value}".strip() for flag in flags)
    facts = describe_facts(option, getattr(info, "show_default", True))
    return "\n".join([f":::{{option}} {signature}", " ".join([link_pages(option.help), *facts]), ":::", ""])


def read_declaration(config: type, name: str) -> Any:
    """Return the `typer.Option` or `typer.Argument` of an option; None without one."""
    hint = get_type_hints(config, include_extras=True)[name]
    return hint.__metadata__[0] if hasattr(hint, "__metadata__") else None


def describe_value(option: OptionSpec) -> str:
    """Return the placeholder of an option's value; empty for a switch."""
    if option.kind is bool:
        return ""
    kind = get_args(option.kind)[0] if get_origin(option.kind) is list else option.kind
    if inspect.isclass(kind) and issubclass(kind, StrEnum):
        return "|".join(kind)
    names = {int: "INTEGER", float: "NUMBER", Path: "PATH", UrlPath: "PATH|URL"}
    return option.metavar or names.get(kind, "TEXT")


def describe_facts(option: OptionSpec, shown: bool | str) -> list[str]:
    """Describe whether an option is required, its valid values, and its default.

    Args:
        option: the option.
        shown: text for the default in the help; True for the default itself, False for none.
    """
    facts = ["Required."] if option.default is MISSING else []
    if option.lowest is not None and option.highest is not None:
        facts.append(f"From {option.lowest:,} to {option.highest:,}.")
    elif option.lowest is not None:
        facts.append(f"At least {option.lowest:,}.")
    if isinstance(shown, str):
        facts.append(f"Default: {shown}.")
    elif shown and option.default not in (MISSING, None, "", False) and option.kind is not bool:
        facts.append(f"Default: `{option.default}`.")
    return facts


def link_pages(text: str) -> str:
    """Replace the paths of pages, such as docs/how-to/scale.md, by links with the titles of the pages."""
    return PAGE_PATH.sub(r"[](/\1.md)", text)


def format_targets(makefile: str) -> str:
    """Return the Markdown table of the targets that `make help` lists."""
    targets = re.findall(r"^([a-z-]+):.*## (.*)$", makefile, re.MULTILINE)
    rows = [f"| `make {name}` | {link_pages(text)} |" for name, text in targets]
    return "\n".join(["| target | purpose |", "|---|---|", *rows])


def format_variables(makefile: str) -> str:
    """Return the variables that `make help` lists, as a block of text."""
    comment = makefile.partition("# Variables")[2].partition("\n\n")[0]
    lines = [line.removeprefix("#").removeprefix("   ") for line in comment.splitlines()[1:]]
    return "\n".join(["```text", *lines, "```"])


class _Generated(SphinxDirective):
    """Directive whose content is the Markdown that a function returns."""

    has_content = False
    generate: Callable[[], str]

    def run(self) -> list[Node]:
        """Parse the Markdown; its headings become sections of the page."""
        self.env.note_dependency(str(MAKEFILE))
        return self.parse_text_to_nodes(type(self).generate(), allow_section_headings=True)


def add_types(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returned: str
) -> tuple[str, str] | None:
    """Return the signature of an API function with the types of the stub; None for other objects."""
    if what != "function" or not name.startswith("headstart."):
        return None
    return f"({', '.join(format_parameters(obj))})", returned


def convert_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape stars, such as that of the shape (n, *feature_shape), which are no emphasis, and link pages."""
    lines[:] = [PAGE_PATH.sub(r":doc:`/\1`", line.replace("*", r"\*")) for line in lines]


GENERATED: dict[str, Callable[[], str]] = {
    "commands": format_commands,
    "common-options": format_common_options,
    "exit-statuses": format_exit_statuses,
    "make-targets": lambda: format_targets(MAKEFILE.read_text(encoding="utf-8")),
    "make-variables": lambda: format_variables(MAKEFILE.read_text(encoding="utf-8")),
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives, and the types of the signatures."""
    for name, generate in GENERATED.items():
        app.add_directive(name, type("Generated", (_Generated,), {"generate": staticmethod(generate)}))
    app.connect("autodoc-process-signature", add_types)
    # Before napoleon, which writes stars of its own.
    app.connect("autodoc-process-docstring", convert_docstring, priority=400)
    return {"parallel_read_safe": True}
