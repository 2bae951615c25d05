"""Sphinx extension: pages of the commands, of make and of the API, generated from the declarations that the help uses.

The directives `commands`, `make-targets` and `make-variables` add their content to a page. Signatures of the API get
the types of the stub `headstart/__init__.pyi`.
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
from typer.models import ArgumentInfo

from base.commands import COMMANDS, import_config, import_function, list_configs
from base.options import OptionSpec, list_options
from base.terminal import ConsoleOptions
from base.urls import UrlPath
from headstart.stub import format_parameters

MAKEFILE = Path(__file__).parents[2] / "Makefile"
PAGE_PATH = re.compile(r"\bdocs/([\w/-]+)\.md\b")


def format_commands() -> str:
    """Return the Markdown of all commands: a section for each, with its options by topic."""
    return "\n".join(format_command(name, import_config(place)) for name, place in list_configs())


def format_command(name: str, config: type) -> str:
    """Return the Markdown of one command, such as `features check`."""
    text = inspect.cleandoc(import_function(name).__doc__ or "").split("\n\n")[0]
    first, *subcommand = name.split()
    module = " ".join(["python -m", COMMANDS[first].runnable, *subcommand])
    lines = [f"## headstart {name}", "", text, "", f"Module: `{module}`", "", f":::{{program}} headstart {name}", ":::"]
    topics: dict[str, list[str]] = {}
    for option in list_options(config):
        info = read_declaration(config, option.name)
        topics.setdefault(getattr(info, "rich_help_panel", None) or "", []).append(format_option(option, info))
    for topic, options in topics.items():
        lines += ["", *([f"**{topic}**", ""] if topic else []), *options]
    return "\n".join(lines) + "\n"


def format_common_options() -> str:
    """Return the Markdown of the options that every command has."""
    found = [
        format_option(option, read_declaration(ConsoleOptions, option.name)) for option in list_options(ConsoleOptions)
    ]
    return "\n".join([":::{program} headstart", ":::", "", *found])


def read_declaration(config: type, name: str) -> Any:
    """Return the `typer.Option` or `typer.Argument` of an option; None without one."""
    hint = get_type_hints(config, include_extras=True)[name]
    return hint.__metadata__[0] if hasattr(hint, "__metadata__") else None


def format_option(option: OptionSpec, info: Any) -> str:
    """Return the Markdown of one option: its names, its placeholder, its help, and its valid and default values."""
    # typer keeps the first of several names as the default.
    declared = [getattr(info, "default", None), *(getattr(info, "param_decls", None) or [])]
    names = [name for name in declared if isinstance(name, str)] or [f"--{option.name.replace('_', '-')}"]
    value = describe_value(option)
    signature = value if isinstance(info, ArgumentInfo) else ", ".join(f"{name} {value}".strip() for name in names)
    facts = describe_facts(option)
    return "\n".join([f":::{{option}} {signature}", " ".join([link_pages(option.help), *facts]), ":::", ""])


def describe_value(option: OptionSpec) -> str:
    """Return the placeholder of an option's value; empty for a switch."""
    if option.kind is bool:
        return ""
    kind = get_args(option.kind)[0] if get_origin(option.kind) is list else option.kind
    if inspect.isclass(kind) and issubclass(kind, StrEnum):
        return "|".join(kind)
    names = {int: "INTEGER", float: "NUMBER", Path: "PATH", UrlPath: "PATH|URL"}
    return option.metavar or names.get(kind, "TEXT")


def describe_facts(option: OptionSpec) -> list[str]:
    """Describe whether an option is required, its valid values, and its default."""
    facts = []
    if option.default is MISSING:
        facts.append("Required.")
    if option.lowest is not None and option.highest is not None:
        facts.append(f"From {option.lowest} to {option.highest}.")
    elif option.lowest is not None:
        facts.append(f"At least {option.lowest}.")
    if option.default not in (MISSING, None, "", False) and option.kind is not bool:
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
    lines = [line.removeprefix("#").removeprefix("   ") for line in comment.splitlines()[2:]]
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
