"""Output in a notebook: tables and progress as HTML.

`base.terminal.is_notebook` finds out whether this process is one. IPython is not a dependency.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from html import escape
from typing import Any

from base.terminal import make_printable

NUM_ROWS = 20
"""Largest number of rows that the table of an object with many of them shows."""
_TEXT = "text-align: left; overflow-wrap: break-word"


def render_table(title: str, rows: Sequence[Sequence[object]], header: Sequence[str] = (), more: int = 0) -> str:
    """Return a table as HTML, with row names in the first column.

    Args:
        title: caption; empty for none.
        rows: cells of each row.
        header: names of the columns.
        more: number of rows that are left out; a last line gives it.
    """
    num_columns = max(map(len, [*rows, header]), default=1)
    names = "".join(f'<th scope="col" style="{_TEXT}">{_escape(name)}</th>' for name in header)
    lines = [f"<thead><tr>{names}</tr></thead>"] if header else []
    lines += ["".join(["<tr>", *map(_render_cell, range(len(row)), row), "</tr>"]) for row in rows]
    lines += [f'<tr><td colspan="{num_columns}" style="{_TEXT}">and {more:,} more</td></tr>'] * (more > 0)
    caption = f'<caption style="{_TEXT}; caption-side: top">{_escape(title)}</caption>' if title else ""
    # A table that is wider than a phone is scrolled on its own.
    return f'<div style="overflow-x: auto"><table>{caption}{"".join(lines)}</table></div>'


def render_progress(description: str, num_done: int, total: int, text: str) -> str:
    """Return a progress bar as HTML: the description, the bar, and a text with the amounts."""
    label = _escape(description)
    bar = f'<progress aria-label="{label}" value="{num_done}" max="{total}" style="flex: 0 1 16em"></progress>'
    style = "display: flex; flex-wrap: wrap; align-items: center; gap: 0 0.6em"
    return f'<div style="{style}"><span>{label}</span>{bar}<span>{_escape(text)}</span></div>'


class Display:
    """Output of a notebook's cell that can be replaced."""

    def __init__(self) -> None:
        """Create an output that shows nothing yet."""
        self._handle: Any = None

    def show(self, html: str, text: str) -> None:
        """Show HTML, or the text where HTML cannot be shown, in the place of what was shown before."""
        content = {"text/html": html, "text/plain": text}
        if self._handle is None:
            display: Any = importlib.import_module("IPython.display")
            self._handle = display.display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def _render_cell(column: int, cell: object) -> str:
    start, end = ('<th scope="row"', "</th>") if column == 0 else ("<td", "</td>")
    return f'{start} style="{_TEXT}">{_escape(cell)}{end}'


def _escape(value: object) -> str:
    return escape(make_printable(str(value)))
