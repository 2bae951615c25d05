"""Environment of the model card's templates: all text is escaped for Markdown unless a filter returns `Markdown`."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from base.terminal import make_printable
from train_head.evaluation.uncertainty import NUMBER_FILTERS

if TYPE_CHECKING:
    from jinja2 import Environment

_SPECIAL = re.compile(r"([\\`*_\[\]<>|&~$])")


class Markdown(str):
    """Text that is Markdown already."""


def escape_markdown(text: str) -> Markdown:
    """Escape text so that Markdown and HTML show it as it is, on one line; also inside a table."""
    return Markdown(_SPECIAL.sub(r"\\\1", make_printable(text)))


def quote_yaml(text: str) -> Markdown:
    """Quote text as a scalar of YAML 1.1 and 1.2, which accept strings of JSON."""
    # JSON would escape an emoji as two surrogates, which YAML does not join.
    return Markdown(json.dumps(make_printable(text), ensure_ascii=False))


def format_code(text: str) -> Markdown:
    """Format text as code within a line, also if it contains backticks."""
    shown = make_printable(text)
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    padding = " " if shown.startswith("`") or shown.endswith("`") else ""
    # A vertical bar would end the cell of a table, even inside code.
    return Markdown(f"{fence}{padding}{shown}{padding}{fence}".replace("|", "\\|"))


def format_table(rows: Iterable[Sequence[str]]) -> Markdown:
    """Format a table whose first row is its header; cells that are not `Markdown` are escaped."""
    lines: list[str] = []
    for row in rows:
        cells = [cell if isinstance(cell, Markdown) else escape_markdown(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
        if len(lines) == 1:
            lines.append("|" + "---|" * len(cells))
    return Markdown("\n".join(lines))


@functools.cache
def make_environment() -> Environment:
    """Make the environment, whose templates are compiled once in a process; a missing value is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: escape_markdown(value) if type(value) is str else value,
    )
    environment.filters.update(
        NUMBER_FILTERS,
        code=format_code,
        plain=Markdown,
        table=format_table,
        yaml=quote_yaml,
    )
    return environment
